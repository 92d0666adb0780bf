//! Which state of the policies an answer came from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A numbered state of everything that decides: bundle, entities, and the content of check adapters.
///
/// `epoch` names one life of policyd (it changes when policyd restarts); `number` only grows within it.
/// Two answers with equal revisions were computed from the same state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// One life of policyd.
    pub epoch: u64,
    /// Grows by one with each change.
    pub number: u64,
}

impl Revision {
    /// The revision after this one, in the same epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { epoch: self.epoch, number: self.number.saturating_add(1) }
    }

    /// Whether an answer of this revision may still be used where `floor` is the oldest allowed.
    ///
    /// An answer of another epoch never is: numbers of different epochs don't compare.
    pub const fn reaches(self, floor: Self) -> bool {
        self.epoch == floor.epoch && self.number >= floor.number
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.epoch, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_reached_only_within_its_epoch() {
        let at = |epoch, number| Revision { epoch, number };
        assert!(at(1, 5).reaches(at(1, 5)));
        assert!(at(1, 6).reaches(at(1, 5)));
        assert!(!at(1, 4).reaches(at(1, 5)));
        assert!(!at(2, 9).reaches(at(1, 5)));
        assert_eq!(at(1, 5).next(), at(1, 6));
    }
}
