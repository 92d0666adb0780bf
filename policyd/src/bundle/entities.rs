//! The Cedar entities: those that `mesh.yaml` implies, and those of `entities.json`.

use std::collections::BTreeMap;

use cedar_policy::{Entities, Schema};
use daemon::finding::Findings;
use model::attributes::UNAUTHENTICATED;
use model::{Principal, SpiffeId};
use serde_json::{Value, json};

use super::cedar_text::Place;
use super::mesh::Mesh;

/// The file's name within a bundle.
pub const FILE: &str = "entities.json";

/// Builds the entities of a bundle.
///
/// What `entities.json` says of a service or workload of the mesh is added to it.
pub fn build(
    mesh: &Mesh,
    author: Option<&str>,
    schema: &Schema,
    findings: &mut Findings,
) -> Option<Entities> {
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
    let mut entities: BTreeMap<String, Value> =
        implied(mesh).into_iter().map(|entity| (uid_text(&entity), entity)).collect();
    for entity in listed {
        match entities.get_mut(&uid_text(&entity)) {
            Some(known) => add(known, &entity),
            None => {
                entities.insert(uid_text(&entity), complete(entity));
            }
        }
    }
    match Entities::from_json_value(entities.into_values().collect(), Some(schema)) {
        Ok(entities) => Some(entities),
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

/// A workload that `entities.json` lists only with its groups gets the attributes its id implies.
fn complete(entity: Value) -> Value {
    let principal = match (entity.pointer("/uid/type"), entity.pointer("/uid/id").and_then(Value::as_str)) {
        (Some(kind), Some(id)) if kind == "Workload" => id.parse::<Principal>().ok(),
        _ => None,
    };
    match principal {
        Some(principal) => {
            let mut known = workload(&principal);
            add(&mut known, &entity);
            known
        }
        None => entity,
    }
}

fn add(known: &mut Value, more: &Value) {
    if let (Some(attributes), Some(new)) =
        (known.get_mut("attrs").and_then(Value::as_object_mut), more.get("attrs").and_then(Value::as_object))
    {
        attributes.extend(new.clone());
    }
    if let (Some(parents), Some(new)) = (
        known.get_mut("parents").and_then(Value::as_array_mut),
        more.get("parents").and_then(Value::as_array),
    ) {
        parents.extend(new.iter().cloned());
    }
}

fn uid(kind: &str, id: &str) -> Value {
    json!({"type": kind, "id": id})
}

fn uid_text(entity: &Value) -> String {
    let part = |name| entity.pointer(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}::{}", part("/uid/type"), part("/uid/id"))
}

fn at_line(source: &str, error: &serde_json::Error) -> daemon::finding::Finding {
    let before: usize = source.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = before + error.column().saturating_sub(1);
    let message = format!("this is not a list of entities: {error}");
    daemon::finding::Finding::at(FILE, source, offset..offset + 1, message)
        .with_help(format!("write `[{{\"uid\": {{\"type\": \"Group\", \"id\": \"…\"}}, \"attrs\": {{}}, \"parents\": []}}]`; the caller without identity is `{UNAUTHENTICATED}`"))
}
