//! What came out of tests, for people and for programs.

use serde_json::{Value, json};

use super::{Expected, Outcome, word};

/// The failures as differences, and one line that sums up, such as `12 passed, 1 failed`.
pub fn text(outcomes: &[Outcome]) -> String {
    let failures = outcomes.iter().filter(|outcome| !outcome.passed()).map(failure);
    let (passed, failed) = counts(outcomes);
    format!("{}{passed} passed, {failed} failed\n", failures.collect::<String>())
}

/// Counts, and each test with what was expected and what came.
pub fn json(outcomes: &[Outcome]) -> Value {
    let (passed, failed) = counts(outcomes);
    let tests: Vec<Value> = outcomes.iter().map(one).collect();
    json!({ "passed": passed, "failed": failed, "tests": tests })
}

fn counts(outcomes: &[Outcome]) -> (usize, usize) {
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    (passed, outcomes.len() - passed)
}

fn failure(outcome: &Outcome) -> String {
    let test = &outcome.test;
    let mut text = format!("failed: {}\n  --> {}:{}\n", test.name, test.file, test.line);
    for (what, expected, got) in outcome.differences() {
        text.push_str(&format!("   | {what:<8}  expected  {expected}\n   | {:<8}  got       {got}\n", ""));
    }
    text.push_str(&format!("   = {}\n\n", outcome.got.message));
    text
}

fn one(outcome: &Outcome) -> Value {
    let Expected { decision, policies, limits, rules } = &outcome.test.expected;
    json!({
        "name": outcome.test.name,
        "file": outcome.test.file,
        "line": outcome.test.line,
        "passed": outcome.passed(),
        "expected": {
            "decision": word(*decision),
            "policies": policies,
            "limits": limits,
            "rules": rules,
        },
        "got": outcome.got,
    })
}
