//! An explanation, for people and for programs.

use std::collections::BTreeSet;

use daemon::Excerpt;
use serde_json::{Map, Value, json};

use super::{CameTo, Explained, Explanation, Place, Unmet};
use crate::bundle::Files;
use crate::unit_test::word;

/// The decision, then each policy with the parts that do not hold, and the values these read. `files` are those that
/// were explained.
pub fn text(explanation: &Explanation, files: &Files, color: bool) -> String {
    let answer = &explanation.answer;
    let mut text = format!("{}: {}\n", word(answer.decision), answer.message);
    for policy in &explanation.policies {
        text.push('\n');
        text.push_str(&policy_text(policy, files, color));
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

fn policy_text(policy: &Explained, files: &Files, color: bool) -> String {
    let satisfied = if policy.unmet.is_empty() { "satisfied" } else { "not satisfied" };
    let Place { file, line, column, .. } = &policy.place;
    let remark = |unmet: &Unmet| (unmet.part.place.start..unmet.part.place.end, remark(unmet));
    let excerpt = Excerpt {
        kind: policy.kind.as_str(),
        title: &format!("`{}` is {satisfied}", policy.id),
        file,
        source: files.text(file).unwrap_or_default(),
        at: (*line, *column),
        remarks: policy.unmet.iter().map(remark).collect(),
    };
    excerpt.render(color)
}

/// What a part came to, and the values that made it so.
fn remark(unmet: &Unmet) -> String {
    let came_to = match &unmet.came_to {
        CameTo::True => "true",
        CameTo::False => "false",
        CameTo::Error(why) => &format!("fails: {why}"),
    };
    let values: Vec<String> = unmet.values.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    if values.is_empty() { came_to.to_owned() } else { format!("{came_to}: {}", values.join(", ")) }
}

fn policy_json(policy: &Explained) -> Value {
    let unmet: Vec<Value> = policy.unmet.iter().map(unmet_json).collect();
    json!({
        "id": policy.id,
        "effect": policy.kind,
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
        "part": unmet.part.word,
        "text": unmet.part.text,
        "place": unmet.part.place,
        "value": value,
        "error": error,
        "reads": reads,
    })
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
