//! Limits that this proxy counts by itself, for all its workers together.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use limits::meter::MeterError;
use limits::{Balance, Meter, Nanos, Page, State};
use model::Limit;

/// Into how many parts the keys are divided, each with a lock of its own: two workers hardly ever meet.
const SHARDS: usize = 32;
/// The most keys that one limit keeps apart. When full, those least worth keeping start afresh: whoever
/// can make up keys at will has a fresh allowance with each anyway.
const KEYS_MAX: usize = 200_000;

/// What the keys of one limit have used.
#[derive(Clone, Debug)]
pub(super) struct Local {
    shards: Arc<[Mutex<Page>]>,
    hasher: RandomState,
}

impl Local {
    pub(super) fn new(limit: &Arc<Limit>) -> Result<Self, MeterError> {
        let page = |_| Page::new(Arc::clone(limit), KEYS_MAX / SHARDS).map(Mutex::new);
        Ok(Self { shards: (0..SHARDS).map(page).collect::<Result<_, _>>()?, hasher: RandomState::new() })
    }

    /// The same counts under a limit that was changed.
    pub(super) fn adopt(&self, limit: &Arc<Limit>, now: Nanos) -> Result<Self, MeterError> {
        for shard in &*self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).adopt(limit, now)?;
        }
        Ok(Self { shards: Arc::clone(&self.shards), hasher: self.hasher.clone() })
    }

    /// How an allowance stands for one who wants `amount`; nothing is used.
    pub(super) fn look(&self, key: &str, amount: u64, now: Nanos) -> Balance {
        self.act(key, now, |meter, state| meter.balance(state, amount, now))
    }

    /// Uses `amount`, unless it is known only later: then nothing, while something is left.
    pub(super) fn take(&self, key: &str, amount: u64, later: bool, now: Nanos) -> Result<Balance, Balance> {
        self.act(key, now, |meter, state| {
            let taken =
                if later { meter.room(state, 0, now) >= amount } else { meter.take(state, amount, 0, now) };
            let balance = meter.balance(state, if taken { 0 } else { amount }, now);
            if taken { Ok(balance) } else { Err(balance) }
        })
    }

    /// Charges what was used.
    pub(super) fn charge(&self, key: &str, amount: u64, now: Nanos) {
        self.act(key, now, |meter, state| meter.charge(state, amount, now));
    }

    /// Gives back a place among those under way.
    pub(super) fn give_back(&self, key: &str, amount: u64, now: Nanos) {
        self.act(key, now, |meter, state| meter.give_back(state, amount, now, now));
    }

    fn act<T>(&self, key: &str, now: Nanos, act: impl Fn(&Meter, &mut State) -> T) -> T {
        let place = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "the remainder of a division by the length")]
        let mut page = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        let page = &mut *page;
        loop {
            match page.with(key, now, |meter| meter.unused(now), &act) {
                Ok(outcome) => return outcome,
                // There is room for one more now.
                Err(limits::Full) => page.drop_one(),
            }
        }
    }
}
