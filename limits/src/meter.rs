//! A limit's allowance in numbers, and what one key has used of it.

use std::sync::Arc;
use std::time::Duration;

use model::Allowance;

use crate::Nanos;
use crate::calendar::{Calendar, Span};
use crate::gcra::Gcra;
use crate::rolling::{Slices, Window};

/// The longest that something lent may be kept before it is spent.
pub const HOLD_MAX: Nanos = 1_000_000_000;

/// An allowance in numbers.
#[derive(Clone, Debug)]
pub struct Meter(Measure);

#[derive(Clone, Debug)]
enum Measure {
    Gcra(Gcra),
    Rolling(Window),
    Calendar { count: u64, calendar: Arc<Calendar> },
    Slots { count: u64 },
}

/// What one key has used. Two words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// When the allowance is whole again.
    Gcra(Nanos),
    /// What was used in which slice.
    Rolling(Box<Slices>),
    /// What was used in the period that began at so many seconds since 1970.
    Calendar {
        /// The period.
        start: u32,
        /// How much.
        used: u64,
    },
    /// How many are under way.
    Slots(u64),
}

/// How an allowance stands for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// How much more could be used now.
    pub remaining: u64,
    /// Until so much can be used as was asked for; zero when it can be.
    pub retry_after: Duration,
    /// Until the allowance is whole again.
    pub reset: Duration,
}

/// An allowance that can't be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    /// A burst that takes too long to come back.
    #[error("a burst of {burst} takes more than 100 days to come back")]
    Burst {
        /// The burst.
        burst: u64,
    },
    /// No such time zone.
    #[error("there is no time zone `{zone}`")]
    Zone {
        /// Its name.
        zone: String,
    },
}

impl Meter {
    /// The numbers of an allowance.
    ///
    /// # Errors
    /// When it can't be measured.
    pub fn new(allowance: &Allowance) -> Result<Self, MeterError> {
        Ok(Self(match allowance {
            Allowance::Rate { rate, burst } => {
                let burst = burst.get();
                Measure::Gcra(Gcra::new(*rate, burst).ok_or(MeterError::Burst { burst })?)
            }
            Allowance::Rolling(rate) => {
                let window = Nanos::try_from(rate.window.as_nanos()).unwrap_or(Nanos::MAX);
                Measure::Rolling(Window::new(rate.count.get(), window))
            }
            Allowance::Calendar { count, period, zone } => {
                let calendar = Calendar::new(*period, zone);
                let calendar = calendar.ok_or_else(|| MeterError::Zone { zone: zone.clone() })?;
                Measure::Calendar { count: count.get(), calendar: Arc::new(calendar) }
            }
            Allowance::Concurrency(count) => Measure::Slots { count: count.get() },
        }))
    }

    /// What a key has used that has used nothing.
    pub fn unused(&self, now: Nanos) -> State {
        match &self.0 {
            Measure::Gcra(_) => State::Gcra(now),
            Measure::Rolling(_) => State::Rolling(Box::default()),
            Measure::Calendar { calendar, .. } => {
                State::Calendar { start: seconds(calendar.at(now)), used: 0 }
            }
            Measure::Slots { .. } => State::Slots(0),
        }
    }

    /// What a key is taken to have used of which nothing is known: all that could have been, loans included.
    /// Slots aside: what was under way has ended with whoever counted it.
    pub fn used_up(&self, now: Nanos) -> State {
        let mut state = self.unused(now);
        match &self.0 {
            Measure::Gcra(gcra) => {
                let hold = self.hold(now);
                state = State::Gcra(now.saturating_add(hold).saturating_add(gcra.capacity()));
            }
            Measure::Rolling(Window { count, .. }) | Measure::Calendar { count, .. } => {
                self.charge(&mut state, *count, now);
            }
            Measure::Slots { .. } => {}
        }
        state
    }

    /// For how long something may be lent: short against the time in which the allowance comes back, so that
    /// little of it lies about, and no longer than the period.
    pub fn hold(&self, now: Nanos) -> Nanos {
        match &self.0 {
            Measure::Gcra(gcra) => HOLD_MAX.min(gcra.capacity() / 4),
            Measure::Rolling(window) => HOLD_MAX.min(window.slice),
            Measure::Calendar { calendar, .. } => HOLD_MAX.min(calendar.at(now).end.saturating_sub(now)),
            // Slots are given back, and not lent.
            Measure::Slots { .. } => 0,
        }
    }

    /// How much could be used, or lent for `hold`, now.
    pub fn room(&self, state: &State, hold: Nanos, now: Nanos) -> u64 {
        match (&self.0, state) {
            (Measure::Gcra(gcra), State::Gcra(whole_at)) => gcra.room(*whole_at, hold, now),
            (Measure::Rolling(window), State::Rolling(slices)) => {
                window.count.saturating_sub(slices.used(window, now))
            }
            (Measure::Calendar { count, calendar }, State::Calendar { start, used }) => {
                if *start == seconds(calendar.at(now)) { count.saturating_sub(*used) } else { *count }
            }
            (Measure::Slots { count }, State::Slots(taken)) => count.saturating_sub(*taken),
            // A state of another measure is of another limit: nothing of it is left.
            _ => 0,
        }
    }

    /// Uses so much, if there is so much, and says whether; if not, the state is as it was. What is lent may be
    /// spent for `hold`.
    pub fn take(&self, state: &mut State, amount: u64, hold: Nanos, now: Nanos) -> bool {
        if let (Measure::Gcra(gcra), State::Gcra(whole_at)) = (&self.0, &mut *state) {
            let after = gcra.take(*whole_at, amount, hold, now);
            after.inspect(|after| *whole_at = *after);
            return after.is_some();
        }
        let fits = amount <= self.room(state, hold, now);
        if fits {
            self.add(state, amount, hold, now);
        }
        fits
    }

    /// Uses so much whether there is so much or not: what is known only afterwards. May leave a debt.
    pub fn charge(&self, state: &mut State, amount: u64, now: Nanos) {
        self.add(state, amount, 0, now);
    }

    fn add(&self, state: &mut State, amount: u64, hold: Nanos, now: Nanos) {
        match (&self.0, state) {
            (Measure::Gcra(gcra), State::Gcra(whole_at)) => *whole_at = gcra.charge(*whole_at, amount, now),
            (Measure::Rolling(window), State::Rolling(slices)) => slices.add(window, amount, hold, now),
            (Measure::Calendar { calendar, .. }, State::Calendar { start, used }) => {
                let period = seconds(calendar.at(now));
                *used = if *start == period { used.saturating_add(amount) } else { amount };
                *start = period;
            }
            (Measure::Slots { .. }, State::Slots(taken)) => *taken = taken.saturating_add(amount),
            _ => {}
        }
    }

    /// Gives back what was taken, or lent, at `taken_at` and not used.
    ///
    /// Of a rate only what was taken at this very time: what comes back by itself meanwhile can't be told from what
    /// is given back, and would come back twice. Of windows and periods what still counts.
    pub fn give_back(&self, state: &mut State, amount: u64, taken_at: Nanos, now: Nanos) {
        match (&self.0, state) {
            (Measure::Gcra(gcra), State::Gcra(whole_at)) if taken_at == now => {
                *whole_at = whole_at.saturating_sub(gcra.cost(amount)).max(now);
            }
            (Measure::Rolling(window), State::Rolling(slices)) if window.counts(taken_at, now) => {
                slices.give_back(window, amount, now);
            }
            (Measure::Calendar { calendar, .. }, State::Calendar { start, used }) => {
                let period = calendar.at(now);
                if taken_at >= period.start && *start == seconds(period) {
                    *used = used.saturating_sub(amount);
                }
            }
            (Measure::Slots { .. }, State::Slots(taken)) => *taken = taken.saturating_sub(amount),
            _ => {}
        }
    }

    /// What a key has used by the allowance as it was before, as this one tells it; none where that says nothing.
    pub fn adopt(&self, before: &Self, state: State, now: Nanos) -> Option<State> {
        let same = match (&self.0, &before.0) {
            // Time is time at any rate; but no more than all of it can have been used.
            (Measure::Gcra(gcra), Measure::Gcra(_)) => {
                let State::Gcra(whole_at) = state else { return None };
                return Some(State::Gcra(whole_at.min(now.saturating_add(gcra.capacity()))));
            }
            (Measure::Rolling(window), Measure::Rolling(old)) => window.slice == old.slice,
            (Measure::Calendar { calendar, .. }, Measure::Calendar { calendar: old, .. }) => calendar == old,
            (Measure::Slots { .. }, Measure::Slots { .. }) => true,
            _ => false,
        };
        same.then_some(state)
    }

    /// How the allowance stands, for one who asked for `amount`.
    pub fn balance(&self, state: &State, amount: u64, now: Nanos) -> Balance {
        let remaining = self.room(state, 0, now);
        let retry_after = match (&self.0, state) {
            _ if remaining >= amount => Duration::ZERO,
            (Measure::Gcra(gcra), State::Gcra(whole_at)) => gcra.wait(*whole_at, amount, now),
            (Measure::Rolling(window), State::Rolling(slices)) => {
                duration(slices.ready(window, amount, now).saturating_sub(now))
            }
            (Measure::Slots { .. }, State::Slots(_)) => Duration::from_secs(1),
            _ => duration(self.whole_at(state).saturating_sub(now)),
        };
        Balance { remaining, retry_after, reset: duration(self.whole_at(state).saturating_sub(now)) }
    }

    /// When the state is as if nothing had ever been used.
    pub fn whole_at(&self, state: &State) -> Nanos {
        match (&self.0, state) {
            (_, State::Gcra(whole_at)) => *whole_at,
            (Measure::Rolling(window), State::Rolling(slices)) => slices.whole_at(window),
            (Measure::Calendar { calendar, .. }, State::Calendar { start, .. }) => {
                calendar.at(i64::from(*start).saturating_mul(1_000_000_000)).end
            }
            (_, State::Slots(0)) => Nanos::MIN,
            _ => Nanos::MAX,
        }
    }
}

fn seconds(span: Span) -> u32 {
    u32::try_from(span.start.div_euclid(1_000_000_000)).unwrap_or(u32::MAX)
}

/// A length of time; none if it is negative.
pub(crate) fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
