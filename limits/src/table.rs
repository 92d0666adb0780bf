//! The states of many keys: compact, and bounded.
//!
//! A key whose allowance is whole again is as good as one that was never seen, so it is dropped: when the table
//! has grown to twice of what was left the last time. That costs O(1) a key on average.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::Nanos;
use crate::meter::{Meter, State};

/// The fewest keys that idle ones are looked for among.
const SWEEP_MIN: usize = 1024;
/// How many keys are looked at to find one to drop.
const SAMPLE: usize = 8;
/// Idle keys are looked for no more often than this: it walks all keys, and whoever makes up keys must not have that
/// done with each.
const SWEEP_PAUSE: Nanos = 10_000_000;

/// The states of many keys of one limit.
#[derive(Debug)]
pub struct Table {
    keys: HashTable<(Box<str>, State)>,
    hasher: RandomState,
    key_bytes: usize,
    sweep_at: usize,
    swept_at: Nanos,
    most: usize,
}

/// There is no room for another key. Never an allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many keys of limits are in use")]
pub struct Full;

impl Table {
    /// A table of at most so many keys.
    pub fn new(most: usize) -> Self {
        Self {
            keys: HashTable::new(),
            hasher: RandomState::default(),
            key_bytes: 0,
            sweep_at: SWEEP_MIN,
            swept_at: Nanos::MIN,
            most,
        }
    }

    /// The state of a key, if it is known.
    pub fn get(&self, key: &str) -> Option<&State> {
        self.keys.find(self.hasher.hash_one(key), |(other, _)| **other == *key).map(|(_, state)| state)
    }

    /// The state of a key, which begins as `fresh` where it is not known.
    ///
    /// # Errors
    /// When there is no room for another key, after idle ones were dropped.
    pub fn entry(
        &mut self,
        key: &str,
        meter: &Meter,
        now: Nanos,
        fresh: impl FnOnce() -> State,
    ) -> Result<&mut State, Full> {
        if self.keys.len() >= self.sweep_at.min(self.most) && self.get(key).is_none() {
            // A clock that was set back makes it due as well.
            if !(0..SWEEP_PAUSE).contains(&now.saturating_sub(self.swept_at)) {
                self.swept_at = now;
                self.sweep(|_, state| meter.whole_at(state) > now);
            }
            if self.keys.len() >= self.most {
                return Err(Full);
            }
        }
        let Self { keys, hasher, key_bytes, .. } = self;
        let hash = |(key, _): &(Box<str>, State)| hasher.hash_one(&**key);
        match keys.entry(hasher.hash_one(key), |(other, _)| **other == *key, hash) {
            Entry::Occupied(known) => Ok(&mut known.into_mut().1),
            Entry::Vacant(vacant) => {
                *key_bytes += key.len();
                Ok(&mut vacant.insert((key.into(), fresh())).into_mut().1)
            }
        }
    }

    /// Drops the key, of a few, whose allowance is whole soonest: what it loses is the least.
    pub fn drop_one(&mut self, meter: &Meter) {
        let soonest = self.keys.iter().take(SAMPLE).min_by_key(|(_, state)| meter.whole_at(state));
        let Some(key) = soonest.map(|(key, _)| key.clone()) else { return };
        let found = self.keys.find_entry(self.hasher.hash_one(&*key), |(other, _)| *other == key);
        if let Ok(entry) = found {
            self.key_bytes -= key.len();
            entry.remove();
        }
    }

    /// Changes every state, and drops those for which nothing is left to say.
    pub fn update(&mut self, mut change: impl FnMut(&str, State) -> Option<State>, placeholder: &State) {
        self.keys.retain(|(key, state)| match change(key, std::mem::replace(state, placeholder.clone())) {
            Some(changed) => {
                *state = changed;
                true
            }
            None => false,
        });
        self.key_bytes = self.keys.iter().map(|(key, _)| key.len()).sum();
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many bytes the keys' texts have.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Drops the keys that are not used.
    pub(crate) fn sweep(&mut self, is_used: impl Fn(&str, &State) -> bool) {
        self.keys.retain(|(key, state)| is_used(key, state));
        self.key_bytes = self.keys.iter().map(|(key, _)| key.len()).sum();
        self.sweep_at = (self.keys.len() * 2).max(SWEEP_MIN);
        let hasher = &self.hasher;
        self.keys.shrink_to(self.sweep_at, |(key, _)| hasher.hash_one(&**key));
    }
}
