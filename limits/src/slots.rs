//! So many at once: who holds how many, and until when.
//!
//! Whoever is lent slots holds them until it says otherwise, or until the loan ends unless it is renewed: a
//! proxy that crashes takes none with it for long. **The sum of what is held never exceeds the count**; a
//! request that outlives its proxy's loan, because nobody could be asked for as long as a loan lasts, is still
//! under way though nobody counts it.

use crate::Nanos;

/// Who holds slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders(Vec<Holder>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    id: u64,
    held: u64,
    until: Nanos,
}

impl Holders {
    /// How many are held by all.
    pub fn held(&self, now: Nanos) -> u64 {
        self.0
            .iter()
            .filter(|holder| holder.until > now)
            .map(|holder| holder.held)
            .fold(0, u64::saturating_add)
    }

    /// How many `id` holds.
    pub fn of(&self, id: u64) -> u64 {
        self.0.iter().find(|holder| holder.id == id).map_or(0, |holder| holder.held)
    }

    /// Lets `id` hold `want` from now on, or as many more than it holds as there are; until `until`. Says how many.
    ///
    /// It says the whole number rather than a difference, so that saying it twice changes nothing. O(holders).
    pub fn hold(&mut self, id: u64, want: u64, count: u64, until: Nanos, now: Nanos) -> u64 {
        self.0.retain(|holder| holder.until > now && holder.id != id);
        let held = want.min(count.saturating_sub(self.held(now)));
        if held > 0 {
            self.0.push(Holder { id, held, until });
        }
        held
    }

    /// When the last loan ends.
    pub fn whole_at(&self) -> Nanos {
        self.0.iter().map(|holder| holder.until).max().unwrap_or(Nanos::MIN)
    }

    /// When the next loan ends.
    pub fn next(&self, now: Nanos) -> Option<Nanos> {
        self.0.iter().map(|holder| holder.until).filter(|until| *until > now).min()
    }
}
