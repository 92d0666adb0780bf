//! Mesh-wide limits: the book of what was charged, and which Takes were charged lately.

use ::limits::book::{BookError, Charge, Loan};
use ::limits::{Balance, Book, Nanos};
use jiff::Timestamp;
use model::Limit;
use std::collections::HashMap;
use std::sync::Arc;

/// For how long a Take that is sent again is known again. Longer than a proxy goes on trying.
const REMEMBERED: Nanos = 10_000_000_000;
/// The most Takes that are remembered twice over.
const TAKES_MAX: usize = 200_000;

/// What a Take is known by.
pub type TakeId = [u8; 16];

/// Whether all were taken, and how each allowance stands.
pub type Taken = (bool, Vec<Balance>);

/// The state of all mesh-wide limits.
#[derive(Debug, Default)]
pub struct Store {
    book: Book,
    /// The Takes of this while, and of the one before.
    takes: [HashMap<TakeId, Taken>; 2],
    turned_at: Option<Nanos>,
}

/// What a proxy wants to be lent of one allowance.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The limit.
    pub limit: &'a Arc<Limit>,
    /// Whose allowance.
    pub key: &'a str,
    /// How much is spent at once.
    pub need: u64,
    /// How much is wanted in all.
    pub want: u64,
    /// What is given back,
    pub unspent: u64,
    /// and how long ago the first of it was asked for.
    pub unspent_age: Nanos,
    /// What was used beyond what was lent.
    pub owed: u64,
}

impl Store {
    /// Takes from every allowance what is charged, or, if one has too little, nothing from any. A Take that was
    /// sent before is answered as it was, and not charged again.
    ///
    /// # Errors
    /// When there is no room for another key, or a limit can't be measured.
    pub fn take(
        &mut self,
        id: Option<TakeId>,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Result<Taken, BookError> {
        let now = nanos(now);
        self.turn(now);
        if let Some(taken) = id.and_then(|id| self.takes.iter().find_map(|takes| takes.get(&id))) {
            return Ok(taken.clone());
        }
        let taken = self.book.take(charges, now)?;
        if let Some(id) = id
            && let [current, _] = &mut self.takes
        {
            current.insert(id, taken.clone());
        }
        Ok(taken)
    }

    /// Lends, takes back what was lent before and not spent, and charges what was spent beyond it.
    ///
    /// # Errors
    /// As for [`Store::take`].
    pub fn lend(&mut self, want: Want<'_>, now: Timestamp) -> Result<Loan, BookError> {
        let now = nanos(now);
        let Want { limit, key, .. } = want;
        if want.unspent > 0 {
            let taken_at = now.saturating_sub(want.unspent_age.max(0));
            self.book.give_back(Charge { limit, key, amount: want.unspent }, taken_at, now)?;
        }
        if want.owed > 0 {
            self.book.charge(Charge { limit, key, amount: want.owed }, now)?;
        }
        self.book.lend(limit, key, want.need, want.want, now)
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.book.len()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.book.is_empty()
    }

    /// What was charged.
    pub const fn book(&self) -> &Book {
        &self.book
    }

    /// Forgets Takes that nobody sends again.
    fn turn(&mut self, now: Nanos) {
        let [current, before] = &mut self.takes;
        let is_new = self.turned_at.is_some_and(|at| (0..REMEMBERED).contains(&now.saturating_sub(at)));
        if !is_new || current.len() >= TAKES_MAX / 2 {
            std::mem::swap(current, before);
            current.clear();
            self.turned_at = Some(now);
        }
    }
}

fn nanos(time: Timestamp) -> Nanos {
    Nanos::try_from(time.as_nanosecond()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use model::Mode;

    use std::time::Duration;

    use ::limits::meter::HOLD_MAX;

    use super::*;

    fn limit(rate: &str) -> Arc<Limit> {
        Arc::new(Limit::of_rate("l", Mode::Exact, rate.parse().unwrap(), vec![]))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    #[test]
    fn a_take_that_is_sent_again_is_charged_once() {
        let limit = limit("2 per 10s");
        let charge = [Charge { limit: &limit, key: "k", amount: 1 }];
        let mut store = Store::default();
        let mut left = |id: u8, now| {
            let (taken, balances) = store.take(Some([id; 16]), &charge, at(now)).unwrap();
            (taken, balances[0].remaining)
        };
        assert_eq!([left(1, 0), left(1, 100), left(2, 200)], [(true, 1), (true, 1), (true, 0)]);
        assert_eq!([left(3, 300), left(2, 9_000)], [(false, 0), (true, 0)]);
        assert_eq!(left(3, 400), (false, 0), "a refusal is remembered, too");
        assert_eq!(left(1, 30_000), (true, 1), "after a while it is another Take");
    }

    #[test]
    fn what_is_lent_is_used_and_debts_are_charged() {
        let limit = limit("100 per 10s");
        let mut store = Store::default();
        let want = Want { limit: &limit, key: "k", need: 1, want: 31, unspent: 0, unspent_age: 0, owed: 0 };
        let loan = store.lend(want, at(0)).unwrap();
        assert_eq!((loan.amount, loan.hold), (31, HOLD_MAX));
        let indebted = store.lend(Want { owed: 200, ..want }, at(0)).unwrap();
        assert_eq!(indebted.amount, 0);
        assert!(indebted.balance.retry_after > Duration::from_secs(10), "{indebted:?}");
    }
}
