//! What a proxy was lent of one allowance, and when it asks for more.
//!
//! A proxy spends what it was lent without asking. It asks again, once at a time, when less than about half of a
//! loan is left, for as much as it spends in the time that a loan may be kept, so at a steady rate nobody waits.
//! What it could not spend in time it gives back with the next question. Its clock need not agree with
//! policyd's: a loan may be kept for `hold` from when it was *asked for*, which is before it was granted.

use crate::Nanos;

/// The weight of what was spent lately, in percent, against what was spent before.
const WEIGHT: u64 = 50;
/// For this part of a hold nothing is asked for after nothing was to be had: what comes back meanwhile is lent in
/// one.
const DRY_PART: Nanos = 16;

/// What a proxy was lent of one allowance.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// The loans, the one that ends first in front.
    loans: [Loan; 2],
    /// How much the last loan was.
    last: u64,
    /// How much is spent in a hold.
    per_hold: u64,
    /// What was asked for since `since`.
    demand: u64,
    since: Nanos,
    hold: Nanos,
    /// Until when nothing is to be had,
    dry_until: Nanos,
    /// and until when nothing for later.
    scarce_until: Nanos,
    asking: bool,
    unspent: u64,
    /// When the first of what is unspent was asked for.
    unspent_since: Nanos,
    owed: u64,
    /// A number that sets proxies apart, so that they do not all ask at once.
    jitter: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Loan {
    left: u64,
    since: Nanos,
    until: Nanos,
}

/// What came of wanting to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It is spent.
    Yes,
    /// Too little is left; more has to be asked for.
    Empty,
    /// Too little is left, and nothing is to be had for so long.
    Dry(Nanos),
}

/// What policyd is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is needed at once.
    pub need: u64,
    /// What is wanted in all.
    pub want: u64,
    /// What is given back,
    pub unspent: u64,
    /// and how long ago the first of it was asked for.
    pub unspent_age: Nanos,
    /// What was used beyond what was lent.
    pub owed: u64,
    /// When it was asked.
    pub asked_at: Nanos,
}

impl Pool {
    /// A pool with nothing in it. `jitter` sets proxies apart.
    pub fn new(jitter: u64, now: Nanos) -> Self {
        Self { jitter, since: now, ..Self::default() }
    }

    /// Spends so much, if it was lent so much. O(1).
    pub fn spend(&mut self, amount: u64, now: Nanos) -> Spent {
        self.drop_ended(now);
        let [first, second] = &mut self.loans;
        if first.left.saturating_add(second.left) >= amount {
            let of_first = first.left.min(amount);
            first.left -= of_first;
            second.left -= amount - of_first;
            self.demand = self.demand.saturating_add(amount);
            return Spent::Yes;
        }
        if now < self.dry_until {
            self.demand = self.demand.saturating_add(amount);
            return Spent::Dry(self.dry_until - now);
        }
        Spent::Empty
    }

    /// Takes back what was spent for a request that another limit refused.
    pub fn put_back(&mut self, amount: u64, now: Nanos) {
        // Whichever loan it was of, it does no harm to have it end with the one that ends first.
        match self.loans.iter_mut().find(|loan| loan.until > now) {
            Some(loan) => loan.left = loan.left.saturating_add(amount),
            None => self.give_up(amount, now.saturating_sub(self.hold)),
        }
    }

    /// Notes what was used and could not be known before.
    pub fn owe(&mut self, amount: u64) {
        self.owed = self.owed.saturating_add(amount);
    }

    /// How much can be spent without asking.
    pub fn left(&self, now: Nanos) -> u64 {
        self.loans.iter().filter(|loan| loan.until > now).map(|loan| loan.left).sum()
    }

    /// Whether it is time to ask before anybody has to wait.
    pub fn is_low(&self, now: Nanos) -> bool {
        let low = self.last / 2 + self.jitter % (self.last / 8 + 1);
        !self.asking && self.per_hold > 0 && now >= self.scarce_until && self.left(now) < low
    }

    /// What to ask, unless something was asked already: whoever comes meanwhile waits for the answer, and then
    /// asks with all others who waited.
    pub fn ask(&mut self, need: u64, now: Nanos) -> Option<Question> {
        if self.asking {
            return None;
        }
        self.drop_ended(now);
        self.demand = self.demand.saturating_add(need);
        self.measure(now);
        self.asking = true;
        Some(Question {
            need,
            want: need.saturating_add(self.per_hold),
            unspent: std::mem::take(&mut self.unspent),
            unspent_age: now.saturating_sub(self.unspent_since),
            owed: std::mem::take(&mut self.owed),
            asked_at: now,
        })
    }

    /// Takes the answer, and says how much of what was needed is there: whoever needed it has spent it by that. The
    /// rest is kept for later. Where it is too little, there is more after `wait`.
    pub fn lent(&mut self, question: Question, amount: u64, hold: Nanos, wait: Nanos, now: Nanos) -> u64 {
        self.asking = false;
        self.hold = hold;
        self.drop_ended(now);
        let Some(rest) = amount.checked_sub(question.need) else {
            self.dry_until = now.saturating_add(wait.max(hold / DRY_PART));
            self.scarce_until = self.dry_until;
            return amount;
        };
        if rest < question.want - question.need {
            self.scarce_until = now.saturating_add(hold / DRY_PART);
        }
        if rest == 0 {
            return question.need;
        }
        self.last = rest;
        let until = question.asked_at.saturating_add(hold);
        let [first, second] = &mut self.loans;
        if first.left > 0 && second.left > 0 {
            // Both end with the one that ends first.
            first.left = first.left.saturating_add(second.left);
            second.left = 0;
        }
        let place = if first.left > 0 { second } else { first };
        *place = Loan { left: rest, since: question.asked_at, until };
        question.need
    }

    /// Gives up what nobody spends any more, to be given back with the next question.
    pub fn give_up(&mut self, amount: u64, asked_at: Nanos) {
        let since = if self.unspent == 0 { asked_at } else { self.unspent_since.min(asked_at) };
        (self.unspent, self.unspent_since) = (self.unspent.saturating_add(amount), since);
    }

    /// Notes that no answer came. What was to be given back is lost: it may have been given back.
    pub fn failed(&mut self, question: Question) {
        self.asking = false;
        // A debt may be told twice, but must not be forgotten.
        self.owed = self.owed.saturating_add(question.owed);
    }

    /// The last question: what is left is given back.
    pub fn close(&mut self, now: Nanos) -> Question {
        for loan in std::mem::take(&mut self.loans).iter().filter(|loan| loan.left > 0) {
            self.give_up(loan.left, loan.since);
        }
        let unspent = std::mem::take(&mut self.unspent);
        let unspent_age = now.saturating_sub(self.unspent_since);
        Question {
            need: 0,
            want: 0,
            unspent,
            unspent_age,
            owed: std::mem::take(&mut self.owed),
            asked_at: now,
        }
    }

    /// Whether nothing was spent for so long that it may be forgotten.
    pub fn is_idle(&self, now: Nanos) -> bool {
        let silence = self.hold.saturating_mul(2).max(1_000_000_000);
        !self.asking
            && self.owed == 0
            && self.left(now) == 0
            && now >= self.dry_until
            && now.saturating_sub(self.since) > silence
            && self.demand == 0
    }

    fn drop_ended(&mut self, now: Nanos) {
        for index in 0..self.loans.len() {
            if let Some(loan) = self.loans.get_mut(index).filter(|loan| loan.until <= now && loan.left > 0) {
                let Loan { left, since, .. } = std::mem::take(loan);
                self.give_up(left, since);
            }
        }
        if self.loans[0].left == 0 {
            self.loans.swap(0, 1);
        }
    }

    /// How much is spent in a hold, from what was wanted since the last question.
    fn measure(&mut self, now: Nanos) {
        let elapsed = now.saturating_sub(self.since);
        // Questions that follow each other at once say little about a rate.
        if self.hold == 0 || elapsed < self.hold / 32 {
            return;
        }
        let spent = u128::from(self.demand) * u128::from(self.hold.unsigned_abs());
        let rate = u64::try_from(spent / u128::from(elapsed.unsigned_abs())).unwrap_or(u64::MAX);
        let mix = |old: u64, new: u64| {
            old.saturating_mul(100 - WEIGHT).saturating_add(new.saturating_mul(WEIGHT)).div_ceil(100)
        };
        // Upwards at once: whoever comes back from a pause should not have to ask for each request.
        self.per_hold = if rate > self.per_hold { rate } else { mix(self.per_hold, rate) };
        (self.demand, self.since) = (0, now);
    }
}
