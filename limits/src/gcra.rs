//! GCRA, the generic cell rate algorithm (ITU-T I.371): a steady rate, and a burst after a pause.
//!
//! The state is one time: when the allowance will be whole again. Using something moves it on by the time in
//! which as much comes back; it must not be further ahead than the burst takes to come back.
//!
//! **In any time T no more than burst + rate × T is used**, also where it is lent. What is lent at a time t may
//! be spent until e = t + hold, and moves `whole_at` as if it were used at e: to max(whole_at, e) + cost, which
//! must be no later than t + capacity. Of what is spent between a and b, look at the loans and uses in the order
//! in which they were granted. The first may have been lent before a, but ends after it, so `whole_at` is at
//! least a when its cost is added; the last was granted at b or before, so `whole_at` is at most b + capacity
//! after it. The costs between are at most the difference, T + capacity, and what can be had for that is
//! burst + rate × T. ∎

use std::time::Duration;

use model::Rate;

use crate::Nanos;

/// A rate and a burst in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    count: i128,
    window: i128,
    /// The time in which the whole burst comes back.
    capacity: Nanos,
}

/// The longest time in which a burst may come back: a hundred days. Times this long are exact in the doubles
/// of Redis's scripts.
pub const CAPACITY_MAX: Nanos = 100 * 24 * 60 * 60 * 1_000_000_000;

impl Gcra {
    /// The numbers of a rate, unless the burst takes longer than [`CAPACITY_MAX`] to come back.
    pub fn new(rate: Rate, burst: u64) -> Option<Self> {
        let (count, window) = (i128::from(rate.count.get()), i128::try_from(rate.window.as_nanos()).ok()?);
        let mut gcra = Self { count, window, capacity: 0 };
        let capacity = gcra.cost_exact(burst);
        // Each use is rounded up to a nanosecond. As many as the burst, one by one, must fit all the same; but
        // never one more.
        let slack = if window % count == 0 { 0 } else { i128::from(burst).min(window / count - 1).max(0) };
        gcra.capacity =
            Nanos::try_from(capacity + slack).ok().filter(|capacity| *capacity <= CAPACITY_MAX)?;
        Some(gcra)
    }

    /// The time in which so much comes back, rounded up.
    pub fn cost(&self, amount: u64) -> Nanos {
        Nanos::try_from(self.cost_exact(amount)).unwrap_or(Nanos::MAX / 4).min(Nanos::MAX / 4)
    }

    /// The time in which the whole burst comes back.
    pub fn capacity(&self) -> Nanos {
        self.capacity
    }

    /// What can be used in a time, rounded down.
    pub fn amount(&self, time: Nanos) -> u64 {
        u64::try_from(i128::from(time.max(0)) * self.count / self.window).unwrap_or(u64::MAX)
    }

    /// Uses so much, if there is so much. What is lent may be spent for `hold`.
    pub fn take(&self, whole_at: Nanos, amount: u64, hold: Nanos, now: Nanos) -> Option<Nanos> {
        let after = self.base(whole_at, hold, now).saturating_add(self.cost(amount));
        (after <= now.saturating_add(self.capacity)).then_some(after)
    }

    /// How much can be used, or lent for `hold`, at once.
    pub fn room(&self, whole_at: Nanos, hold: Nanos, now: Nanos) -> u64 {
        let time = now.saturating_add(self.capacity).saturating_sub(self.base(whole_at, hold, now));
        self.amount(time)
    }

    /// Uses so much whether there is so much or not.
    pub fn charge(&self, whole_at: Nanos, amount: u64, now: Nanos) -> Nanos {
        // A debt of more than a hundred days is no other than one of a hundred days.
        self.base(whole_at, 0, now).saturating_add(self.cost(amount)).min(now.saturating_add(CAPACITY_MAX))
    }

    /// How long until so much can be used.
    pub fn wait(&self, whole_at: Nanos, amount: u64, now: Nanos) -> Duration {
        let after = self.base(whole_at, 0, now).saturating_add(self.cost(amount));
        crate::meter::duration(after.saturating_sub(now.saturating_add(self.capacity)))
    }

    /// Where counting begins: never in the past, and no more than a whole burst, or a debt, ahead.
    fn base(&self, whole_at: Nanos, hold: Nanos, now: Nanos) -> Nanos {
        whole_at.max(now.saturating_add(hold)).min(now.saturating_add(CAPACITY_MAX))
    }

    fn cost_exact(&self, amount: u64) -> i128 {
        // Neither is negative, so this rounds up.
        (self.window.saturating_mul(i128::from(amount)) + self.count - 1) / self.count
    }
}
