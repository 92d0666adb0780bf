//! Types that the author's schema gives to headers, query parameters, cookies and claims:
//! `type Headers = { "x-tier"?: Long };`.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::SchemaFragment;
use daemon::finding::Findings;
use model::{Kind, Name, Record};
use serde_json::Value;

use crate::bundle::cedar_text::Place;

/// The types that names have other than by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(BTreeMap<Name, Kind>);

/// The records whose fields may have types, and their types' names in the schema.
pub(super) const RECORDS: [(&str, Record); 4] = [
    ("Headers", Record::Headers),
    ("Query", Record::Query),
    ("Cookies", Record::Cookies),
    ("Claims", Record::Claims),
];

impl Types {
    /// The types in the author's schema. What is wrong with it is for [`super::build`] to say.
    pub fn read(author: Option<&str>) -> Self {
        let fragment = author.and_then(|text| SchemaFragment::from_cedarschema_str(text).ok());
        let schema = fragment.and_then(|(fragment, _warnings)| fragment.to_json_value().ok());
        let mut types = BTreeMap::new();
        for (name, record) in RECORDS {
            let declaration =
                schema.as_ref().and_then(|schema| schema.get("")?.get("commonTypes")?.get(name));
            for (field, declared) in declaration.into_iter().flat_map(fields).flatten() {
                if let Some(kind) = kind(declared) {
                    types.insert(record.name_of(field.clone()), kind);
                }
            }
        }
        Self(types)
    }

    /// What a text is read as, if it is not left as it is.
    pub fn of(&self, name: &Name) -> Option<Kind> {
        self.0.get(name).copied().filter(|kind| *kind != Kind::Text)
    }

    /// The names that have a type.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    /// All names that have a type, or are among `names`.
    pub(super) fn declare(&self, names: BTreeSet<Name>) -> BTreeMap<Name, Kind> {
        let mut declared: BTreeMap<Name, Kind> = names.into_iter().map(|name| (name, Kind::Text)).collect();
        declared.extend(self.0.iter().map(|(name, kind)| (name.clone(), *kind)));
        declared
    }
}

/// Whether a type of this name says what a record of the request holds.
pub(super) fn is_record(name: &str) -> bool {
    RECORDS.iter().any(|(record, _)| *record == name)
}

/// Checks what the author's schema declares under the name of a record.
pub(super) fn check(name: &str, declaration: &Value, place: &Place<'_>, findings: &mut Findings) {
    let Some(fields) = fields(declaration) else {
        let finding = place.finding(format!("`{name}` has to be a record"));
        return findings.push(finding.with_help(format!("write `type {name} = {{ \"…\"?: Long }};`")));
    };
    for (field, declared) in fields {
        if declared.get("required") != Some(&Value::Bool(false)) {
            let message = format!("`{field}` of `{name}` has to be optional, for requests that lack it");
            findings.push(place.finding(message).with_help(format!("write `{field}?: …`")));
        } else if kind(declared).is_none() {
            let message = format!("`{field}` of `{name}` has a type that no text is read as");
            let kinds = Kind::ALL.map(Kind::as_str).join("`, `");
            findings.push(place.finding(message).with_help(format!("use one of `{kinds}`")));
        }
    }
}

fn fields(declaration: &Value) -> Option<&serde_json::Map<String, Value>> {
    let is_record = declaration.get("type").and_then(Value::as_str) == Some("Record");
    declaration.get("attributes").and_then(Value::as_object).filter(|_| is_record)
}

/// The kind with the type that a field has in a schema's JSON.
fn kind(declared: &Value) -> Option<Kind> {
    let text = |value: &Value, key| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = |value: &Value| match text(value, "type")?.as_str() {
        "EntityOrCommon" | "Extension" => text(value, "name"),
        kind => Some(kind.to_owned()),
    };
    let name = match name(declared)?.as_str() {
        "Set" => format!("Set<{}>", name(declared.get("element")?)?),
        name => name.to_owned(),
    };
    let name = name.replace("__cedar::", "");
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}
