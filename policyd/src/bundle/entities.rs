//! The Cedar entities: those that `mesh.yaml` implies, and those of `entities.json`.

use std::collections::BTreeMap;

use cedar_policy::{Entities, Schema};
use daemon::finding::Findings;
use model::attributes::UNAUTHENTICATED;
use model::{Principal, SpiffeId};
use serde_json::{Value, json};

use super::cedar_text::Place;
use super::mesh::Mesh;
use crate::digest::Digest;

/// The file's name within a bundle.
pub const FILE: &str = "entities.json";

/// What `entities.json` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Of services, by name.
    pub of_services: BTreeMap<String, Digest>,
    /// Of all else.
    pub of_others: Digest,
}

/// Builds the entities of a bundle.
///
/// What `entities.json` says of a service or workload of the mesh is added to it.
pub fn build(
    mesh: &Mesh,
    author: Option<&str>,
    schema: &Schema,
    findings: &mut Findings,
) -> Option<(Entities, Said)> {
    let source = author.unwrap_or("[]");
    findings.add_source(FILE, source);
    let place = Place::file(FILE, source);
    let listed: Vec<Value> = match serde_json::from_str(source) {
        Ok(listed) => listed,
        Err(error) => {
            findings.push(at_line(source, &error));
            return None;
        }
    };
    let said = said(&listed);
    let mut entities: BTreeMap<(String, String), Value> = BTreeMap::new();
    for entity in implied(mesh) {
        entities.insert(uid_parts(&entity).unwrap_or_default(), entity);
    }
    for (index, entity) in listed.into_iter().enumerate() {
        // Without a uid it is Cedar's to refuse; until then it must not be taken for another.
        let uid = uid_parts(&entity).unwrap_or_else(|| (String::new(), index.to_string()));
        let known = entities.remove(&uid).or_else(|| implied_workload(&uid));
        let entity = match known {
            Some(known) => merged(known, &entity, &uid.1, &place, findings),
            None => entity,
        };
        entities.insert(uid, entity);
    }
    // A workload that is but a parent would be known to nobody until it calls, and then change what is in what.
    let parents: Vec<(String, String)> = entities.values().flat_map(parent_uids).collect();
    for uid in parents {
        if let Some(workload) = implied_workload(&uid).filter(|_| !entities.contains_key(&uid)) {
            entities.insert(uid, workload);
        }
    }
    match Entities::from_json_value(entities.into_values().collect(), Some(schema)) {
        Ok(entities) => Some((entities, said)),
        Err(error) => {
            place.diagnose(&error, findings);
            None
        }
    }
}

/// The entity of a caller: its attributes are the parts of its SPIFFE ID.
pub fn workload(principal: &Principal) -> Value {
    let id = principal.spiffe_id();
    let part = |part: fn(&SpiffeId) -> Option<&str>| id.and_then(part).unwrap_or_default();
    let namespace = part(SpiffeId::namespace);
    let parents: Vec<Value> = if namespace.is_empty() { vec![] } else { vec![uid("Namespace", namespace)] };
    json!({
        "uid": uid("Workload", principal.as_str()),
        "attrs": {
            "trust_domain": id.map(SpiffeId::trust_domain).unwrap_or_default(),
            "namespace": namespace,
            "service_account": part(SpiffeId::service_account),
        },
        "parents": parents,
    })
}

fn implied(mesh: &Mesh) -> Vec<Value> {
    let mut entities = vec![workload(&Principal::Unauthenticated)];
    for (name, service) in &mesh.services {
        entities.push(json!({"uid": uid("Namespace", &service.namespace), "attrs": {}, "parents": []}));
        entities.push(workload(&Principal::Workload(service.spiffe_id.clone())));
        entities.push(json!({
            "uid": uid("Service", name),
            "attrs": {"namespace": service.namespace},
            "parents": [uid("Namespace", &service.namespace)],
        }));
    }
    entities
}

fn said(listed: &[Value]) -> Said {
    let mut said = Said::default();
    let mut others = Vec::new();
    for entity in listed {
        let digest = Digest::of(&entity.to_string());
        match uid_parts(entity) {
            Some((kind, name)) if kind == "Service" => {
                let so_far = said.of_services.entry(name).or_default();
                *so_far = Digest::of(&(*so_far, digest));
            }
            _ => others.push(digest),
        }
    }
    Said { of_others: Digest::of_all(others), ..said }
}

/// A workload that `entities.json` lists only with its groups has the attributes its id implies.
fn implied_workload((kind, id): &(String, String)) -> Option<Value> {
    (kind == "Workload").then(|| id.parse::<Principal>().ok()).flatten().map(|principal| workload(&principal))
}

/// `known` and what `entities.json` adds to it. It can't change what is known: a proxy, which never sees the file,
/// reads a caller's namespace from its SPIFFE ID.
fn merged(mut known: Value, more: &Value, id: &str, place: &Place<'_>, findings: &mut Findings) -> Value {
    if let (Some(attributes), Some(new)) =
        (known.get_mut("attrs").and_then(Value::as_object_mut), more.get("attrs").and_then(Value::as_object))
    {
        for (name, value) in new {
            let before = attributes.insert(name.clone(), value.clone());
            if let Some(before) = before.filter(|before| before != value) {
                let message = format!("`{name}` of `{id}` is {before} already, and can't be {value} too");
                findings.push(place.finding(message).with_help("leave it out"));
            }
        }
    }
    if let (Some(parents), Some(new)) = (
        known.get_mut("parents").and_then(Value::as_array_mut),
        more.get("parents").and_then(Value::as_array),
    ) {
        parents.extend(new.iter().cloned());
    }
    known
}

fn uid(kind: &str, id: &str) -> Value {
    json!({"type": kind, "id": id})
}

fn parent_uids(entity: &Value) -> Vec<(String, String)> {
    let parents = entity.get("parents").and_then(Value::as_array);
    parents.into_iter().flatten().filter_map(parts).collect()
}

fn uid_parts(entity: &Value) -> Option<(String, String)> {
    parts(entity.get("uid")?)
}

/// Type and id, in either of the two forms that Cedar reads.
fn parts(uid: &Value) -> Option<(String, String)> {
    let uid = uid.get("__entity").unwrap_or(uid);
    let part = |name| uid.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((part("type")?, part("id")?))
}

fn at_line(source: &str, error: &serde_json::Error) -> daemon::finding::Finding {
    let before: usize = source.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = before + error.column().saturating_sub(1);
    let message = format!("this is not a list of entities: {error}");
    daemon::finding::Finding::at(FILE, source, offset..offset + 1, message)
        .with_help(format!("write `[{{\"uid\": {{\"type\": \"Group\", \"id\": \"…\"}}, \"attrs\": {{}}, \"parents\": []}}]`; the caller without identity is `{UNAUTHENTICATED}`"))
}
