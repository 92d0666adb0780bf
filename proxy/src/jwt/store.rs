//! The keys of one issuer, as they are now: given by the bundle, or fetched and kept fresh by a task.
//!
//! Keys are replaced only by a set that was read as a whole and has a key to use. As long as none such comes, what was
//! there stays good: an issuer's server that is away, or answers nonsense, locks nobody out. A key that has left its
//! set is gone with the next fetch; while an issuer rotates its keys, both are in the set, and both are good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::config::{KeySource, TokenIssuer};
use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBuilder};
use daemon::{Clock, Lifecycle};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::fetch::{Fetched, Source};
use super::keys::KeySet;
use super::metrics::Metrics;

/// How long keys are used without asking again: what a server says of it counts within these limits.
const FRESH_MIN: Duration = Duration::from_secs(60);
const FRESH_MAX: Duration = Duration::from_secs(3600);
/// If it says nothing.
const FRESH_OTHERWISE: Duration = Duration::from_secs(600);
/// Between tries while none succeeds.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A token with an unknown key has keys fetched again, but not sooner after the last try. Anybody can send such tokens.
const ASKED_MIN: Duration = Duration::from_secs(10);
/// How long such a token's request waits for it.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What keeping keys fresh takes.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub source: Arc<dyn Source>,
    pub clock: Clock,
    pub lifecycle: Lifecycle,
    pub metrics: Metrics,
}

/// The keys of one issuer. Dropped, it has them fetched no longer.
#[derive(Debug)]
pub(super) struct Keys {
    state: Arc<State>,
    fetching: Option<AbortHandle>,
}

/// A key set, and its number: keys that are replaced have another.
#[derive(Debug)]
pub(super) struct Numbered {
    pub set: KeySet,
    pub number: u64,
    /// As it came.
    text: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    current: ArcSwapOption<Numbered>,
    tries: watch::Sender<Tries>,
    wanted: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    /// How many have ended.
    ended: u64,
    /// Whether one is under way.
    under_way: bool,
    /// When the next one may be asked for.
    allowed_at: Timestamp,
}

/// The numbers of key sets are those of no other: a set that comes back after another must not be taken for itself,
/// with what was verified by it.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Keys {
    /// The keys of `issuer`: at once if the bundle has them, else as soon as they have come.
    pub(super) fn of(issuer: &TokenIssuer, environment: &Environment) -> Self {
        let state = Arc::<State>::default();
        let fetching = match &issuer.keys {
            KeySource::Text(text) => {
                if let Err(error) = state.replace(text.as_bytes()) {
                    tracing::error!(issuer = issuer.name, error, "the bundle's keys can't be used");
                }
                None
            }
            KeySource::Url(url) => {
                state.tries.send_modify(|tries| tries.under_way = true);
                let fetcher = Fetcher {
                    issuer: issuer.name.clone(),
                    url: url.clone(),
                    state: Arc::clone(&state),
                    environment: environment.clone(),
                    trouble: None,
                };
                let lifecycle = environment.lifecycle.clone();
                let task = async move {
                    tokio::select! {
                        () = lifecycle.stopping() => {}
                        () = fetcher.keep_fresh() => {}
                    }
                };
                Some(environment.lifecycle.spawn(task).abort_handle())
            }
        };
        Self { state, fetching }
    }

    /// The keys now, if there are any yet.
    pub(super) fn now(&self) -> Option<Arc<Numbered>> {
        self.state.current.load_full()
    }

    /// Other keys than those with `number`, if they can be had within a moment.
    pub(super) async fn other_than(&self, number: Option<u64>, now: Timestamp) -> Option<Arc<Numbered>> {
        let other = || self.now().filter(|keys| Some(keys.number) != number);
        self.fetching.as_ref()?;
        let mut tries = self.state.tries.subscribe();
        let before = *tries.borrow_and_update();
        if other().is_some() {
            return other();
        }
        if !before.under_way {
            if now < before.allowed_at {
                return None;
            }
            self.state.wanted.notify_one();
        }
        let ended = tries.wait_for(|tries| tries.ended > before.ended);
        // A timeout leaves nothing better than what there is.
        let _waited = tokio::time::timeout(WAIT_MAX, ended).await;
        other()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(fetching) = &self.fetching {
            fetching.abort();
        }
    }
}

impl State {
    /// Uses the keys in `text` from now on. What was there stays if they are the same, or can't be used.
    fn replace(&self, text: &[u8]) -> Result<Vec<String>, String> {
        if self.current.load().as_ref().is_some_and(|current| current.text == text) {
            return Ok(Vec::new());
        }
        let mut set = KeySet::parse(text).map_err(|error| error.to_string())?;
        let unusable = std::mem::take(&mut set.unusable);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        self.current.store(Some(Arc::new(Numbered { set, number, text: text.to_vec() })));
        Ok(unusable)
    }
}

/// Fetches the keys of one issuer, again and again.
struct Fetcher {
    issuer: String,
    url: String,
    state: Arc<State>,
    environment: Environment,
    /// What was told of last, so that it is told once.
    trouble: Option<String>,
}

impl Fetcher {
    async fn keep_fresh(mut self) {
        let backoff = ExponentialBuilder::new()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_jitter()
            .without_max_times();
        let mut delays = backoff.build();
        loop {
            self.state.tries.send_modify(|tries| tries.under_way = true);
            let pause = match self.fetch().await {
                Ok(max_age) => {
                    delays = backoff.build();
                    fresh_for(max_age)
                }
                Err(error) => {
                    self.failed(error);
                    delays.next().unwrap_or(RETRY_MAX)
                }
            };
            let now = self.environment.clock.now();
            let later = |pause| now.checked_add(pause).unwrap_or(Timestamp::MAX);
            let allowed_at = later(ASKED_MIN);
            self.state.tries.send_modify(|tries| {
                *tries = Tries { ended: tries.ended + 1, under_way: false, allowed_at };
            });
            self.rest(allowed_at, later(pause)).await;
        }
    }

    /// Waits until `next`, or until somebody asks for keys after `allowed_at`.
    async fn rest(&self, allowed_at: Timestamp, next: Timestamp) {
        let clock = &self.environment.clock;
        let asked = async {
            // Who asked before was told that it is of no use.
            loop {
                self.state.wanted.notified().await;
                if clock.now() >= allowed_at {
                    return;
                }
            }
        };
        tokio::select! {
            () = clock.sleep_until(next) => {}
            () = asked => {}
        }
    }

    async fn fetch(&mut self) -> Result<Option<Duration>, String> {
        let fetched = self.environment.source.fetch(&self.url).await;
        let Fetched { text, max_age } =
            fetched.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let unusable = self.state.replace(&text)?;
        for why in unusable {
            tracing::warn!(issuer = self.issuer, why, "a key of the issuer is left out");
        }
        self.environment.metrics.fetched(&self.issuer, self.environment.clock.now());
        if self.trouble.take().is_some() {
            tracing::info!(issuer = self.issuer, "the issuer's keys can be fetched again");
        }
        Ok(max_age)
    }

    fn failed(&mut self, error: String) {
        self.environment.metrics.fetch_failed(&self.issuer);
        if self.trouble.as_ref() != Some(&error) {
            let (issuer, url) = (&self.issuer, &self.url);
            if self.state.current.load().is_some() {
                tracing::warn!(
                    issuer,
                    url,
                    error,
                    "the issuer's keys can't be fetched; those of before stay"
                );
            } else {
                tracing::warn!(
                    issuer,
                    url,
                    error,
                    "the issuer's keys can't be fetched; its tokens are refused"
                );
            }
            self.trouble = Some(error);
        }
    }
}

/// When keys that may be used for `max_age` are fetched again: before that has passed.
fn fresh_for(max_age: Option<Duration>) -> Duration {
    let age = max_age.unwrap_or(FRESH_OTHERWISE).clamp(FRESH_MIN, FRESH_MAX);
    age / 5 * 4
}

#[cfg(test)]
mod tests;
