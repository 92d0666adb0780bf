//! What came of a replay: counts, and an example of each.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use model::{Name, Verdict};
use serde::Serialize;

/// The most groups of changes that are told apart; what changes otherwise is counted together.
pub const GROUPS_MAX: usize = 10_000;

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that were decided again.
    pub replayed: u64,
    /// How often the bundle was evaluated for them.
    pub evaluated: u64,
    /// Of them, those that are decided alike, but for other reasons.
    pub for_other_reasons: u64,
    /// Of them, those about which check adapters would be asked as well.
    pub to_ask: u64,
    /// What would change.
    pub changes: HashMap<Change, Counted<Example>>,
    /// Changes beyond [`GROUPS_MAX`] groups.
    pub ungrouped: u64,
    /// Lines that could not be decided again, and why.
    pub skipped: BTreeMap<Skip, Counted<Place>>,
}

/// Decisions that would change in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// The service called.
    pub service: String,
    /// Who called.
    pub principal: String,
    /// What was said then.
    pub before: Said,
    /// What the bundle says.
    pub after: Said,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Said {
    /// Allow or deny.
    pub verdict: Verdict,
    /// Who determined it.
    pub reasons: Vec<String>,
    /// The limits that are charged.
    pub limits: Vec<String>,
    /// The report rules that fire.
    pub rules: Vec<String>,
}

/// Why a line could not be decided again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// It is no line of a decision log.
    Unreadable,
    /// It is longer than any line of a decision log.
    TooLong,
    /// No decision could be had then, so there is nothing to compare with.
    Undecided,
    /// It does not say who called.
    MaskedCaller,
    /// The bundle reads this, and it is masked.
    Masked(Name),
    /// The bundle reads this, and the bundle of then did not.
    NotLogged(Name),
}

/// So many, and the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted<T> {
    /// How many.
    pub count: u64,
    /// The first.
    pub first: T,
}

/// Where a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which log, from 0.
    pub log: usize,
    /// The line, from 1.
    pub line: u64,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Example {
    /// Where it stands.
    pub place: Place,
    /// When it arrived.
    pub ts: Timestamp,
    /// Its name in all logs.
    pub request_id: String,
    /// Its method; empty where it is masked.
    pub method: String,
    /// Its path; likewise.
    pub path: String,
}

impl Tally {
    /// How many decisions would change.
    pub fn changed(&self) -> u64 {
        self.changes.values().map(|counted| counted.count).sum::<u64>() + self.ungrouped
    }

    /// How many lines could not be decided again.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().map(|counted| counted.count).sum()
    }

    /// Both tallies as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.replayed += other.replayed;
        self.evaluated += other.evaluated;
        self.for_other_reasons += other.for_other_reasons;
        self.to_ask += other.to_ask;
        self.ungrouped += other.ungrouped;
        other.changes.into_iter().for_each(|(change, counted)| self.add(change, counted));
        for (skip, counted) in other.skipped {
            let ours = self.skipped.entry(skip).or_insert(Counted { count: 0, ..counted });
            ours.count += counted.count;
            ours.first = ours.first.min(counted.first);
        }
        self
    }

    pub(super) fn change(&mut self, change: Change, example: Example) {
        self.add(change, Counted { count: 1, first: example });
    }

    pub(super) fn skip(&mut self, skip: Skip, place: Place) {
        let counted = self.skipped.entry(skip).or_insert(Counted { count: 0, first: place });
        counted.count += 1;
        counted.first = counted.first.min(place);
    }

    fn add(&mut self, change: Change, counted: Counted<Example>) {
        if let Some(ours) = self.changes.get_mut(&change) {
            ours.count += counted.count;
            if counted.first < ours.first {
                ours.first = counted.first;
            }
        } else if self.changes.len() < GROUPS_MAX {
            self.changes.insert(change, counted);
        } else {
            self.ungrouped += counted.count;
        }
    }
}

impl Said {
    /// Whether both do the same to a request, for whatever reasons.
    pub(super) fn does_as(&self, other: &Self) -> bool {
        (self.verdict, &self.limits, &self.rules) == (other.verdict, &other.limits, &other.rules)
    }
}
