//! The Cedar schema: Tidegate's own, what the author adds to it, and the names the bundle reads.
//!
//! Cedar's records are closed: a policy may only read what the schema declares. Which headers, query
//! parameters, cookies and claims exist is for the bundle to say, by reading them; so each one read anywhere is
//! declared as an optional string, unless the author's schema gives it another type, and a read without its `has`
//! is the validator's error to report.

mod types;

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Schema, SchemaFragment};
use daemon::finding::Findings;
use model::operand::ResponseName;
use model::{Action, Kind, Name, Record};
use serde_json::{Value, json};

use super::cedar_text::Place;
use super::operations::Actions;
use crate::digest::Digest;
pub use types::Types;

/// The author's own schema within a bundle.
pub const FILE: &str = "schema.cedarschema";

/// The built-in schema, but for the names that the bundle reads.
const BUILT_IN: &str = include_str!("built_in.cedarschema");

/// The schemas that a bundle is checked against.
#[derive(Clone, Debug)]
pub struct Schemas {
    /// For policies, limits and check adapters: what is known when a request arrives. Of operations that no policy
    /// tells apart it has one only, for the validator looks at each policy once for each action.
    pub request: Schema,
    /// For entities and requests: the same, with every operation.
    pub entities: Schema,
    /// For reports: the same, and the response.
    pub report: Schema,
    /// The headers, query parameters, cookies and claims that are declared, and what their texts are read as.
    pub declared: BTreeMap<Name, Kind>,
    /// The types that the author's schema gives to them.
    pub types: Types,
    /// What `request` was made of: equal texts make equal schemas.
    pub text: Value,
    /// The author's own schema, if there is one.
    pub author: Option<Digest>,
}

/// Builds the schemas of a bundle that reads `names`, of which some have `types`, and has the operations `actions`, of
/// which policies name `named`.
///
/// # Errors
/// What is wrong with the author's schema.
pub fn build(
    author: Option<&str>,
    names: BTreeSet<Name>,
    types: Types,
    actions: &Actions,
    named: &BTreeSet<String>,
) -> Result<Schemas, Findings> {
    let declared = types.declare(names);
    let place = Place::file(FILE, author.unwrap_or_default());
    let mut findings = Findings::new();
    findings.add_source(FILE, author.unwrap_or_default());
    let built_in = fragment(&built_in_text(&declared), &place, &mut findings);
    let extended = match author {
        None => built_in,
        Some(text) => match (built_in, fragment(text, &place, &mut findings)) {
            (Some(built_in), Some(author)) => Some(extend(built_in, author, &place, &mut findings)),
            _ => None,
        },
    };
    if let Some(schema) = &extended {
        unlike_actions(schema, actions, &place, &mut findings);
    }
    let Some(extended) = extended.filter(|_| !findings.has_errors()) else { return Err(findings) };
    let mut entities = extended.clone();
    declare_actions(&mut entities, actions);
    let mut request = extended;
    declare_actions(&mut request, &told_apart(actions, named));
    let text = request.clone();
    let mut report = request.clone();
    declare_response(&mut report);
    let mut checked = |json| match Schema::from_json_value(json) {
        Ok(schema) => Some(schema),
        Err(error) => {
            place.diagnose(&error, &mut findings);
            None
        }
    };
    match (checked(request), checked(entities), checked(report)) {
        (Some(request), Some(entities), Some(report)) => {
            let author = author.map(Digest::of);
            Ok(Schemas { request, entities, report, declared, types, text, author })
        }
        _ => Err(findings),
    }
}

/// Those operations of `actions` that policies may tell apart which name `named`: those that are named, and one of each
/// list of named groups. All, if a name is unknown: then the validator is to say which ones there are.
fn told_apart(actions: &Actions, named: &BTreeSet<String>) -> Actions {
    let groups: BTreeSet<&String> = actions.values().flatten().collect();
    let is_known = |name: &String| {
        actions.contains_key(name) || groups.contains(name) || Action::from_id(name).is_some()
    };
    if !named.iter().all(is_known) {
        return actions.clone();
    }
    let mut met = BTreeSet::new();
    let mut differs = |(name, groups): &(&String, &BTreeSet<String>)| {
        let groups: Vec<String> = groups.intersection(named).cloned().collect();
        met.insert((groups, named.get(*name).cloned()))
    };
    let kept = actions.iter().filter(|action| differs(action));
    kept.map(|(name, groups)| (name.clone(), groups.clone())).collect()
}

/// An author may declare what groups are in, but not operations.
fn unlike_actions(schema: &Value, actions: &Actions, place: &Place<'_>, findings: &mut Findings) {
    let declared = schema.pointer("//actions").and_then(Value::as_object);
    for name in
        declared.into_iter().flat_map(serde_json::Map::keys).filter(|name| actions.contains_key(*name))
    {
        let message = format!("`{name}` is declared by mesh.yaml, as an operation");
        findings.push(place.finding(message).with_help("leave it out"));
    }
}

/// Declares operations as actions: each applies to what `http` does, and is in `http` and its groups.
fn declare_actions(schema: &mut Value, actions: &Actions) {
    let Some(declared) = schema.pointer_mut("//actions").and_then(Value::as_object_mut) else { return };
    let http = declared.get(Action::Http.as_str()).and_then(|http| http.get("appliesTo")).cloned();
    for group in actions.values().flatten() {
        declared.entry(group.clone()).or_insert_with(|| json!({}));
    }
    for (name, groups) in actions {
        let parents = std::iter::once(Action::Http.as_str()).chain(groups.iter().map(String::as_str));
        let parents: Vec<Value> = parents.map(|id| json!({ "id": id })).collect();
        declared.insert(name.clone(), json!({ "memberOf": parents, "appliesTo": http }));
    }
}

fn built_in_text(declared: &BTreeMap<Name, Kind>) -> String {
    let fields = |record: Record| {
        let fields = declared.iter().filter_map(|(name, kind)| Some((name.field()?, kind)));
        let fields = fields.filter(|((of, _), _)| *of == record);
        let fields = fields.map(|((_, field), kind)| format!("{}?: {}", json!(field), kind.as_str()));
        fields.collect::<Vec<_>>().join(", ")
    };
    let types = types::RECORDS.map(|(name, record)| format!("type {name} = {{ {} }};\n", fields(record)));
    format!("{BUILT_IN}\n{}", types.concat())
}

fn fragment(text: &str, place: &Place<'_>, findings: &mut Findings) -> Option<Value> {
    match SchemaFragment::from_cedarschema_str(text) {
        Ok((fragment, _warnings)) => fragment.to_json_value().ok(),
        Err(error) => {
            place.diagnose(&error, findings);
            None
        }
    }
}

/// Adds the author's declarations to the built-in ones.
///
/// A built-in entity type may get more parents and more optional attributes: mandatory ones would make every
/// caller that `entities.json` doesn't list an error.
fn extend(mut built_in: Value, author: Value, place: &Place<'_>, findings: &mut Findings) -> Value {
    let Value::Object(namespaces) = author else { return built_in };
    for (namespace, declarations) in namespaces {
        match built_in.get_mut(&namespace) {
            None => {
                if let Some(all) = built_in.as_object_mut() {
                    all.insert(namespace, declarations);
                }
            }
            Some(ours) => {
                for part in ["entityTypes", "commonTypes", "actions"] {
                    extend_part(ours, &declarations, part, place, findings);
                }
            }
        }
    }
    built_in
}

fn extend_part(ours: &mut Value, theirs: &Value, part: &str, place: &Place<'_>, findings: &mut Findings) {
    let Some(theirs) = theirs.get(part).and_then(Value::as_object) else { return };
    let Some(ours) = ours.as_object_mut() else { return };
    let Some(ours) = ours.entry(part).or_insert_with(|| json!({})).as_object_mut() else { return };
    for (name, declaration) in theirs {
        match ours.get_mut(name) {
            None => {
                ours.insert(name.clone(), declaration.clone());
            }
            Some(built_in) if part == "entityTypes" => {
                extend_entity(name, built_in, declaration, place, findings);
            }
            // What it adds is declared already.
            Some(_) if part == "commonTypes" && types::is_record(name) => {
                types::check(name, declaration, place, findings);
            }
            Some(_) => findings.push(
                place.finding(format!("`{name}` is declared by Tidegate")).with_help("choose another name"),
            ),
        }
    }
}

fn extend_entity(name: &str, ours: &mut Value, theirs: &Value, place: &Place<'_>, findings: &mut Findings) {
    if let Some(parents) = theirs.get("memberOfTypes").and_then(Value::as_array)
        && let Some(known) = ours.get_mut("memberOfTypes").and_then(Value::as_array_mut)
    {
        let new: Vec<Value> = parents.iter().filter(|parent| !known.contains(parent)).cloned().collect();
        known.extend(new);
    }
    let Some(attributes) = theirs.pointer("/shape/attributes").and_then(Value::as_object) else { return };
    let Some(known) = ours.pointer_mut("/shape/attributes").and_then(Value::as_object_mut) else { return };
    for (attribute, declaration) in attributes {
        if known.contains_key(attribute) {
            let message = format!("`{name}.{attribute}` is declared by Tidegate");
            findings.push(place.finding(message).with_help("leave it out"));
        } else if declaration.get("required") != Some(&Value::Bool(false)) {
            let message = format!("`{name}.{attribute}` has to be optional, for callers that have none");
            findings.push(place.finding(message).with_help(format!("write `{attribute}?: …`")));
        } else {
            known.insert(attribute.clone(), declaration.clone());
        }
    }
}

fn declare_response(schema: &mut Value) {
    let attributes: serde_json::Map<String, Value> = ResponseName::ALL
        .iter()
        .map(|(name, kind)| {
            let kind = if *kind == ResponseName::Verdict { "String" } else { "Long" };
            ((*name).to_owned(), json!({"type": "EntityOrCommon", "name": kind}))
        })
        .collect();
    if let Some(context) =
        schema.pointer_mut("//commonTypes/RequestContext/attributes").and_then(Value::as_object_mut)
    {
        context.insert("response".to_owned(), json!({"type": "Record", "attributes": attributes}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(author: &str) -> Vec<String> {
        match build(
            Some(author),
            BTreeSet::new(),
            Types::read(Some(author)),
            &Actions::new(),
            &BTreeSet::new(),
        ) {
            Ok(_) => Vec::new(),
            Err(findings) => findings.iter().map(|finding| finding.message.clone()).collect(),
        }
    }

    #[test]
    fn names_that_are_read_are_declared() {
        let names = BTreeSet::from([Name::Header("x-\"user".into()), Name::Claim("q".into())]);
        assert!(build(None, names, Types::default(), &Actions::new(), &BTreeSet::new()).is_ok());
    }

    #[test]
    fn an_author_may_add_types_parents_and_optional_attributes() {
        let author = "entity Team; entity Workload in [Team] { tier?: Long };";
        assert_eq!(errors(author), Vec::<String>::new());
    }

    #[test]
    fn an_author_may_type_what_requests_hold() {
        let author = r#"
            type Headers = {
                "x-tier"?: Long, "x-amount"?: decimal, "x-since"?: datetime, "x-wait"?: duration,
                "x-from"?: ipaddr, "x-ok"?: Bool, "x-roles"?: Set<String>, "x-user"?: String,
            };
            type Claims = { groups?: Set<String> };
        "#;
        let names = BTreeSet::from([Name::Header("x-tier".into()), Name::Cookie("c".into())]);
        let schemas =
            build(Some(author), names, Types::read(Some(author)), &Actions::new(), &BTreeSet::new()).unwrap();
        let kinds: Vec<_> = schemas.declared.values().map(|kind| kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "decimal",
                "ipaddr",
                "Bool",
                "Set<String>",
                "datetime",
                "Long",
                "String",
                "duration",
                "String",
                "Set<String>"
            ]
        );
        let table = [
            ("type Headers = { a: Long };", "`a` of `Headers` has to be optional, for requests that lack it"),
            ("type Query = { a?: Set<Long> };", "`a` of `Query` has a type that no text is read as"),
            ("type Query = { a?: Workload };", "`a` of `Query` has a type that no text is read as"),
            ("type Claims = Long;", "`Claims` has to be a record"),
        ];
        for (author, message) in table {
            assert_eq!(errors(author), [message], "{author}");
        }
    }

    #[test]
    fn an_author_may_not_change_what_tidegate_declares() {
        assert_eq!(errors("entity Workload { name: String };").len(), 1);
        assert_eq!(errors("entity Workload { namespace?: Long };").len(), 1);
        assert_eq!(errors("type RequestContext = {};").len(), 1);
        assert_eq!(errors("entity").len(), 1);
    }
}
