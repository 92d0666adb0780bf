//! An explanation, for people and for programs.

use std::collections::BTreeSet;

use model::Verdict;
use serde_json::{Map, Value, json};

use super::{CameTo, Explained, Explanation, Place, Unmet};
use crate::unit_test::word;

/// The decision, then each policy with the parts that do not hold, and the values these read.
pub fn text(explanation: &Explanation) -> String {
    let answer = &explanation.answer;
    let mut text = format!("{}: {}\n", word(answer.decision), answer.message);
    for policy in &explanation.policies {
        text.push('\n');
        text.push_str(&policy_text(policy));
    }
    match explanation.others {
        0 => {}
        1 => text.push_str("\n1 other policy is for other services\n"),
        others => text.push_str(&format!("\n{others} other policies are for other services\n")),
    }
    text.push_str(&format!("\nlimits charged: {}\n", listed(&answer.limits)));
    text.push_str(&format!("rules that match: {}\n", listed(&answer.rules)));
    text
}

/// The same as a JSON object.
pub fn json(explanation: &Explanation) -> Value {
    let answer = &explanation.answer;
    json!({
        "decision": answer.decision,
        "message": answer.message,
        "policies": answer.policies,
        "limits": answer.limits,
        "rules": answer.rules,
        "explained": explanation.policies.iter().map(policy_json).collect::<Vec<_>>(),
        "others": explanation.others,
    })
}

fn policy_text(policy: &Explained) -> String {
    let satisfied = if policy.unmet.is_empty() { "is satisfied" } else { "is not satisfied" };
    let mut text =
        format!("{} `{}` {satisfied}{}\n", effect(policy), policy.id, shown(policy.place.as_ref()));
    for unmet in &policy.unmet {
        text.push_str(&unmet_text(unmet));
    }
    text
}

fn unmet_text(unmet: &Unmet) -> String {
    let part = match unmet.part {
        // A scope's text starts with its name.
        "when" | "unless" => format!("{} {{ {} }}", unmet.part, unmet.text),
        _ => unmet.text.clone(),
    };
    let came_to = match &unmet.came_to {
        CameTo::True => "is true".to_owned(),
        CameTo::False => "is false".to_owned(),
        CameTo::Error(why) => format!("fails: {why}"),
    };
    let mut text = format!("  {part} {came_to}{}\n", shown(unmet.place.as_ref()));
    for (name, value) in &unmet.values {
        text.push_str(&format!("    {name} = {value}\n"));
    }
    text
}

fn policy_json(policy: &Explained) -> Value {
    let unmet: Vec<Value> = policy.unmet.iter().map(unmet_json).collect();
    json!({
        "id": policy.id,
        "effect": effect(policy),
        "place": policy.place,
        "satisfied": policy.unmet.is_empty(),
        "unmet": unmet,
    })
}

fn unmet_json(unmet: &Unmet) -> Value {
    let (value, error) = match &unmet.came_to {
        CameTo::True => (Some(true), None),
        CameTo::False => (Some(false), None),
        CameTo::Error(why) => (None, Some(why)),
    };
    let reads: Map<String, Value> =
        unmet.values.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({
        "part": unmet.part,
        "text": unmet.text,
        "place": unmet.place,
        "value": value,
        "error": error,
        "reads": reads,
    })
}

fn effect(policy: &Explained) -> &'static str {
    match policy.effect {
        Verdict::Allow => "permit",
        Verdict::Deny => "forbid",
    }
}

fn shown(place: Option<&Place>) -> String {
    place.map(|Place { file, line }| format!("  ({file}:{line})")).unwrap_or_default()
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
