//! Entities for a caller that the bundle does not know, such as a new service account.
//!
//! A caller is one entity more, but Cedar's entities are one map, and copying it for each such request would take
//! longer the larger the bundle is. So a map is made of what the evaluation of a condition can look at: the
//! caller, the resource and the action; what a condition names; and whatever the attributes of all those lead to. Of any
//! other entity a condition knows no more than its id.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use cedar_policy::{Entities, Request};
use cedar_policy_core::ast::{
    Entity, EntityType, EntityUID, Expr, ExprKind, Literal, PartialValue, Value, ValueKind,
};
use cedar_policy_core::entities::{self, Dereference, TCComputation};
use cedar_policy_core::extensions::Extensions;
use model::{Principal, SpiffeId};
use smol_str::SmolStr;

use super::request::RequestError;

/// What the conditions of a bundle name, with all that it leads to.
#[derive(Debug, Default)]
pub struct Strangers(entities::Entities);

impl Strangers {
    /// Those of `all` that `conditions` can look at, whatever the request, and the actions. O(nodes of conditions).
    ///
    /// # Errors
    /// When Cedar refuses an entity.
    pub fn new<'e>(all: &Entities, conditions: impl Iterator<Item = &'e Expr>) -> Result<Self, RequestError> {
        let mut named: HashSet<&EntityUID> =
            conditions.flat_map(Expr::subexpressions).filter_map(literal).collect();
        named.extend(all.as_ref().iter().map(Entity::uid).filter(|uid| uid.is_action()));
        with(entities::Entities::new(), reachable(all.as_ref(), named)).map(Self)
    }

    /// The entities for a request by `caller`, whom `all` does not have.
    ///
    /// # Errors
    /// When Cedar refuses an entity.
    pub(super) fn entities(
        &self,
        caller: &Principal,
        request: &Request,
        all: &Entities,
    ) -> Result<Entities, RequestError> {
        let uid = request.principal().ok_or_else(|| RequestError::Id(caller.as_str().to_owned()))?;
        let resource = request.resource().map(AsRef::<EntityUID>::as_ref);
        let mut more = reachable(all.as_ref(), resource.into_iter().collect());
        more.insert(uid.as_ref().clone(), Arc::new(entity(uid.as_ref().clone(), caller, all.as_ref())));
        more.retain(|uid, _| !matches!(self.0.entity(uid), Dereference::Data(_)));
        with(self.0.clone(), more).map(Into::into)
    }
}

/// The entity of a caller: its attributes are the parts of its SPIFFE ID, and it is in its namespace.
fn entity(uid: EntityUID, caller: &Principal, all: &entities::Entities) -> Entity {
    let id = caller.spiffe_id();
    let part = |part: fn(&SpiffeId) -> Option<&str>| id.and_then(part).unwrap_or_default();
    let attribute = |name, text: &str| (SmolStr::new_static(name), PartialValue::from(text));
    let attributes = [
        attribute("trust_domain", id.map(SpiffeId::trust_domain).unwrap_or_default()),
        attribute("namespace", part(SpiffeId::namespace)),
        attribute("service_account", part(SpiffeId::service_account)),
    ];
    let namespace = part(SpiffeId::namespace);
    let parent = NAMESPACE.clone().filter(|_| !namespace.is_empty());
    let parent = parent
        .map(|kind| EntityUID::from_components(kind, cedar_policy_core::ast::Eid::new(namespace), None));
    let ancestors = parent.iter().flat_map(|parent| match all.entity(parent) {
        Dereference::Data(parent) => parent.ancestors().cloned().collect(),
        Dereference::NoSuchEntity | Dereference::Residual(_) => HashSet::new(),
    });
    let ancestors = ancestors.filter(|ancestor| Some(ancestor) != parent.as_ref()).collect();
    Entity::new_with_attr_partial_value(uid, attributes, ancestors, parent.into_iter().collect(), [])
}

/// Cedar parses a name each time it is asked to make one.
static NAMESPACE: LazyLock<Option<EntityType>> = LazyLock::new(|| "Namespace".parse().ok());

/// `known` and `more`, whose ancestors are complete and of which none is known.
fn with(
    known: entities::Entities,
    more: HashMap<EntityUID, Arc<Entity>>,
) -> Result<entities::Entities, RequestError> {
    let none = None::<&entities::NoEntitiesSchema>;
    known
        .add_entities(
            more.into_values(),
            none,
            TCComputation::AssumeAlreadyComputed,
            Extensions::all_available(),
        )
        .map_err(|error| RequestError::Entity(Box::new(error)))
}

/// Those of `start`, and what their attributes and tags lead to.
fn reachable(all: &entities::Entities, start: HashSet<&EntityUID>) -> HashMap<EntityUID, Arc<Entity>> {
    let mut found = HashMap::new();
    let mut next: Vec<&EntityUID> = start.into_iter().collect();
    while let Some(uid) = next.pop() {
        let Dereference::Data(entity) = all.entity(uid) else { continue };
        if found.contains_key(uid) {
            continue;
        }
        found.insert(uid.clone(), Arc::new(entity.clone()));
        for (_, value) in entity.attrs().chain(entity.tags()) {
            if let PartialValue::Value(value) = value {
                named(value, &mut next);
            }
        }
    }
    found
}

/// Adds the entities in a value.
fn named<'v>(value: &'v Value, into: &mut Vec<&'v EntityUID>) {
    match value.value_kind() {
        ValueKind::Lit(Literal::EntityUID(uid)) => into.push(uid),
        ValueKind::Lit(_) | ValueKind::ExtensionValue(_) => {}
        ValueKind::Set(members) => members.iter().for_each(|member| named(member, into)),
        ValueKind::Record(fields) => {
            BTreeMap::values(fields).for_each(|field| named(field, into));
        }
    }
}

fn literal(expr: &Expr) -> Option<&EntityUID> {
    match expr.expr_kind() {
        ExprKind::Lit(Literal::EntityUID(uid)) => Some(uid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cedar_policy_core::ast::Eid;
    use model::Attributes;

    use super::*;
    use crate::bundle::entities::workload;
    use crate::bundle::{Bundle, Files};
    use crate::engine::index::Depth;
    use crate::engine::request;

    const MESH: &str =
        "trust_domain: a.example\nservices: {orders: {namespace: shop}, stock: {namespace: depot}}\n";

    const SCHEMA: &str = "entity Team { lead?: Workload };
        entity Namespace in [Group, Team];
        entity Service { owner?: Team, watchers?: Set<Workload> };
        entity Workload in [Team] { tier?: Long };";

    const ENTITIES: &str = r#"[
        {"uid": {"type": "Group", "id": "top"}, "attrs": {}, "parents": []},
        {"uid": {"type": "Namespace", "id": "depot"}, "attrs": {}, "parents": [{"type": "Group", "id": "top"}]},
        {"uid": {"type": "Team", "id": "t"}, "attrs": {"lead": {"__entity": {"type": "Workload", "id": "spiffe://a.example/ns/x/sa/lead"}}}, "parents": []},
        {"uid": {"type": "Workload", "id": "spiffe://a.example/ns/x/sa/lead"}, "attrs": {"tier": 1}, "parents": [{"type": "Team", "id": "t"}]},
        {"uid": {"type": "Workload", "id": "spiffe://a.example/ns/x/sa/other"}, "attrs": {"tier": 2}, "parents": [{"type": "Workload", "id": "spiffe://a.example/ns/depot/sa/new"}]},
        {"uid": {"type": "Service", "id": "stock"}, "attrs": {"owner": {"__entity": {"type": "Team", "id": "t"}}}, "parents": []}
    ]"#;

    const CONDITIONS: [&str; 10] = [
        "principal in Group::\"top\"",
        "principal in Namespace::\"depot\"",
        "resource in Group::\"top\"",
        "principal.namespace == \"depot\" && principal.trust_domain == \"a.example\"",
        "principal has tier",
        "resource has owner && resource.owner has lead && resource.owner.lead has tier && resource.owner.lead.tier == 1",
        "Workload::\"spiffe://a.example/ns/x/sa/other\" has tier",
        "Workload::\"spiffe://a.example/ns/x/sa/lead\" in Team::\"t\"",
        "Service::\"stock\" has owner && Service::\"stock\".owner has lead && Service::\"stock\".owner.lead in [Team::\"t\"]",
        "action in [Action::\"http\", Action::\"grpc\"] && principal.service_account like \"n*\"",
    ];

    fn bundle() -> Bundle {
        let policy = |condition: &&str| {
            format!("permit (principal, action == Action::\"http\", resource) when {{ {condition} }};\n")
        };
        let acl: String = CONDITIONS.iter().map(policy).collect();
        let schema = SCHEMA.replace("in [Team] {", "in [Team, Workload] {");
        let texts = [
            ("mesh.yaml", MESH),
            ("schema.cedarschema", &schema),
            ("entities.json", ENTITIES),
            ("acl.cedar", &acl),
        ];
        let texts: BTreeMap<_, _> = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        Bundle::load(&Files { folder: ".".into(), texts })
            .unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
    }

    /// Callers that the bundle does not know, but for the one that it knows as a parent only.
    const CALLERS: [&str; 5] = [
        "spiffe://a.example/ns/depot/sa/new",
        "spiffe://a.example/ns/depot/sa/newer",
        "spiffe://a.example/ns/far/sa/away",
        "spiffe://b.example/some/path",
        "spiffe://a.example/ns/shop/sa/n",
    ];

    #[test]
    fn a_stranger_is_decided_on_as_if_the_bundle_knew_it() {
        let bundle = bundle();
        let mut satisfied = HashSet::new();
        for caller in CALLERS {
            for resource in ["orders", "stock", "unknown"] {
                let attributes = Attributes {
                    principal: caller.parse().unwrap(),
                    resource: resource.into(),
                    ..Attributes::default()
                };
                let request = request::build(&attributes, &bundle).unwrap();
                let few = request::entities(&attributes, &request, &bundle).unwrap();
                let json = workload(&attributes.principal);
                let entity =
                    cedar_policy::Entity::from_json_value(json, Some(&bundle.schemas.entities)).unwrap();
                let all = match bundle.entities.get(&entity.uid()) {
                    Some(_) => bundle.entities.clone(),
                    None => bundle
                        .entities
                        .clone()
                        .add_entities([entity], Some(&bundle.schemas.entities))
                        .unwrap(),
                };
                let answer = |entities| bundle.policies_index.answer(&request, entities, Depth::Explain);
                assert_eq!(answer(&few), answer(&all), "{caller} {resource}");
                satisfied.extend(answer(&all).permits);
                // The caller's entity itself is as Cedar would make it.
                let uid = request.principal().unwrap();
                let (Dereference::Data(ours), Dereference::Data(theirs)) =
                    (few.as_ref().as_ref().entity(uid.as_ref()), all.as_ref().entity(uid.as_ref()))
                else {
                    panic!("{caller} has no entity")
                };
                assert!(ours.deep_eq(theirs), "{ours} {theirs}");
            }
        }
        // Only what asks for an attribute that no stranger has is never satisfied.
        assert_eq!(satisfied.len(), CONDITIONS.len() - 1);
    }

    #[test]
    fn what_conditions_lead_to_is_kept_and_nothing_else() {
        let bundle = bundle();
        let known = |kind: &str, id: &str| {
            let uid = EntityUID::from_components(kind.parse().unwrap(), Eid::new(id), None);
            matches!(bundle.strangers.0.entity(&uid), Dereference::Data(_))
        };
        assert!(known("Service", "stock") && known("Team", "t") && known("Action", "http"));
        assert!(known("Workload", "spiffe://a.example/ns/x/sa/lead"));
        assert!(!known("Service", "orders") && !known("Workload", "unauthenticated"));
    }
}
