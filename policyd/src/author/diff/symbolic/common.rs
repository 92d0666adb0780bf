//! What two bundles have in common, so that their policies can be compared, and what they have not.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, RequestEnv, Schema, ValidationMode, Validator};
use model::Route;

use super::Side;
use crate::bundle::schema::{self, Types};
use crate::bundle::{Bundle, Mesh};

/// What two bundles have in common.
#[derive(Debug)]
pub(super) struct Common {
    /// A schema that the policies of both fit.
    pub schema: Schema,
    /// The kinds of requests that both know.
    pub environments: Vec<RequestEnv>,
    /// The services that both have.
    pub services: Vec<String>,
    /// The entities that are the same in both.
    pub entities: Vec<EntityUid>,
    /// What they have not in common, in words.
    pub gaps: Vec<String>,
}

/// The most names that are told of one kind of difference.
const TOLD_MAX: usize = 5;

impl Common {
    /// # Errors
    /// When their policies can't be compared at all: why.
    pub(super) fn of(old: Side<'_>, new: Side<'_>) -> Result<Self, String> {
        let mut gaps = Vec::new();
        let schema = schema_of(old, new, &mut gaps)?;
        let [old, new] = [old.bundle, new.bundle];
        let (services, only) = compared(old.mesh.services.keys(), new.mesh.services.keys());
        gap("requests to services that only one bundle has", &only, &mut gaps);
        let actions = actions(&old.mesh, &new.mesh, &mut gaps);
        let is_request = |environment: &RequestEnv| {
            environment.principal().to_string() == "Workload"
                && environment.resource().to_string() == "Service"
                && actions.contains(AsRef::<str>::as_ref(environment.action().id()))
        };
        let mut environments: Vec<RequestEnv> = schema.request_envs().filter(is_request).collect();
        environments.sort_by_key(|environment| environment.action().clone());
        let entities = entities(old, new, &mut gaps);
        Ok(Self { schema, environments, services, entities, gaps })
    }
}

/// A schema that both bundles' policies fit: it declares what either of them reads.
fn schema_of(old: Side<'_>, new: Side<'_>, gaps: &mut Vec<String>) -> Result<Schema, String> {
    let [of_old, of_new] = [old, new].map(|side| &side.bundle.schemas.declared);
    for (name, kind) in of_old {
        if let Some(other) = of_new.get(name).filter(|other| *other != kind) {
            let (kind, other) = (kind.as_str(), other.as_str());
            return Err(format!(
                "the schemas differ: `{name}` is a `{kind}` in the old one, and a `{other}` in the new one"
            ));
        }
    }
    let names: BTreeSet<_> = of_old.keys().chain(of_new.keys()).cloned().collect();
    let mut actions = old.bundle.mesh.actions();
    for (name, groups) in new.bundle.mesh.actions() {
        actions.entry(name).or_default().extend(groups);
    }
    let texts = [new, old].map(|side| side.files.text(schema::FILE));
    let built = |text: Option<&str>| {
        schema::build(text, names.clone(), Types::read(text), &actions, &BTreeSet::new()).ok()
    };
    let [of_new, of_old] = texts;
    if of_new == of_old {
        return built(of_new)
            .map(|schemas| schemas.entities)
            .ok_or_else(|| "the schemas can't be joined".to_owned());
    }
    let mut misfits = Vec::new();
    for (text, whose) in [(of_new, "new"), (of_old, "old")] {
        let Some(schemas) = built(text) else { continue };
        let wrong = misfits_of(&schemas.entities, [old.bundle, new.bundle]);
        if wrong.is_empty() {
            gaps.push(format!(
                "what only one of the schemas says of entities: they differ, and the {whose} one was taken"
            ));
            return Ok(schemas.entities);
        }
        misfits.extend(wrong);
    }
    misfits.sort();
    misfits.dedup();
    Err(format!("the schemas differ, and none of them fits {}", listed(&misfits)))
}

/// The ids of the policies that don't fit a schema.
fn misfits_of(schema: &Schema, bundles: [&Bundle; 2]) -> Vec<String> {
    let validator = Validator::new(schema.clone());
    let results = bundles.map(|bundle| validator.validate(&bundle.policies.to_set(), ValidationMode::Strict));
    results
        .iter()
        .flat_map(|result| result.validation_errors())
        .map(|error| error.policy_id().to_string())
        .collect()
}

/// The actions that mean the same in both bundles: those of all requests, and the operations that both have.
fn actions(old: &Mesh, new: &Mesh, gaps: &mut Vec<String>) -> BTreeSet<String> {
    let (of_old, of_new) = (old.actions(), new.actions());
    let (shared, only) = compared(of_old.keys(), of_new.keys());
    gap("operations that only one bundle has", &only, gaps);
    let (alike, otherwise): (Vec<String>, Vec<String>) =
        shared.into_iter().partition(|operation| of_old.get(operation) == of_new.get(operation));
    gap("operations that are in other groups", &otherwise, gaps);
    let routes = |mesh: &Mesh| {
        let services = mesh.services.iter();
        let routes = services.flat_map(|(name, service)| {
            service.operations.operations.routes().iter().map(move |route| (name.clone(), route.clone()))
        });
        routes.collect::<BTreeSet<(String, Route)>>()
    };
    let (shared, only) = compared(&routes(old), &routes(new));
    let moved: BTreeSet<String> = only.into_iter().map(|(service, _)| service).collect();
    gap("requests that are for another operation in each bundle, of", &Vec::from_iter(moved), gaps);
    let reachable: BTreeSet<String> = shared.into_iter().map(|(_, route)| route.operation).collect();
    let all = model::Action::ALL.map(|action| action.as_str().to_owned());
    alike.into_iter().filter(|operation| reachable.contains(operation)).chain(all).collect()
}

/// The entities that are the same in both bundles.
fn entities(old: &Bundle, new: &Bundle, gaps: &mut Vec<String>) -> Vec<EntityUid> {
    let said = |bundle: &Bundle| -> BTreeSet<(EntityUid, String)> {
        let all = bundle.entities.iter().filter(|entity| entity.uid().type_name().to_string() != "Action");
        all.map(|entity| (entity.uid(), entity.to_json_value().map(canonical).unwrap_or_default())).collect()
    };
    let (shared, only) = compared(&said(old), &said(new));
    let only: BTreeSet<String> = only.into_iter().map(|(uid, _)| uid.to_string()).collect();
    gap("what follows from entities that differ", &Vec::from_iter(only), gaps);
    shared.into_iter().map(|(uid, _)| uid).collect()
}

/// JSON with the members of lists sorted: parents come in any order.
fn canonical(mut entity: serde_json::Value) -> String {
    if let Some(parents) = entity.get_mut("parents").and_then(serde_json::Value::as_array_mut) {
        parents.sort_by_key(ToString::to_string);
    }
    entity.sort_all_objects();
    entity.to_string()
}

/// What is in both, and what is in one only; sorted.
fn compared<'a, T: Ord + Clone + 'a>(
    old: impl IntoIterator<Item = &'a T>,
    new: impl IntoIterator<Item = &'a T>,
) -> (Vec<T>, Vec<T>) {
    let (old, new): (BTreeSet<&T>, BTreeSet<&T>) = (old.into_iter().collect(), new.into_iter().collect());
    let both = old.intersection(&new).map(|item| (*item).clone()).collect();
    (both, old.symmetric_difference(&new).map(|item| (*item).clone()).collect())
}

fn gap(what: &str, names: &[String], gaps: &mut Vec<String>) {
    if !names.is_empty() {
        gaps.push(format!("{what}: {}", listed(names)));
    }
}

/// Names in backticks, and how many more there are.
fn listed(names: &[String]) -> String {
    let told = names.iter().take(TOLD_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
