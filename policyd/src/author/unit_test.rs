//! Tests that an author writes for a bundle: requests, and what the policies are expected to say of them.
//!
//! They stand in `tests/*.yaml` of the bundle. Policies, limits and rules are evaluated as for a real request;
//! check adapters are not asked, for what they say depends on the world outside of the bundle.

mod read;
mod report;
pub mod request_text;
mod shown;

use std::collections::BTreeSet;

use model::{Attributes, Verdict};
use serde::Serialize;

pub(crate) use read::RawFile;
#[cfg(test)]
pub(crate) use read::parse;
pub use read::{load, request};
pub use report::{json, text};
pub use request_text::RequestText;
pub use shown::test_text;

use crate::bundle::Bundle;
use crate::engine;
use request_text::near;

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

/// The test that is called `wanted`, or that stands at `wanted`, such as `tests/acl.yaml:14`.
///
/// # Errors
/// When there is none, or several of this name.
pub fn find(tests: Vec<UnitTest>, wanted: &str) -> Result<UnitTest, FindError> {
    let (named, others): (Vec<_>, Vec<_>) =
        tests.into_iter().partition(|test| test.name == wanted || test.place() == wanted);
    let several = named.iter().map(UnitTest::place).collect::<Vec<_>>().join("`, `");
    match <[UnitTest; 1]>::try_from(named) {
        Ok([test]) => Ok(test),
        Err(named) if named.is_empty() => {
            let help =
                near(wanted, others.iter().map(|test| test.name.as_str()), "see `tidegate policy test`");
            Err(FindError::Unknown(wanted.to_owned(), help))
        }
        Err(_several) => Err(FindError::Ambiguous(wanted.to_owned(), several)),
    }
}

/// Why no test was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is none: and what to do about it.
    #[error("there is no test `{0}`: {1}")]
    Unknown(String, String),
    /// Tests in several files have the name: their places.
    #[error("several tests are called `{0}`: name one by its place, `{1}`")]
    Ambiguous(String, String),
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

impl UnitTest {
    /// Its file and line.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

impl Outcome {
    /// Whether all is as expected.
    pub fn passed(&self) -> bool {
        self.compared().iter().all(|part| part.expected == part.got)
    }

    /// What was expected and what came, as a test has it, and whether that is the same. What its author does not say
    /// is left out.
    pub fn compared(&self) -> Vec<Compared> {
        let (expected, got) = (&self.test.expected, &self.got);
        let decision = Compared {
            key: "decision",
            expected: word(expected.decision).to_owned(),
            got: word(got.decision).to_owned(),
        };
        let sets = [
            ("policies", &expected.policies, &got.policies),
            ("limits", &expected.limits, &got.limits),
            ("rules", &expected.rules, &got.rules),
        ];
        let sets = sets.into_iter().filter_map(|(key, expected, got)| {
            Some(Compared { key, expected: list(expected.as_ref()?), got: list(got) })
        });
        std::iter::once(decision).chain(sets).collect()
    }
}

/// A part of what is expected, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Its key in a test.
    pub key: &'static str,
    /// What was expected, in YAML.
    pub expected: String,
    /// What came, in YAML.
    pub got: String,
}

/// A decision as it is written in files.
pub const fn word(verdict: Verdict) -> &'static str {
    verdict.as_str()
}

/// A list in YAML.
fn list(names: &BTreeSet<String>) -> String {
    let names: Vec<String> = names.iter().map(|name| shown::plain(name)).collect();
    format!("[{}]", names.join(", "))
}

/// Names in backticks, or `none`.
pub(crate) fn quoted(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
