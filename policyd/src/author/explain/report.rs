//! An explanation, for people and for programs.

use std::collections::BTreeSet;

use daemon::Excerpt;
use model::Verdict;
use model::decision::Opinion;
use serde_json::{Map, Value, json};

use super::{CameTo, Change, Explained, Explanation, Place, Unmet, Verified, Want};
use crate::author::unit_test::{quoted, word};
use crate::bundle::Files;

/// The decision, then each policy with the parts that do not hold, and the values these read. `files` are those that
/// were explained.
pub fn text(explanation: &Explanation, files: &Files, color: bool) -> String {
    let answer = &explanation.answer;
    let mut text = format!("{}: {}\n", word(answer.decision), answer.message);
    if let Some(Opinion { verdict, reasons, message, .. }) = &explanation.shadow {
        let why = match verdict {
            Verdict::Allow => format!("permitted by {}", quoted(&reasons.iter().cloned().collect())),
            Verdict::Deny => message.clone(),
        };
        text.push_str(&format!("with the shadow policies enforced, {}: {why}\n", word(*verdict)));
    }
    for policy in &explanation.policies {
        text.push('\n');
        text.push_str(&policy_text(policy, files, color));
    }
    match explanation.others {
        0 => {}
        1 => text.push_str("\n1 other policy is for other services\n"),
        others => text.push_str(&format!("\n{others} other policies are for other services\n")),
    }
    text.push_str(&changes_text(explanation));
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
        "shadow": explanation.shadow.as_ref().map(shadow_json),
        "explained": explanation.policies.iter().map(policy_json).collect::<Vec<_>>(),
        "others": explanation.others,
        "changes": explanation.changes.iter().map(change_json).collect::<Vec<_>>(),
    })
}

/// What would have to change, each change with what verified it.
fn changes_text(explanation: &Explanation) -> String {
    let otherwise = match explanation.answer.decision {
        Verdict::Allow => "denied",
        Verdict::Deny => "allowed",
    };
    let heading = match explanation.changes.as_slice() {
        [] => return String::new(),
        [_] => format!("\nto be {otherwise}:\n"),
        _ => format!("\nto be {otherwise}, one of:\n"),
    };
    let change = |change: &Change| {
        let want = |Want { subject, wanted, is, policy, place: Place { file, line, column, .. } }: &Want| {
            format!("{subject} would have to {wanted} (is {is}), for `{policy}` at {file}:{line}:{column}\n")
        };
        let wants: Vec<String> = change.wants.iter().map(want).collect();
        let verified = match &change.verified {
            None => "    not verified: no such request was found\n".to_owned(),
            Some(Verified { differences, .. }) => {
                let with: Vec<String> =
                    differences.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("    verified: {otherwise} with {}\n", with.join(", "))
            }
        };
        format!("  - {}{verified}", wants.join("    and "))
    };
    heading + &explanation.changes.iter().map(change).collect::<String>()
}

fn policy_text(policy: &Explained, files: &Files, color: bool) -> String {
    let satisfied = match (policy.unmet.is_empty(), policy.is_shadow) {
        (true, false) => "satisfied",
        (true, true) => "satisfied, and not enforced",
        (false, _) => "not satisfied",
    };
    let Place { file, line, column, .. } = &policy.place;
    let remark = |unmet: &Unmet| (unmet.part.place.start..unmet.part.place.end, remark(unmet));
    let excerpt = Excerpt {
        kind: policy.kind.marked(policy.is_shadow),
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

fn shadow_json(shadow: &Opinion) -> Value {
    let Opinion { verdict, reasons, message, .. } = shadow;
    json!({"decision": verdict, "policies": reasons, "message": message})
}

fn policy_json(policy: &Explained) -> Value {
    let unmet: Vec<Value> = policy.unmet.iter().map(unmet_json).collect();
    json!({
        "id": policy.id,
        "effect": policy.kind,
        "shadow": policy.is_shadow,
        "place": policy.place,
        "satisfied": policy.unmet.is_empty(),
        "unmet": unmet,
    })
}

fn change_json(change: &Change) -> Value {
    let want = |Want { subject, wanted, is, policy, place }: &Want| json!({"subject": subject, "wanted": wanted, "is": is, "policy": policy, "place": place});
    json!({
        "wants": change.wants.iter().map(want).collect::<Vec<_>>(),
        "verified": change.verified.is_some(),
        "request": change.verified.as_ref().map(|verified| &verified.request),
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
