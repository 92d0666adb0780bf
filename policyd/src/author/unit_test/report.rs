//! What came out of tests, for people and for programs.

use anstyle::{AnsiColor, Effects, Style};
use serde_json::{Value, json};

use super::{Compared, Expected, Outcome, RequestText, word};

/// The failures as differences, and one line that sums up, such as `12 passed, 1 failed`. `bundle` is the folder as its
/// user calls it.
pub fn text(outcomes: &[Outcome], bundle: &str, color: bool) -> String {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed());
    let same_name = |name: &str| outcomes.iter().filter(|outcome| outcome.test.name == name).count();
    let failures = failed.map(|outcome| {
        let test = &outcome.test;
        let name = if same_name(&test.name) > 1 { test.place() } else { test.name.clone() };
        let hint = format!("tidegate policy explain {} --test {}", quoted(bundle), quoted(&name));
        failure(outcome, &hint, color)
    });
    let failures: String = failures.collect();
    let (passed, failed) = counts(outcomes);
    format!("{failures}{passed} passed, {failed} failed\n")
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

fn failure(outcome: &Outcome, hint: &str, color: bool) -> String {
    let styled = |style: Style, text: &str| {
        if color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    };
    let test = &outcome.test;
    let mut text = styled(RED.effects(Effects::BOLD), "failed");
    text.push_str(&format!(": {}\n  --> {}\n   | request:\n", test.name, test.place()));
    for (key, value) in RequestText::of(&test.attributes).entries() {
        text.push_str(&format!("   |   {key}: {value}\n"));
    }
    text.push_str("   | expect:\n");
    for Compared { key, expected, got } in outcome.compared() {
        let expected = format!("{key}: {expected}");
        if expected == format!("{key}: {got}") {
            text.push_str(&format!("   |   {expected}\n"));
        } else {
            let lines = [styled(RED, &format!("- {expected}")), styled(GREEN, &format!("+ {key}: {got}"))];
            lines.iter().for_each(|line| text.push_str(&format!("   | {line}\n")));
        }
    }
    text.push_str(&format!("   = {}\n   = help: {hint}\n\n", outcome.got.message));
    text
}

const RED: Style = AnsiColor::Red.on_default();
const GREEN: Style = AnsiColor::Green.on_default();

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._:@-".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn one(outcome: &Outcome) -> Value {
    let Expected { decision, policies, limits, rules } = &outcome.test.expected;
    json!({
        "name": outcome.test.name,
        "file": outcome.test.file,
        "line": outcome.test.line,
        "passed": outcome.passed(),
        "request": RequestText::of(&outcome.test.attributes),
        "expected": {
            "decision": word(*decision),
            "policies": policies,
            "limits": limits,
            "rules": rules,
        },
        "got": outcome.got,
    })
}
