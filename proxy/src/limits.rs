//! Charges an allowed request to the limits that its decision names: to all of them, or, if one refuses it, to none.
//!
//! `local` limits are counted here. Of `leased` ones this proxy has borrowed a part from policyd, which it spends
//! by itself; about `exact` ones policyd is asked, in one call, and then about the leased ones of the same request
//! as well. What may wait comes first and what can't fail any more comes last: local limits are looked at, then
//! leased ones are spent or policyd is asked, and local ones are spent. Whatever refuses meanwhile, what was spent
//! of leases is put back.

mod exact;
mod leases;
mod local;
mod usage;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use limits::Nanos;
use limits::key;
use limits::meter::MeterError;
use model::limit::Cost;
use model::{Fact, Facts, Limit, Mode, Name, OnStoreFailure, Value};
use tokio::time::Instant;

use self::leases::Leases;
use self::local::Local;
pub(crate) use self::usage::Usage;
use crate::policy_client::Policyd;

/// How long policyd may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// The limits in force.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    by_name: HashMap<String, Arc<Counted>>,
    clock: Arc<OnceLock<Anchor>>,
}

/// A time that no one sets, as nanoseconds since 1970: the wall clock's when the first request was charged, and
/// what the runtime's clock says has passed since.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    wall: Nanos,
    at: Instant,
}

/// A limit in force.
#[derive(Debug)]
pub(crate) struct Counted {
    limit: Arc<Limit>,
    counting: Counting,
    /// How many there are who share it,
    parts: NonZeroU64,
    /// and what this proxy admits by itself while policyd can't be asked.
    share: Option<Local>,
}

#[derive(Clone, Debug)]
enum Counting {
    Local(Local),
    Leased(Arc<Leases>),
    Exact,
}

/// A limit can't be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit `{name}` can't be counted: {why}")]
pub(crate) struct LimitError {
    name: String,
    why: MeterError,
}

/// What came of charging a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Within all limits.
    Allowed(Permit),
    /// Over a limit: the state of that one.
    Limited(Balance),
    /// A limit could not be asked, and such requests are refused.
    Unavailable {
        /// The limit.
        limit: String,
        /// Why.
        why: String,
    },
}

/// A request within all limits.
#[derive(Debug, Default)]
pub(crate) struct Permit {
    /// The states of the limits, the tightest first.
    pub balances: Vec<Balance>,
    /// What it goes on using until it has ended.
    pub usages: Vec<Usage>,
    /// The limits that are only tried, and would have refused it.
    pub would_limit: Vec<Arc<Counted>>,
}

/// The state of one limit for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    /// The limit.
    pub limit: Arc<Limit>,
    /// How much more would be allowed now.
    pub remaining: u64,
    /// Until as much as the request uses is allowed; zero when it is.
    pub retry_after: Duration,
    /// Until the whole allowance is back.
    pub reset: Duration,
}

/// One limit that a request is charged to.
#[derive(Debug)]
struct Charge {
    counted: Arc<Counted>,
    key: String,
    amount: u64,
}

/// Why a request is refused.
enum Refused {
    Over(Balance),
    Failed(String, String),
}

impl Limits {
    /// The limits of a new configuration. What was counted stays counted, as far as the new limits can tell. There are
    /// `instances` of the service whose limits these are.
    pub(crate) fn after(previous: &Self, limits: &[Limit], instances: usize) -> Result<Self, LimitError> {
        let now = previous.clock.get().map_or(0, |anchor| anchor.now());
        let parts = NonZeroU64::new(instances as u64).unwrap_or(NonZeroU64::MIN);
        let counted = |limit: &Limit| {
            let counted = match previous.by_name.get(&limit.name) {
                Some(same) if *same.limit == *limit && same.parts == parts => {
                    return Ok((limit.name.clone(), Arc::clone(same)));
                }
                before => Counted::after(before.map(Arc::as_ref), limit, parts, now),
            };
            let counted = counted.map_err(|why| LimitError { name: limit.name.clone(), why })?;
            Ok((limit.name.clone(), Arc::new(counted)))
        };
        let by_name = limits.iter().map(counted).collect::<Result<_, _>>()?;
        Ok(Self { by_name, clock: Arc::clone(&previous.clock) })
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
        policyd: &Arc<dyn Policyd>,
    ) -> Outcome {
        let mut charges = Vec::with_capacity(names.len());
        for name in names {
            let Some(counted) = self.by_name.get(name) else {
                return Outcome::Unavailable {
                    limit: name.clone(),
                    why: "policyd has not sent it yet".to_owned(),
                };
            };
            charges.push(Charge::new(counted, facts));
        }
        let clock = *self.clock.get_or_init(|| Anchor::new(facts));
        let mut spent = Vec::new();
        let mut permit = Permit::default();
        match charge_all(&charges, &mut spent, &mut permit, facts.resource(), clock, policyd).await {
            Ok(()) => {
                permit.balances.sort_by_key(|balance| balance.remaining);
                Outcome::Allowed(permit)
            }
            Err(refused) => {
                for charge in spent {
                    if let Counting::Leased(leases) = &charge.counted.counting {
                        leases.put_back(&charge.key, charge.amount, clock.now());
                    }
                }
                match refused {
                    Refused::Over(balance) => Outcome::Limited(balance),
                    Refused::Failed(limit, why) => Outcome::Unavailable { limit, why },
                }
            }
        }
    }
}

async fn charge_all<'c>(
    charges: &'c [Charge],
    spent: &mut Vec<&'c Charge>,
    permit: &mut Permit,
    service: &str,
    clock: Anchor,
    policyd: &Arc<dyn Policyd>,
) -> Result<(), Refused> {
    let local = || charges.iter().filter_map(|charge| Some((charge, charge.counted.local()?)));
    for (charge, counted) in local() {
        let balance = counted.look(&charge.key, charge.amount, clock.now());
        if !balance.retry_after.is_zero() {
            charge.over(charge.balance(balance), permit)?;
        }
    }
    let asks = charges.iter().any(|charge| matches!(charge.counted.counting, Counting::Exact));
    for charge in charges.iter().filter(|_| !asks) {
        let Counting::Leased(leases) = &charge.counted.counting else { continue };
        match leases.spend(&charge.key, charge.amount, service, clock, policyd).await {
            Ok(balance) => {
                spent.push(charge);
                permit.balances.push(charge.balance(balance));
            }
            Err(leases::NotSpent::Over(balance)) => charge.over(charge.balance(balance), permit)?,
            Err(leases::NotSpent::Failed(why)) => charge.without_policyd(why, permit, clock.now())?,
        }
    }
    if asks {
        exact::take(charges, permit, service, clock, policyd).await?;
    }
    for (charge, counted) in local() {
        if permit.would_limit.iter().any(|tried| Arc::ptr_eq(tried, &charge.counted)) {
            continue;
        }
        match counted.take(
            &charge.key,
            charge.amount,
            charge.counted.limit.cost.is_known_after(),
            clock.now(),
        ) {
            Ok(balance) => {
                permit.balances.push(charge.balance(balance));
                permit.usages.extend(Usage::of(charge, clock));
            }
            Err(balance) => charge.over(charge.balance(balance), permit)?,
        }
    }
    Ok(())
}

impl Counted {
    fn after(
        before: Option<&Self>,
        limit: &Limit,
        parts: NonZeroU64,
        now: Nanos,
    ) -> Result<Self, MeterError> {
        let limit = Arc::new(limit.clone());
        let counting = match limit.mode {
            Mode::Local => match before.map(|before| &before.counting) {
                Some(Counting::Local(old)) => Counting::Local(old.adopt(&limit, now)?),
                _ => Counting::Local(Local::new(&limit)?),
            },
            Mode::Leased if before.is_some_and(|before| *before.limit == *limit) => before.map_or_else(
                || Counting::Leased(Arc::new(Leases::new(&limit))),
                |before| before.counting.clone(),
            ),
            // What was lent by the limit as it was is not spent any more.
            Mode::Leased => Counting::Leased(Arc::new(Leases::new(&limit))),
            Mode::Exact => Counting::Exact,
        };
        let shares = limit.on_store_failure == OnStoreFailure::SafeShare && limit.mode != Mode::Local;
        let share = || {
            let overrides = limit.overrides.iter();
            Local::new(&Arc::new(Limit {
                allowance: limit.allowance.share(parts),
                overrides: overrides.map(|(key, other)| (key.clone(), other.share(parts))).collect(),
                ..Limit::clone(&limit)
            }))
        };
        Ok(Self { counting, parts, share: shares.then(share).transpose()?, limit })
    }

    /// The limit.
    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    fn local(&self) -> Option<&Local> {
        match &self.counting {
            Counting::Local(local) => Some(local),
            Counting::Leased(_) | Counting::Exact => None,
        }
    }
}

impl Charge {
    fn new(counted: &Arc<Counted>, facts: &impl Facts) -> Self {
        let mut text = String::with_capacity(64);
        key::write(&counted.limit.key, facts, &mut text);
        let amount = match &counted.limit.cost {
            Cost::Fixed(amount) => *amount,
            Cost::Attribute(operand) => count(operand.read(facts, None)),
            Cost::RequestBytes | Cost::ResponseBytes | Cost::Bytes => 1,
        };
        Self { counted: Arc::clone(counted), key: text, amount }
    }

    fn balance(&self, balance: limits::Balance) -> Balance {
        let limits::Balance { remaining, retry_after, reset } = balance;
        Balance { limit: Arc::clone(&self.counted.limit), remaining, retry_after, reset }
    }

    /// It is over the limit: refused, unless the limit is only tried.
    fn over(&self, balance: Balance, permit: &mut Permit) -> Result<(), Refused> {
        if !self.counted.limit.shadow {
            return Err(Refused::Over(balance));
        }
        permit.would_limit.push(Arc::clone(&self.counted));
        Ok(())
    }

    /// policyd could not be asked.
    fn without_policyd(&self, why: String, permit: &mut Permit, now: Nanos) -> Result<(), Refused> {
        match (self.counted.limit.on_store_failure, &self.counted.share) {
            _ if self.counted.limit.shadow => Ok(()),
            (OnStoreFailure::Open, _) => Ok(()),
            (OnStoreFailure::SafeShare, Some(share)) => {
                match share.take(&self.key, self.amount, false, now) {
                    Ok(balance) => permit.balances.push(self.balance(balance)),
                    Err(balance) => return Err(Refused::Over(self.balance(balance))),
                }
                Ok(())
            }
            _ => Err(Refused::Failed(self.counted.limit.name.clone(), why)),
        }
    }
}

/// What an attribute says that a request uses. What is no count, or less than one, counts as one.
fn count(value: Option<Value>) -> u64 {
    let count = match value {
        Some(Value::Long(count)) => u64::try_from(count).ok(),
        Some(Value::Text(text)) => text.trim().parse().ok(),
        _ => None,
    };
    count.unwrap_or(1).clamp(1, model::limit::amount::COUNT_MAX)
}

impl Anchor {
    fn new(facts: &impl Facts) -> Self {
        let wall = match facts.fact(&Name::Time, &mut String::new()) {
            Some(Fact::Time(time)) => time.saturating_mul(1_000_000),
            _ => 0,
        };
        Self { wall, at: Instant::now() }
    }

    fn now(&self) -> Nanos {
        self.wall.saturating_add(Nanos::try_from(self.at.elapsed().as_nanos()).unwrap_or(Nanos::MAX))
    }
}

#[cfg(test)]
mod tests;
