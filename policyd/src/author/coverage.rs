//! What a set of requests has tried of a bundle's policies, limits and rules.
//!
//! Each part of a condition has two outcomes, true and false, and each policy has one, that it is satisfied. A part that
//! Cedar never reached in a request, because one before it ended the evaluation, has no outcome in that request. The
//! scope is no part: that it does not fit most requests tells nothing. Shadow policies are tried as well, but no total has
//! them: what is not enforced can't be tested.

mod lcov;

use daemon::Findings;
use model::Attributes;
use serde_json::{Value, json};

pub use lcov::lcov;

use crate::bundle::clauses::{self, CameTo, Clauses, Kind, Part, Place};
use crate::bundle::{Bundle, Files};
use crate::engine::{self, Evaluation};

/// What was tried.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// How many requests there were.
    pub requests: usize,
    /// The policies by file, in the order of their places; limits and rules behind them.
    pub policies: Vec<Covered>,
}

/// What was tried of a policy, limit or rule.
#[derive(Clone, Debug)]
pub struct Covered {
    /// Its id or name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it is not enforced.
    pub is_shadow: bool,
    /// Where it stands.
    pub place: Place,
    /// How many requests its scope fits.
    pub in_scope: usize,
    /// How many requests satisfy it.
    pub satisfied: usize,
    /// The parts of its conditions, but for those that are a literal `true` or `false`.
    pub parts: Vec<Tried>,
}

/// What was tried of a part of a condition: in how many requests it came to what.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The part.
    pub part: Part,
    /// It held.
    pub held: usize,
    /// It did not hold.
    pub did_not: usize,
    /// Its evaluation failed.
    pub failed: usize,
}

/// A number of outcomes, and how many of them were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many were seen.
    pub seen: usize,
    /// How many there are.
    pub of: usize,
}

/// Evaluates each policy of `bundle`, which was loaded from `files`, on each request. A request that makes no Cedar
/// request tries nothing.
///
/// O(requests × policies).
///
/// # Errors
/// When the files are not those of the bundle.
pub fn measure<'a>(
    bundle: &Bundle,
    files: &Files,
    requests: impl IntoIterator<Item = &'a Attributes>,
) -> Result<Coverage, Findings> {
    let mut all = clauses::read(files, &bundle.mesh)?;
    all.sort_by(|left, right| order(left).cmp(&order(right)));
    let mut coverage = Coverage { requests: 0, policies: all.iter().map(Covered::untried).collect() };
    for attributes in requests {
        coverage.requests += 1;
        let Ok(evaluation) = engine::evaluate(bundle, attributes) else { continue };
        for (clauses, covered) in all.iter().zip(&mut coverage.policies) {
            covered.tried_on(clauses, &evaluation);
        }
    }
    Ok(coverage)
}

fn order(clauses: &Clauses) -> (bool, &str, usize) {
    let behind = matches!(clauses.kind, Kind::Limit | Kind::Rule);
    (behind, &clauses.place.file, clauses.place.start)
}

impl Coverage {
    /// What is enforced: all but shadow policies.
    pub fn enforced(&self) -> impl Iterator<Item = &Covered> {
        self.policies.iter().filter(|policy| !policy.is_shadow)
    }

    /// All outcomes: that each policy is satisfied, and that each part is true and false.
    pub fn outcomes(&self) -> Share {
        self.enforced().map(Covered::outcomes).fold(Share::default(), Share::and)
    }

    /// The policies that some request satisfied.
    pub fn satisfied(&self) -> Share {
        let seen = self.enforced().filter(|policy| policy.satisfied > 0).count();
        Share { seen, of: self.enforced().count() }
    }

    /// As a JSON object.
    pub fn json(&self) -> Value {
        let Share { seen, of } = self.outcomes();
        json!({
            "requests": self.requests,
            "seen": seen,
            "outcomes": of,
            "percent": self.outcomes().percent(),
            "policies": self.policies.iter().map(Covered::json).collect::<Vec<_>>(),
        })
    }
}

impl Covered {
    fn untried(clauses: &Clauses) -> Self {
        let tried = |part: &Part| Tried { part: part.clone(), held: 0, did_not: 0, failed: 0 };
        let parts = clauses.conditions.iter().flat_map(|condition| &condition.parts);
        Self {
            name: clauses.name.clone(),
            kind: clauses.kind,
            is_shadow: clauses.is_shadow,
            place: clauses.place.clone(),
            in_scope: 0,
            satisfied: 0,
            parts: parts.filter(|part| !part.is_constant()).map(tried).collect(),
        }
    }

    /// Adds what one request tries, which ends where Cedar's evaluation ends.
    fn tried_on(&mut self, clauses: &Clauses, evaluation: &Evaluation<'_>) {
        if clauses.scope.iter().any(|part| part.came_to(evaluation) != CameTo::True) {
            return;
        }
        self.in_scope += 1;
        let mut tried = self.parts.iter_mut();
        for condition in &clauses.conditions {
            let mut holds = CameTo::True;
            for part in &condition.parts {
                let counted = if part.is_constant() { None } else { tried.next() };
                if holds == CameTo::True {
                    holds = part.came_to(evaluation);
                    counted.into_iter().for_each(|counted| counted.count(&holds));
                }
            }
            let wanted = if condition.is_unless { CameTo::False } else { CameTo::True };
            if holds != wanted {
                return;
            }
        }
        self.satisfied += 1;
    }

    /// Its outcomes: that it is satisfied, and those of its parts.
    pub fn outcomes(&self) -> Share {
        let own = Share { seen: usize::from(self.satisfied > 0), of: 1 };
        self.parts.iter().map(Tried::outcomes).fold(own, Share::and)
    }

    fn json(&self) -> Value {
        let part = |tried: &Tried| {
            json!({
                "part": tried.part.word,
                "text": tried.part.text,
                "place": tried.part.place,
                "true": tried.held,
                "false": tried.did_not,
                "error": tried.failed,
            })
        };
        json!({
            "kind": self.kind,
            "shadow": self.is_shadow,
            "name": self.name,
            "place": self.place,
            "in_scope": self.in_scope,
            "satisfied": self.satisfied,
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(),
        })
    }
}

impl Tried {
    /// True and false.
    pub const fn outcomes(&self) -> Share {
        Share { seen: (self.held > 0) as usize + (self.did_not > 0) as usize, of: 2 }
    }

    /// In how many requests it was reached.
    pub const fn reached(&self) -> usize {
        self.held + self.did_not + self.failed
    }

    const fn count(&mut self, came_to: &CameTo) {
        match came_to {
            CameTo::True => self.held += 1,
            CameTo::False => self.did_not += 1,
            CameTo::Error(_) => self.failed += 1,
        }
    }
}

impl Share {
    /// From 0 to 100, rounded down to a tenth, so that 100 means all. All of nothing is 100.
    #[expect(clippy::cast_precision_loss, reason = "no bundle has 2^52 outcomes")]
    pub const fn percent(self) -> f64 {
        match (self.seen * 1000).checked_div(self.of) {
            Some(tenths) => tenths as f64 / 10.0,
            None => 100.0,
        }
    }

    const fn and(self, other: Self) -> Self {
        Self { seen: self.seen + other.seen, of: self.of + other.of }
    }
}

#[cfg(test)]
mod tests;
