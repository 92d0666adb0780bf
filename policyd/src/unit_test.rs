//! Tests that an author writes for a bundle: requests, and what the policies are expected to say of them.
//!
//! They stand in `tests/*.yaml` of the bundle. Policies, limits and rules are evaluated as for a real request;
//! check adapters are not asked, for what they say depends on the world outside of the bundle.

mod read;
mod report;
pub mod request_text;

use std::collections::BTreeSet;

use model::{Attributes, Verdict};
use serde::Serialize;

pub use read::{load, request};
pub use report::{json, text};
pub use request_text::RequestText;

use crate::bundle::Bundle;
use crate::engine;

/// One test.
#[derive(Clone, Debug)]
pub struct UnitTest {
    /// What it is called.
    pub name: String,
    /// The file it stands in, relative to the bundle.
    pub file: String,
    /// The line it starts at, from 1.
    pub line: usize,
    /// The request.
    pub attributes: Attributes,
    /// What its author expects.
    pub expected: Expected,
}

/// What an author expects of a request. What is not given may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Allow or deny.
    pub decision: Verdict,
    /// The ids of the policies that determine the decision.
    pub policies: Option<BTreeSet<String>>,
    /// The names of the limits that are charged.
    pub limits: Option<BTreeSet<String>>,
    /// The names of the rules that match.
    pub rules: Option<BTreeSet<String>>,
}

/// What policies, limits and rules say of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Allow or deny.
    pub decision: Verdict,
    /// The ids of the policies that determine the decision.
    pub policies: BTreeSet<String>,
    /// The names of the limits that are charged: none for a request that is denied.
    pub limits: BTreeSet<String>,
    /// The names of the rules that match.
    pub rules: BTreeSet<String>,
    /// Why it is so, for people.
    pub message: String,
}

/// A test, and what came out of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The test.
    pub test: UnitTest,
    /// What the policies say.
    pub got: Answer,
}

/// Runs tests, in their order.
pub fn run(bundle: &Bundle, tests: Vec<UnitTest>) -> Vec<Outcome> {
    let outcome = |test: UnitTest| Outcome { got: Answer::of(bundle, &test.attributes), test };
    tests.into_iter().map(outcome).collect()
}

impl Answer {
    /// What the bundle says of a request, its check adapters aside.
    ///
    /// A request that can't be evaluated is denied, as it would be by policyd.
    pub fn of(bundle: &Bundle, attributes: &Attributes) -> Self {
        match engine::evaluate(bundle, attributes) {
            Ok(evaluation) => Self::from_evaluation(bundle, &evaluation),
            Err(error) => Self {
                decision: Verdict::Deny,
                policies: BTreeSet::new(),
                limits: BTreeSet::new(),
                rules: BTreeSet::new(),
                message: error.to_string(),
            },
        }
    }

    /// What an evaluation says. All `forbid` policies that are satisfied are told, not only the first.
    pub fn from_evaluation(bundle: &Bundle, evaluation: &engine::Evaluation<'_>) -> Self {
        let opinion = &evaluation.opinion;
        let decision = if opinion.degraded { Verdict::Deny } else { opinion.verdict };
        let forbidden = decision == Verdict::Deny && !opinion.reasons.is_empty();
        let policies: BTreeSet<String> = if forbidden {
            evaluation.forbids(bundle).into_iter().collect()
        } else {
            opinion.reasons.iter().cloned().collect()
        };
        let message = match decision {
            Verdict::Allow => format!("permitted by {}", quoted(&policies)),
            Verdict::Deny if policies.is_empty() => opinion.message.clone(),
            Verdict::Deny => format!("forbidden by {}", quoted(&policies)),
        };
        let charged = evaluation.limits.iter().filter(|_| decision == Verdict::Allow);
        Self {
            decision,
            policies,
            limits: charged.cloned().collect(),
            rules: evaluation.rules.iter().cloned().collect(),
            message,
        }
    }
}

impl Outcome {
    /// Whether all is as expected.
    pub fn passed(&self) -> bool {
        self.differences().is_empty()
    }

    /// What is not as expected: what it is, what was expected, what came.
    pub fn differences(&self) -> Vec<(&'static str, String, String)> {
        let (expected, got) = (&self.test.expected, &self.got);
        let mut differences = Vec::new();
        if expected.decision != got.decision {
            differences.push(("decision", word(expected.decision).into(), word(got.decision).into()));
        }
        let sets = [
            ("policies", &expected.policies, &got.policies),
            ("limits", &expected.limits, &got.limits),
            ("rules", &expected.rules, &got.rules),
        ];
        for (what, expected, got) in sets {
            if let Some(expected) = expected.as_ref().filter(|expected| *expected != got) {
                differences.push((what, quoted(expected), quoted(got)));
            }
        }
        differences
    }
}

/// A decision as it is written in files.
pub const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// Names in backticks, or `none`.
fn quoted(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
