//! The tables of all limits, as policyd keeps them.

use std::collections::HashMap;
use std::sync::Arc;

use model::Limit;

use crate::Nanos;
use crate::meter::{Balance, Meter, MeterError, State};
use crate::page::Page;
use crate::table::Full;

/// The most keys of all limits together.
pub const KEYS_MAX: usize = 4_000_000;
/// The most bytes of text in all keys.
pub const KEY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// When there is no room, idle keys are looked for no more often than this: it walks all of them.
const SWEEP_PAUSE: Nanos = 1_000_000_000;

/// Of what is left, this part is lent at most.
const PART: u64 = 2;

/// What all limits have been charged.
#[derive(Debug)]
pub struct Book {
    pages: HashMap<String, Page>,
    /// Whether a key that is not known may have used anything before: the book is not the first one.
    begun_at: Option<Nanos>,
    keys: usize,
    key_bytes: usize,
    swept_at: Nanos,
}

/// What a request is charged to.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The limit.
    pub limit: &'a Arc<Limit>,
    /// Whose allowance.
    pub key: &'a str,
    /// How much.
    pub amount: u64,
}

/// What is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// How much: from nothing to what was asked for.
    pub amount: u64,
    /// For how long, from when it was asked for.
    pub hold: Nanos,
    /// How the allowance stands after it, for one who asks for one.
    pub balance: Balance,
}

/// Why a book can't answer. Never an allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// There is no room for another key.
    #[error(transparent)]
    Full(#[from] Full),
    /// The limit can't be measured.
    #[error(transparent)]
    Meter(#[from] MeterError),
}

impl Book {
    /// A book in which nobody has used anything. Right where there was none before, or for limits of which all is
    /// known.
    pub fn new() -> Self {
        Self { pages: HashMap::new(), begun_at: None, keys: 0, key_bytes: 0, swept_at: Nanos::MIN }
    }

    /// A book after another one was lost at `now`, with loans of up to [`crate::meter::HOLD_MAX`] still out. A
    /// key that is not known is taken to have used all it could have by then.
    pub fn after_a_loss(now: Nanos) -> Self {
        Self { begun_at: Some(now), ..Self::new() }
    }

    /// Takes from each allowance what is charged to it, or, if one has too little, nothing from any.
    ///
    /// Returns whether it took, and the balance of each charge in order. O(charges).
    ///
    /// # Errors
    /// When there is no room for another key, or a limit can't be measured; then nothing was taken.
    pub fn take(&mut self, charges: &[Charge<'_>], now: Nanos) -> Result<(bool, Vec<Balance>), BookError> {
        let mut taken = 0;
        let mut outcome = Ok(true);
        for charge in charges {
            let fits = self
                .with(charge.limit, charge.key, now, |meter, state| meter.take(state, charge.amount, 0, now));
            match fits {
                Ok(true) => taken += 1,
                other => {
                    outcome = other;
                    break;
                }
            }
        }
        if !matches!(outcome, Ok(true)) {
            for charge in charges.iter().take(taken) {
                self.give_back(*charge, now, now)?;
            }
        }
        let allowed = outcome?;
        let mut balance = |charge: &Charge<'_>| {
            let asked = if allowed { 1 } else { charge.amount };
            self.with(charge.limit, charge.key, now, |meter, state| meter.balance(state, asked, now))
        };
        Ok((allowed, charges.iter().map(&mut balance).collect::<Result<_, _>>()?))
    }

    /// Lends up to `want`, of which `need` is spent at once. The less is left, the less is lent for later: what lies about
    /// with one proxy is out of reach for the others.
    ///
    /// # Errors
    /// As for [`Book::take`].
    pub fn lend(
        &mut self,
        limit: &Arc<Limit>,
        key: &str,
        need: u64,
        want: u64,
        now: Nanos,
    ) -> Result<Loan, BookError> {
        self.with(limit, key, now, |meter, state| lend(meter, state, need, want, now))
    }

    /// Gives back what was taken or lent at `taken_at` and not used, as far as [`Meter::give_back`] can.
    ///
    /// # Errors
    /// As for [`Book::take`].
    pub fn give_back(&mut self, unused: Charge<'_>, taken_at: Nanos, now: Nanos) -> Result<(), BookError> {
        self.with(unused.limit, unused.key, now, |meter, state| {
            meter.give_back(state, unused.amount, taken_at, now);
        })
    }

    /// Charges what has been used already, whether there was so much or not.
    ///
    /// # Errors
    /// As for [`Book::take`].
    pub fn charge(&mut self, charge: Charge<'_>, now: Nanos) -> Result<Balance, BookError> {
        self.with(charge.limit, charge.key, now, |meter, state| {
            meter.charge(state, charge.amount, now);
            meter.balance(state, 1, now)
        })
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// The state of a key, if it is known.
    pub fn state(&self, limit: &str, key: &str) -> Option<&State> {
        self.pages.get(limit)?.table().get(key)
    }

    fn with<T>(
        &mut self,
        limit: &Arc<Limit>,
        key: &str,
        now: Nanos,
        act: impl FnOnce(&Meter, &mut State) -> T,
    ) -> Result<T, BookError> {
        let is_full = self.keys >= KEYS_MAX || self.key_bytes >= KEY_BYTES_MAX;
        if is_full && self.state(&limit.name, key).is_none() {
            self.make_room(now)?;
        }
        let page = match self.pages.get_mut(&limit.name) {
            Some(page) => page,
            None => {
                let page = Page::new(Arc::clone(limit), KEYS_MAX)?;
                self.pages.entry(limit.name.clone()).or_insert(page)
            }
        };
        let before = (page.table().len(), page.table().key_bytes());
        if !Arc::ptr_eq(page.rules().limit(), limit) {
            page.adopt(limit, now)?;
        }
        let begun_at = self.begun_at;
        let outcome = page.with(key, now, |meter| fresh(meter, begun_at, now), act);
        self.keys = self.keys + page.table().len() - before.0;
        self.key_bytes = self.key_bytes + page.table().key_bytes() - before.1;
        Ok(outcome?)
    }

    /// Drops the keys whose allowances are whole.
    fn make_room(&mut self, now: Nanos) -> Result<(), Full> {
        // A clock that was set back makes it due as well.
        if self.swept_at == Nanos::MIN || !(0..SWEEP_PAUSE).contains(&now.saturating_sub(self.swept_at)) {
            self.swept_at = now;
            self.pages.values_mut().for_each(|page| page.sweep(now));
            self.count();
        }
        if self.keys >= KEYS_MAX || self.key_bytes >= KEY_BYTES_MAX { Err(Full) } else { Ok(()) }
    }

    fn count(&mut self) {
        self.keys = self.pages.values().map(|page| page.table().len()).sum();
        self.key_bytes = self.pages.values().map(|page| page.table().key_bytes()).sum();
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

/// Lends from one allowance. What is needed may be all that there is; of the rest, a part.
fn lend(meter: &Meter, state: &mut State, need: u64, want: u64, now: Nanos) -> Loan {
    let hold = meter.hold(now);
    let at_once = need.min(meter.room(state, 0, now));
    if at_once > 0 {
        meter.take(state, at_once, 0, now);
    }
    let more = match want.saturating_sub(need).min(meter.room(state, hold, now) / PART) {
        more if at_once == need && more > 0 && meter.take(state, more, hold, now) => more,
        _ => 0,
    };
    Loan { amount: at_once + more, hold, balance: meter.balance(state, 1, now) }
}

fn fresh(meter: &Meter, begun_at: Option<Nanos>, now: Nanos) -> State {
    begun_at.map_or_else(|| meter.unused(now), |begun_at| meter.used_up(begun_at))
}
