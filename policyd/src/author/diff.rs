//! What is different between two bundles: in their texts, and in what they say of requests.
//!
//! Texts are compared by what they are called, so that moving a policy to another file is no difference. Requests are
//! those at the boundaries of both bundles' conditions (see [`crate::author::boundary`]): where that list is exhaustive and
//! nothing differs, the two bundles decide alike. What a solver proves of all requests is in [`symbolic`].

mod decisions;
mod items;
mod report;
pub mod symbolic;

pub use decisions::{Change, Decisions};
pub use items::{Edit, Edited};
pub use report::{json, text};

use crate::bundle::{Bundle, Files};

/// A bundle, and the files that it was loaded from.
#[derive(Clone, Copy, Debug)]
pub struct Side<'b> {
    /// The bundle.
    pub bundle: &'b Bundle,
    /// Its files.
    pub files: &'b Files,
}

/// All differences.
#[derive(Debug)]
pub struct Difference {
    /// What stands otherwise: policies, limits, rules, services, entities, by name.
    pub edits: Vec<Edited>,
    /// What is decided otherwise.
    pub decisions: Decisions,
}

/// Compares two bundles. `progress` is told how many services there are, and then of each that is done.
pub fn diff(old: Side<'_>, new: Side<'_>, progress: &(dyn Fn(Progress) + Sync)) -> Difference {
    Difference {
        edits: items::compare(&items::of(old), &items::of(new)),
        decisions: decisions::compare(old.bundle, new.bundle, progress),
    }
}

/// How far a comparison has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many services are to be compared.
    Services(usize),
    /// One more is done.
    Done,
}

impl Difference {
    /// Whether both bundles are the same.
    pub const fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.decisions.changes.is_empty()
    }
}

#[cfg(test)]
mod tests;
