//! Mesh-wide limits: GCRA over all keys of all limits, in memory.
//!
//! GCRA (the generic cell rate algorithm, ITU-T I.371) keeps one time for each key: when its allowance will
//! be whole again. Nothing ticks, and a window has no boundary to burst over.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use model::Limit;

/// The most keys kept. One takes about 100 bytes besides its text.
pub const KEYS_MAX: usize = 1_000_000;
/// The most bytes of text in all keys kept.
pub const KEY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Keys whose allowance is whole again are dropped once this many calls have passed,
const CALLS_BETWEEN_SWEEPS: usize = 100_000;
/// or when there is no room, but no more often than once in so many nanoseconds: it walks all keys.
const SWEEP_PAUSE: i128 = 1_000_000_000;

/// The state of all mesh-wide limits.
#[derive(Debug, Default)]
pub struct Store {
    /// By limit and key: when the allowance is whole again, in nanoseconds since 1970.
    whole_at: HashMap<(String, String), i128>,
    key_bytes: usize,
    calls_since_sweep: usize,
    swept_at: i128,
}

/// What a request is charged to.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// Whose allowance.
    pub key: &'a str,
}

/// The state of one allowance after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// How many more would be allowed now.
    pub remaining: u32,
    /// Until one more is allowed; zero when one is.
    pub retry_after: Duration,
    /// Until the allowance is whole again.
    pub reset: Duration,
}

/// There is no room for another key. Never an allow: the limit's fail mode decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many keys of rate limits are in use, or too long ones")]
pub struct Full;

impl Store {
    /// Takes one from every allowance, or, if one has none left, nothing from any.
    ///
    /// Returns whether it took, and the balance of each charge in order. O(charges).
    ///
    /// # Errors
    /// When there is no room for another key.
    pub fn take(&mut self, charges: &[Charge<'_>], now: Timestamp) -> Result<(bool, Vec<Balance>), Full> {
        let now = now.as_nanosecond();
        self.sweep(now);
        charges.iter().for_each(|charge| self.cap(charge, now));
        let mut taken: HashMap<(&str, &str), i128> = HashMap::new();
        let mut all = true;
        for charge in charges {
            let entry = (charge.limit.name.as_str(), charge.key);
            let before = taken.get(&entry).copied().unwrap_or_else(|| self.whole_at(charge, now));
            let after = before + interval(charge.limit);
            all &= after - now <= capacity(charge.limit);
            taken.insert(entry, after);
        }
        if all {
            let taken: Vec<((String, String), i128)> = taken
                .into_iter()
                .map(|((limit, key), whole_at)| ((limit.to_owned(), key.to_owned()), whole_at))
                .collect();
            let new =
                || taken.iter().map(|(entry, _)| entry).filter(|entry| !self.whole_at.contains_key(entry));
            let key_bytes = self.key_bytes + new().map(size).sum::<usize>();
            if self.whole_at.len() + new().count() > KEYS_MAX || key_bytes > KEY_BYTES_MAX {
                return Err(Full);
            }
            self.key_bytes = key_bytes;
            self.whole_at.extend(taken);
        }
        Ok((all, charges.iter().map(|charge| self.balance(charge, now)).collect()))
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.whole_at.len()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.whole_at.is_empty()
    }

    /// No more than a whole allowance is ever used, also where the limit was another, or the clock ahead, before.
    fn cap(&mut self, charge: &Charge<'_>, now: i128) {
        let entry = (charge.limit.name.clone(), charge.key.to_owned());
        if let Some(whole_at) = self.whole_at.get_mut(&entry) {
            *whole_at = (*whole_at).min(now + capacity(charge.limit));
        }
    }

    fn whole_at(&self, charge: &Charge<'_>, now: i128) -> i128 {
        let entry = (charge.limit.name.clone(), charge.key.to_owned());
        self.whole_at.get(&entry).copied().unwrap_or(now).max(now)
    }

    fn balance(&self, charge: &Charge<'_>, now: i128) -> Balance {
        let used = self.whole_at(charge, now) - now;
        let room = capacity(charge.limit) - used;
        let one = interval(charge.limit);
        Balance {
            remaining: u32::try_from(room.max(0) / one).unwrap_or(u32::MAX),
            retry_after: duration(one - room),
            reset: duration(used),
        }
    }

    fn sweep(&mut self, now: i128) {
        self.calls_since_sweep += 1;
        let full = self.whole_at.len() >= KEYS_MAX || self.key_bytes >= KEY_BYTES_MAX / 2;
        let due = self.calls_since_sweep >= CALLS_BETWEEN_SWEEPS || full;
        // A clock that was set back makes it due as well.
        if due && !(0..SWEEP_PAUSE).contains(&(now - self.swept_at)) {
            (self.calls_since_sweep, self.swept_at) = (0, now);
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            self.key_bytes = self.whole_at.keys().map(size).sum();
        }
    }
}

fn size((limit, key): &(String, String)) -> usize {
    limit.len() + key.len()
}

/// What one request costs, in time.
fn interval(limit: &Limit) -> i128 {
    i128::try_from(limit.rate.interval().as_nanos()).unwrap_or(i128::MAX).max(1)
}

/// What the whole allowance is, in time.
fn capacity(limit: &Limit) -> i128 {
    interval(limit).saturating_mul(limit.burst.get().into())
}

fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use model::{FailMode, Scope};
    use proptest::prelude::*;

    use super::*;

    fn limit(name: &str, rate: &str, burst: u32) -> Limit {
        Limit {
            name: name.into(),
            scope: Scope::Mesh,
            rate: rate.parse().unwrap(),
            burst: burst.try_into().unwrap(),
            key: vec![],
            fail_mode: FailMode::Closed,
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    #[test]
    fn a_burst_passes_then_one_for_each_interval() {
        let limit = limit("l", "5 per 10s", 5);
        let charge = [Charge { limit: &limit, key: "k" }];
        let mut store = Store::default();
        for remaining in (0..5).rev() {
            let (allowed, balances) = store.take(&charge, at(0)).unwrap();
            assert!(allowed);
            assert_eq!(balances[0].remaining, remaining);
        }
        let (allowed, balances) = store.take(&charge, at(500)).unwrap();
        assert!(!allowed);
        let expected = Balance {
            remaining: 0,
            retry_after: Duration::from_millis(1500),
            reset: Duration::from_millis(9500),
        };
        assert_eq!(balances, [expected]);
        assert!(store.take(&charge, at(2000)).unwrap().0);
        assert!(!store.take(&charge, at(2000)).unwrap().0);
        let other = [Charge { limit: &limit, key: "other" }];
        assert!(store.take(&other, at(2000)).unwrap().0);
    }

    #[test]
    fn stacked_limits_are_taken_all_or_none() {
        let (wide, narrow) = (limit("wide", "100/s", 100), limit("narrow", "1/h", 1));
        let both = [Charge { limit: &wide, key: "k" }, Charge { limit: &narrow, key: "k" }];
        let mut store = Store::default();
        assert!(store.take(&both, at(0)).unwrap().0);
        let (allowed, balances) = store.take(&both, at(0)).unwrap();
        assert!(!allowed);
        assert_eq!(balances[0].remaining, 99, "the wide limit paid nothing for the refused call");
        assert_eq!(balances[1].remaining, 0);
    }

    #[test]
    fn one_call_may_charge_the_same_key_twice() {
        let limit = limit("l", "1/s", 1);
        let twice = [Charge { limit: &limit, key: "k" }; 2];
        let mut store = Store::default();
        assert!(!store.take(&twice, at(0)).unwrap().0);
        assert!(store.is_empty());
    }

    #[test]
    fn the_same_key_of_another_limit_is_another_allowance() {
        let (one, other) = (limit("one", "1/h", 1), limit("other", "1/h", 1));
        let mut store = Store::default();
        assert!(store.take(&[Charge { limit: &one, key: "k" }], at(0)).unwrap().0);
        assert!(store.take(&[Charge { limit: &other, key: "k" }], at(0)).unwrap().0);
        let both = [Charge { limit: &one, key: "k2" }, Charge { limit: &other, key: "k" }];
        let (allowed, balances) = store.take(&both, at(0)).unwrap();
        assert!(!allowed);
        assert_eq!((balances[0].remaining, balances[1].remaining), (1, 0));
        assert!(store.take(&both[..1], at(0)).unwrap().0, "the refused call took nothing");
    }

    #[test]
    fn a_limit_that_is_widened_is_wider_at_once() {
        let (narrow, wide) = (limit("l", "1/h", 1), limit("l", "100/s", 100));
        let mut store = Store::default();
        assert!(store.take(&[Charge { limit: &narrow, key: "k" }], at(0)).unwrap().0);
        let wide = [Charge { limit: &wide, key: "k" }];
        assert_eq!(store.take(&wide, at(0)).unwrap().1[0].retry_after, Duration::from_millis(10));
        assert!(store.take(&wide, at(10)).unwrap().0);
    }

    #[test]
    fn a_store_without_room_refuses_new_keys_alone_until_some_are_whole() {
        let limit = limit("l", "10/s", 10);
        let charge = |key| [Charge { limit: &limit, key }];
        let mut store = Store::default();
        assert!(store.take(&charge("known"), at(0)).unwrap().0);
        // As if others had filled it.
        store.key_bytes = KEY_BYTES_MAX;
        store.swept_at = at(0).as_nanosecond();
        assert_eq!(store.take(&charge("new"), at(10)), Err(Full));
        assert!(store.take(&charge("known"), at(10)).unwrap().0);
        assert!(store.take(&charge("new"), at(1000)).unwrap().0);
        assert_eq!(store.len(), 1, "the known key was whole again, and dropped");
    }

    proptest! {
        /// In any window of the rate's length no more than burst + count pass: the bound of GCRA.
        #[test]
        fn no_window_admits_more_than_the_bound(gaps in prop::collection::vec(0i64..400, 1..200), burst in 1u32..6) {
            let limit = limit("l", "5/s", burst);
            let charge = [Charge { limit: &limit, key: "k" }];
            let mut store = Store::default();
            let mut now = 0;
            let mut admitted: Vec<i64> = Vec::new();
            for gap in gaps {
                now += gap;
                if store.take(&charge, at(now)).unwrap().0 {
                    admitted.push(now);
                }
            }
            for (index, start) in admitted.iter().enumerate() {
                let inside = admitted[index..].iter().take_while(|time| **time < start + 1000).count();
                prop_assert!(inside <= burst as usize + 5, "{} in one window", inside);
            }
        }
    }
}
