//! The named parts of a bundle, and which of them stand otherwise in another one.

use std::collections::BTreeMap;

use cedar_policy_core::ast::EntityUID;
use serde_json::Value;
use similar::TextDiff;

use super::Side;
use crate::author::format::formatted;
use crate::bundle::{Policy, entities, schema};

/// What was done to a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It is only in the new bundle.
    Added,
    /// It is only in the old bundle.
    Removed,
    /// It is in both, with another text: the lines that differ, as `diff -u` has them.
    Changed(String),
}

/// A part that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// What it is, such as `policy`, or a file and a key of it, such as `mesh.yaml: services`.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// What was done to it.
    pub edit: Edit,
}

/// The texts of parts by kind and name.
type Items = BTreeMap<(String, String), String>;

/// The lines that are shown around those that differ.
const CONTEXT_LINES: usize = 2;

/// The parts of a bundle. In YAML and JSON neither comments nor the form count.
pub(super) fn of(side: Side<'_>) -> Items {
    let mut items = Items::new();
    let policies = side.bundle.policies.policies().map(|policy| ("policy", policy));
    let templates = side.bundle.policies.templates().map(|template| ("template", template));
    for (kind, policy) in policies.chain(templates) {
        items.insert((kind.to_owned(), policy.id().to_owned()), policy_text(policy));
    }
    for (file, text) in side.files.texts.iter().filter(|(file, _)| !file.ends_with(".cedar")) {
        match serde_saphyr::from_str::<Value>(text) {
            _ if file == schema::FILE => {
                items.insert((file.clone(), "all".to_owned()), text.clone());
            }
            Ok(Value::Object(keys)) => {
                keys.into_iter().for_each(|(key, value)| of_key(file, &key, value, &mut items))
            }
            Ok(Value::Array(listed)) if file == entities::FILE => {
                for entity in listed {
                    let uid = entity.get("uid").map(|uid| uid.get("__entity").unwrap_or(uid));
                    let part =
                        |name| uid.and_then(|uid| uid.get(name)).and_then(Value::as_str).unwrap_or_default();
                    let name = format!("{}::{}", part("type"), Value::from(part("id")));
                    items.insert((file.clone(), name), pretty(&entity));
                }
            }
            // The bundle was loaded, so that nothing reads this file as YAML.
            Ok(_) | Err(_) => {
                items.insert((file.clone(), "all".to_owned()), text.clone());
            }
        }
    }
    items
}

/// What differs, by kind and name.
pub(super) fn compare(old: &Items, new: &Items) -> Vec<Edited> {
    let names: std::collections::BTreeSet<&(String, String)> = old.keys().chain(new.keys()).collect();
    let edited = |key: &(String, String)| {
        let edit = match (old.get(key), new.get(key)) {
            (None, _) => Edit::Added,
            (_, None) => Edit::Removed,
            (Some(before), Some(after)) if before == after => return None,
            (Some(before), Some(after)) => Edit::Changed(lines(before, after)),
        };
        Some(Edited { kind: key.0.clone(), name: key.1.clone(), edit })
    };
    names.into_iter().filter_map(edited).collect()
}

fn lines(before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    diff.unified_diff().context_radius(CONTEXT_LINES).missing_newline_hint(false).to_string()
}

/// The members of a list or mapping that have names, each by itself; anything else whole.
fn of_key(file: &str, key: &str, value: Value, items: &mut Items) {
    let kind = format!("{file}: {key}");
    match value {
        Value::Object(members) => {
            items.extend(members.into_iter().map(|(name, value)| ((kind.clone(), name), pretty(&value))));
        }
        Value::Array(members) if members.iter().all(|member| name(member).is_some()) => {
            let named = members.iter().filter_map(|member| Some((name(member)?, pretty(member))));
            items.extend(named.map(|(name, text)| ((kind.clone(), name), text)));
        }
        value => {
            items.insert((file.to_owned(), key.to_owned()), pretty(&value));
        }
    }
}

fn name(member: &Value) -> Option<String> {
    let name = member.get("name").or_else(|| member.get("id"))?;
    name.as_str().map(str::to_owned)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The text of a policy in the formatter's form; of a link, that of its template and what fills its slots.
fn policy_text(policy: &Policy) -> String {
    let written = policy.written().text();
    let mut text = formatted("", written).unwrap_or_else(|_unformatted| written.to_owned());
    let slots = policy.slots().map(|link| [("?principal", &link.principal), ("?resource", &link.resource)]);
    for (slot, filled) in slots.into_iter().flatten() {
        if let Some(uid) = filled.as_deref().map(EntityUID::to_string) {
            text.push_str(&format!("// {slot}: {uid}\n"));
        }
    }
    text
}
