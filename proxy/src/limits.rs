//! Charges an allowed request to the limits that its decision names.
//!
//! `local` limits are counted here (GCRA), `mesh` ones by policyd in one call: all of them or none. The local
//! ones come first, so a request that policyd's limits refuse has been charged to the local ones: they may
//! admit a little less than their rate, never more.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use model::{Fact, Facts, FailMode, Limit, Operand, Scope};
use tokio::time::Instant;

use crate::policy_client::{Charge, Policyd, Taken};

/// The most keys that one local limit keeps apart. When full, those least worth keeping start afresh: whoever
/// can make up keys at will has a fresh allowance with each anyway.
const KEYS_MAX: usize = 100_000;
/// How long policyd may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// The limits in force.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    by_name: HashMap<String, Counted>,
}

#[derive(Clone, Debug)]
struct Counted {
    limit: Arc<Limit>,
    /// For local limits.
    keys: Option<Arc<Keys>>,
}

type Keys = quick_cache::sync::Cache<String, Arc<Allowance>>;
type Allowance = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, StateInformationMiddleware>;

/// A limit can't be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit `{name}` has too large a burst for its window")]
pub(crate) struct LimitError {
    name: String,
}

/// What came of charging a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Within all limits: their states, the tightest first.
    Allowed(Vec<Balance>),
    /// Over a limit: the state of that one.
    Limited(Balance),
    /// A limit could not be asked, and its fail mode is closed.
    Unavailable {
        /// The limit.
        limit: String,
        /// Why.
        why: String,
    },
}

/// The state of one limit for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    /// The limit.
    pub limit: Arc<Limit>,
    /// How many more would be allowed now.
    pub remaining: u32,
    /// Until one more is allowed; zero when one is.
    pub retry_after: Duration,
    /// Until the whole burst is back.
    pub reset: Duration,
}

impl Limits {
    /// The limits of a new configuration. Local ones that did not change keep what they have counted.
    pub(crate) fn after(previous: &Self, limits: &[Limit]) -> Result<Self, LimitError> {
        let counted = |limit: &Limit| {
            if let Some(same) = previous.by_name.get(&limit.name).filter(|old| *old.limit == *limit) {
                return Ok((limit.name.clone(), same.clone()));
            }
            // Asked here, so that charging can't fail for it.
            quota(limit).ok_or_else(|| LimitError { name: limit.name.clone() })?;
            let keys = (limit.scope == Scope::Local).then(|| Arc::new(Keys::new(KEYS_MAX)));
            Ok((limit.name.clone(), Counted { limit: Arc::new(limit.clone()), keys }))
        };
        Ok(Self { by_name: limits.iter().map(counted).collect::<Result<_, _>>()? })
    }

    /// Whether all of `names` are known.
    pub(crate) fn know(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.by_name.contains_key(name))
    }

    /// Charges a request to the limits called `names`.
    pub(crate) async fn charge(
        &self,
        names: &[String],
        facts: &impl Facts,
        policyd: &dyn Policyd,
    ) -> Outcome {
        let mut balances = Vec::new();
        let mut mesh = Vec::new();
        for name in names {
            let Some(counted) = self.by_name.get(name) else {
                return Outcome::Unavailable {
                    limit: name.clone(),
                    why: "policyd has not sent it yet".to_owned(),
                };
            };
            let key = key(&counted.limit.key, facts);
            match &counted.keys {
                Some(keys) => match charge_local(&counted.limit, keys, &key) {
                    Ok(balance) => balances.push(balance),
                    Err(over) => return Outcome::Limited(over),
                },
                None => mesh.push((&counted.limit, key)),
            }
        }
        match charge_mesh(mesh, facts.resource(), policyd).await {
            Outcome::Allowed(of_mesh) => {
                balances.extend(of_mesh);
                balances.sort_by_key(|balance| balance.remaining);
                Outcome::Allowed(balances)
            }
            refused => refused,
        }
    }
}

fn charge_local(limit: &Arc<Limit>, keys: &Keys, key: &str) -> Result<Balance, Balance> {
    let balance = |remaining, retry_after| Balance {
        limit: Arc::clone(limit),
        remaining,
        retry_after,
        reset: limit.rate.interval().saturating_mul(limit.burst.get().saturating_sub(remaining)),
    };
    let made = keys.get_or_insert_with(key, || quota(limit).map(new_allowance).ok_or(()));
    // `Limits::after` has refused limits without a quota.
    let Ok(allowance) = made else { return Err(balance(0, limit.rate.window)) };
    match allowance.check() {
        Ok(state) => Ok(balance(state.remaining_burst_capacity(), Duration::ZERO)),
        Err(not_until) => Err(balance(0, not_until.wait_time_from(allowance.clock().now()))),
    }
}

async fn charge_mesh(charged: Vec<(&Arc<Limit>, String)>, service: &str, policyd: &dyn Policyd) -> Outcome {
    if charged.is_empty() {
        return Outcome::Allowed(Vec::new());
    }
    let charges =
        charged.iter().map(|(limit, key)| Charge { limit: limit.name.clone(), key: key.clone() }).collect();
    let why = match tokio::time::timeout(DEADLINE, policyd.take(service, charges)).await {
        Ok(Ok(taken)) if taken.balances.len() == charged.len() => return outcome(&charged, taken),
        Ok(Ok(_)) => "policyd did not answer for each limit".to_owned(),
        Ok(Err(unavailable)) => unavailable.0,
        Err(_) => format!("policyd did not answer within {DEADLINE:?}"),
    };
    match charged.iter().find(|(limit, _)| limit.fail_mode == FailMode::Closed) {
        Some((limit, _)) => Outcome::Unavailable { limit: limit.name.clone(), why },
        None => Outcome::Allowed(Vec::new()),
    }
}

fn outcome(charged: &[(&Arc<Limit>, String)], taken: Taken) -> Outcome {
    let mut balances: Vec<Balance> = charged
        .iter()
        .zip(taken.balances)
        .map(|((limit, _), state)| Balance {
            limit: Arc::clone(limit),
            remaining: state.remaining,
            retry_after: state.retry_after,
            reset: state.reset,
        })
        .collect();
    if taken.allowed {
        return Outcome::Allowed(balances);
    }
    // The one that keeps the caller waiting longest is the one to name.
    balances.sort_by_key(|balance| std::cmp::Reverse(balance.retry_after));
    match balances.into_iter().next() {
        Some(over) => Outcome::Limited(over),
        None => Outcome::Allowed(Vec::new()),
    }
}

/// The text that tells callers apart. Typed and length-prefixed: no two different lists of values share one,
/// and a missing value is not an empty one.
fn key(operands: &[Operand], facts: &impl Facts) -> String {
    let mut key = String::with_capacity(64);
    for operand in operands {
        match operand {
            Operand::Principal => push(&Fact::Text(facts.principal().as_str()), &mut key),
            Operand::Context(name) => match facts.fact(name, &mut String::new()) {
                Some(fact) => push(&fact, &mut key),
                None => key.push('-'),
            },
            operand => match operand.read(facts, None) {
                Some(value) => push(&value.as_fact(), &mut key),
                None => key.push('-'),
            },
        }
    }
    key
}

fn push(fact: &Fact<'_>, key: &mut String) {
    let tag = match fact {
        Fact::Bool(_) => 'b',
        Fact::Long(_) => 'l',
        Fact::Text(_) => 's',
        Fact::Ip(_) => 'i',
        Fact::Range(_) => 'r',
        Fact::Time(_) => 't',
        Fact::Duration(_) => 'd',
        Fact::Decimal(_) => 'n',
        Fact::Texts(_) => 'e',
    };
    key.push(tag);
    // Into memory, which takes everything.
    let _written = match fact {
        Fact::Text(text) => write!(key, "{}:{text}", text.len()),
        fact => {
            let text = fact.to_string();
            write!(key, "{}:{text}", text.len())
        }
    };
}

fn quota(limit: &Limit) -> Option<Quota> {
    // governor counts in 64 bits of nanoseconds, of which a burst must not take more than a part.
    let interval = limit.rate.interval().max(Duration::from_nanos(1));
    let burst = u64::try_from(interval.as_nanos()).ok()?.checked_mul(limit.burst.get().into())?;
    (burst < u64::MAX / 4).then(|| Quota::with_period(interval))?.map(|quota| quota.allow_burst(limit.burst))
}

fn new_allowance(quota: Quota) -> Arc<Allowance> {
    Arc::new(RateLimiter::direct_with_clock(quota, RuntimeClock::default()).with_middleware())
}

/// The runtime's time, which no wall clock moves and tests can pause.
#[derive(Clone, Copy, Debug)]
struct RuntimeClock {
    start: Instant,
}

impl Default for RuntimeClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl GovernorClock for RuntimeClock {
    type Instant = Duration;
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests;
