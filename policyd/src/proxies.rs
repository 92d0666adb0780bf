//! Which proxy runs what: for operators, and for the time that a change takes to reach the last proxy.
//!
//! A proxy is in step with a snapshot once it has acknowledged all that it has to be told of it; a change that
//! does not concern it asks nothing of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daemon::Clock;
use jiff::Timestamp;
use model::Revision;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// The most changes whose way is followed at once; of more, the oldest are given up.
const ROLLOUTS_MAX: usize = 100;

/// The proxies that watch.
#[derive(Debug)]
pub struct Proxies {
    clock: Clock,
    metrics: Arc<Metrics>,
    watching: Mutex<Watching>,
    /// Told whenever a proxy gets in step.
    stepped: Notify,
    /// When a change reached the last proxy that it concerns.
    rolled_out: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Watching {
    /// The newest snapshot.
    published: Revision,
    last_id: u64,
    /// By the order in which they came.
    proxies: BTreeMap<u64, Entry>,
    rollouts: VecDeque<Rollout>,
}

#[derive(Debug)]
struct Entry {
    row: Proxy,
    /// The newest snapshot that it is in step with; 0 for none.
    in_step: u64,
    /// No rollout of this number or below waits for it.
    counted: u64,
}

/// A change on its way.
#[derive(Debug)]
struct Rollout {
    number: u64,
    published_at: Instant,
    /// How many proxies are not in step yet.
    waiting: usize,
    last_acknowledged: Option<Instant>,
}

/// All proxies, as `/proxies` shows them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The revision in force.
    pub revision: String,
    /// The proxies that watch, in the order in which they came.
    pub proxies: Vec<Proxy>,
}

/// One proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proxy {
    /// Its name for itself.
    pub instance: String,
    /// Its SPIFFE ID.
    pub peer: String,
    /// The services that it enforces for.
    pub services: Vec<String>,
    /// How it stands.
    pub state: State,
    /// The revision of the configuration that it runs, if it has acknowledged one.
    pub revision: Option<String>,
    /// When it acknowledged that.
    pub since: Option<Timestamp>,
    /// When it came.
    pub connected: Timestamp,
    /// When it last said anything.
    pub heard: Timestamp,
    /// Why it refused the newest configuration, if it did.
    pub error: Option<String>,
}

/// How a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs what it should.
    Current,
    /// It has not yet acknowledged what it was sent, or has yet to be sent.
    Behind,
    /// It could not apply the newest configuration, and runs the one before.
    Refused,
}

impl State {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Current, Self::Behind, Self::Refused];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Refused => "refused",
        }
    }
}

/// One proxy's place among all; it is given up when this is dropped.
#[derive(Debug)]
pub struct Place {
    id: u64,
    proxies: Arc<Proxies>,
}

impl Proxies {
    /// None yet.
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self {
            clock,
            metrics,
            watching: Mutex::default(),
            stepped: Notify::new(),
            rolled_out: watch::Sender::default(),
        }
    }

    /// A snapshot is about to be published.
    pub fn publishing(&self, revision: Revision) {
        let mut watching = self.watching();
        watching.published = revision;
        let waiting = watching.proxies.len();
        if waiting == 0 {
            return;
        }
        if watching.rollouts.len() == ROLLOUTS_MAX {
            watching.rollouts.pop_front();
        }
        let (number, published_at) = (revision.number, Instant::now());
        watching.rollouts.push_back(Rollout { number, published_at, waiting, last_acknowledged: None });
    }

    /// A proxy has come.
    pub fn place(self: &Arc<Self>, instance: String, peer: String, services: Vec<String>) -> Place {
        let now = self.clock.now();
        let mut watching = self.watching();
        watching.last_id += 1;
        let id = watching.last_id;
        let row = Proxy {
            instance,
            peer,
            services,
            state: State::Behind,
            revision: None,
            since: None,
            connected: now,
            heard: now,
            error: None,
        };
        let counted = watching.published.number;
        watching.proxies.insert(id, Entry { row, in_step: 0, counted });
        Place { id, proxies: Arc::clone(self) }
    }

    /// Every proxy.
    pub fn list(&self) -> Listing {
        let watching = self.watching();
        let published = watching.published;
        let row = |entry: &Entry| Proxy { state: entry.state(published.number), ..entry.row.clone() };
        Listing { revision: published.to_string(), proxies: watching.proxies.values().map(row).collect() }
    }

    /// How many proxies stand how. O(proxies).
    pub fn count(&self) -> [(State, usize); 3] {
        let watching = self.watching();
        let number = watching.published.number;
        State::ALL.map(|state| {
            let count = watching.proxies.values().filter(|entry| entry.state(number) == state).count();
            (state, count)
        })
    }

    /// When the last change that concerned anybody reached the last proxy, and every later one.
    pub fn rolled_out(&self) -> watch::Receiver<Option<Instant>> {
        self.rolled_out.subscribe()
    }

    /// Resolves once all `instances` watch and are in step with `revision` or a later one.
    pub async fn until_in_step(&self, instances: &[String], revision: Revision) {
        loop {
            let mut stepped = std::pin::pin!(self.stepped.notified());
            // Before looking, so that no step falls in between.
            stepped.as_mut().enable();
            let in_step = |instance: &String| {
                let watching = self.watching();
                let mut entries = watching.proxies.values();
                entries.any(|entry| entry.row.instance == *instance && entry.in_step >= revision.number)
            };
            if instances.iter().all(in_step) {
                return;
            }
            stepped.await;
        }
    }

    fn count_off(&self, id: u64, number: u64, acknowledged: Option<Instant>) {
        let out = self.watching().count_off(id, number, acknowledged);
        // A change that concerned nobody who watched was on nobody's way.
        for (rollout, at) in out.iter().filter_map(|rollout| Some((rollout, rollout.last_acknowledged?))) {
            self.metrics.rolled_out(at.duration_since(rollout.published_at));
            self.rolled_out.send_replace(Some(at));
        }
    }

    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    const fn state(&self, published: u64) -> State {
        match self.row.error {
            Some(_) => State::Refused,
            None if self.in_step >= published => State::Current,
            None => State::Behind,
        }
    }
}

impl Place {
    /// The proxy has acknowledged the configuration of `revision`, and is in step with the snapshot `in_step` if
    /// that was all it was sent.
    pub fn acknowledged(&self, revision: Revision, in_step: Option<Revision>) {
        let now = self.proxies.clock.now();
        self.change(|entry| {
            entry.row.revision = Some(revision.to_string());
            (entry.row.since, entry.row.heard, entry.row.error) = (Some(now), now, None);
        });
        if let Some(in_step) = in_step {
            self.step(in_step, true);
        }
    }

    /// The proxy has all that concerns it of the snapshot of `revision`.
    pub fn in_step(&self, revision: Revision) {
        self.step(revision, false);
    }

    /// The proxy has refused the newest configuration. No rollout up to `revision` waits for it any longer.
    pub fn refused(&self, revision: Revision, error: String) {
        let now = self.proxies.clock.now();
        self.change(|entry| (entry.row.heard, entry.row.error) = (now, Some(error)));
        self.proxies.count_off(self.id, revision.number, None);
    }

    /// The proxy said something.
    pub fn heard(&self) {
        let now = self.proxies.clock.now();
        self.change(|entry| entry.row.heard = now);
    }

    fn step(&self, revision: Revision, acknowledged: bool) {
        self.change(|entry| entry.in_step = entry.in_step.max(revision.number));
        let at = acknowledged.then(Instant::now);
        self.proxies.count_off(self.id, revision.number, at);
        self.proxies.stepped.notify_waiters();
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.proxies.watching().proxies.get_mut(&self.id) {
            change(entry);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.proxies.count_off(self.id, u64::MAX, None);
        self.proxies.watching().proxies.remove(&self.id);
    }
}

impl Watching {
    /// Counts a proxy off the rollouts up to `number`. Returns those that wait for nobody any longer. O(rollouts).
    fn count_off(&mut self, id: u64, number: u64, acknowledged: Option<Instant>) -> VecDeque<Rollout> {
        let Some(entry) = self.proxies.get_mut(&id) else { return VecDeque::new() };
        for rollout in &mut self.rollouts {
            if entry.counted < rollout.number && rollout.number <= number {
                rollout.waiting = rollout.waiting.saturating_sub(1);
                rollout.last_acknowledged = acknowledged.or(rollout.last_acknowledged);
            }
        }
        entry.counted = entry.counted.max(number);
        let (out, under_way) =
            std::mem::take(&mut self.rollouts).into_iter().partition(|rollout| rollout.waiting == 0);
        self.rollouts = under_way;
        out
    }
}

#[cfg(test)]
mod tests;
