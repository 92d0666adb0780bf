//! What two bundles know of entities, in Cedar: services, workloads, groups, and callers that the bundles do not list.

use std::collections::BTreeSet;

use cedar_policy::{EntityTypeName, EntityUid};
use cedar_policy_core::ast::{Expr, ExprKind, Literal, PartialValue, Value, ValueKind};
use cedar_policy_core::entities::Dereference;
use cedar_policy_core::validator::types::AttributeType;
use model::Principal;
use smol_str::SmolStr;

use super::common::Common;
use crate::bundle::Bundle;

/// The most entities of which is said what they are: what the solver is told grows with their square.
const ENTITIES_MAX: usize = 64;

/// What holds for the entities that `bundles` have in common, as conditions; nothing if there are too many.
pub(super) fn facts(bundles: [&Bundle; 2], common: &Common) -> Vec<String> {
    Known { bundles, common, literals: literals(bundles, common) }.facts()
}

/// The entities that policies name, and those that are values of attributes.
fn literals(bundles: [&Bundle; 2], common: &Common) -> BTreeSet<EntityUid> {
    let policies = bundles.into_iter().flat_map(|bundle| bundle.policies.policies());
    let mut named: BTreeSet<EntityUid> = policies
        .filter_map(crate::bundle::Policy::to_cedar)
        .flat_map(|policy| policy.entity_literals())
        .collect();
    let [_, new] = bundles;
    for uid in common.entities.iter().take(ENTITIES_MAX) {
        let Dereference::Data(entity) = new.entities.as_ref().entity(uid.as_ref()) else { continue };
        for (_, value) in entity.attrs() {
            let PartialValue::Value(value) = value else { continue };
            let literals = Expr::from(value.clone());
            named.extend(literals.subexpressions().filter_map(|expr| match expr.expr_kind() {
                ExprKind::Lit(Literal::EntityUID(uid)) => Some(EntityUid::from(uid.as_ref().clone())),
                _ => None,
            }));
        }
    }
    named.retain(|uid| !uid.as_ref().is_action());
    named
}

/// What is known of entities.
struct Known<'a> {
    bundles: [&'a Bundle; 2],
    common: &'a Common,
    literals: BTreeSet<EntityUid>,
}

impl Known<'_> {
    fn facts(&self) -> Vec<String> {
        if self.common.entities.len() > ENTITIES_MAX || self.literals.len() > ENTITIES_MAX {
            return Vec::new();
        }
        let services = self.common.services.iter().map(|name| format!("Service::{name:?}"));
        let mut facts = vec![one_of(&services.collect::<Vec<_>>(), "resource")];
        for uid in &self.common.entities {
            facts.extend(self.attributes(uid));
            facts.extend(self.ancestors(uid));
        }
        // One that differs is no stranger, and nothing else is known of it.
        let workloads: BTreeSet<EntityUid> = self.all().filter(|uid| is_a(uid, "Workload")).collect();
        let known = one_of(&workloads.iter().map(ToString::to_string).collect::<Vec<_>>(), "principal");
        facts.extend(self.strangers().into_iter().map(|fact| format!("{known} || ({fact})")));
        let named = self.literals.iter().filter(|uid| is_a(uid, "Workload") && !workloads.contains(uid));
        facts.extend(named.map(|uid| format!("principal != {uid} || ({})", parts(uid))));
        facts
    }

    /// The entities of both bundles.
    fn all(&self) -> impl Iterator<Item = EntityUid> {
        self.bundles.iter().flat_map(|bundle| bundle.entities.iter().map(cedar_policy::Entity::uid))
    }

    /// Whether an entity is in another one, if that is so in both bundles, or in neither.
    fn is_in(&self, uid: &EntityUid, other: &EntityUid) -> Option<bool> {
        let [old, new] = self.bundles.map(|bundle| {
            bundle.entities.ancestors(uid).is_some_and(|mut above| above.any(|above| above == other))
        });
        (old == new).then_some(old)
    }

    /// The values of an entity's attributes, and which ones it has not.
    fn attributes(&self, uid: &EntityUid) -> Option<String> {
        let [_, bundle] = self.bundles;
        let Dereference::Data(entity) = bundle.entities.as_ref().entity(uid.as_ref()) else { return None };
        let declared =
            self.common.schema.as_ref().get_entity_type(uid.type_name().as_ref())?.attributes().iter();
        let fact = |(name, kind): (&SmolStr, &AttributeType)| {
            let has = format!("{uid} has {:?}", name.as_str());
            match entity.get(name) {
                Some(PartialValue::Value(value)) => {
                    let equals = equals(&format!("{uid}[{:?}]", name.as_str()), value);
                    if kind.is_required { equals } else { format!("{has} && {equals}") }
                }
                _ => format!("!({has})"),
            }
        };
        let facts: Vec<String> = declared.map(fact).collect();
        (!facts.is_empty()).then(|| facts.join(" && "))
    }

    /// Which of the entities that policies name an entity is in.
    fn ancestors(&self, uid: &EntityUid) -> Option<String> {
        let kinds = self.kinds_above(uid.type_name());
        let others = self.literals.iter().filter(|other| *other != uid && kinds.contains(other.type_name()));
        let fact = |other: &EntityUid| {
            let is_in = format!("{uid} in {other}");
            Some(if self.is_in(uid, other)? { is_in } else { format!("!({is_in})") })
        };
        let facts: Vec<String> = others.filter_map(fact).collect();
        (!facts.is_empty()).then(|| facts.join(" && "))
    }

    /// What is known of callers that the bundle does not know: they are in their namespaces, have no other attributes
    /// than those that are parts of their ids, and are not named otherwise.
    fn strangers(&self) -> Vec<String> {
        let Ok(workload) = "Workload".parse::<EntityTypeName>() else { return Vec::new() };
        let mut facts = vec!["principal.trust_domain != \"\"".to_owned()];
        if let Some(kind) = self.common.schema.as_ref().get_entity_type(workload.as_ref()) {
            let optional = kind.attributes().iter().filter(|(_, kind)| !kind.is_required);
            facts.extend(optional.map(|(name, _)| format!("!(principal has {:?})", name.as_str())));
        }
        let kinds = self.kinds_above(&workload);
        for other in self.literals.iter().filter(|other| kinds.contains(other.type_name())) {
            let namespaces: BTreeSet<EntityUid> = self.all().filter(|uid| is_a(uid, "Namespace")).collect();
            let within = |uid: &EntityUid| if uid == other { Some(true) } else { self.is_in(uid, other) };
            // One that is in it in one bundle only leaves it open.
            if namespaces.iter().any(|uid| within(uid).is_none()) {
                continue;
            }
            let own = is_a(other, "Namespace").then_some(other);
            let names = namespaces.iter().filter(|uid| within(uid) == Some(true)).chain(own);
            let names: BTreeSet<&str> = names.map(|uid| uid.id().unescaped()).collect();
            let is: Vec<String> =
                names.iter().map(|name| format!("principal.namespace == {name:?}")).collect();
            facts.push(if is.is_empty() {
                format!("!(principal in {other})")
            } else {
                format!("(principal in {other}) == ({})", is.join(" || "))
            });
        }
        facts
    }

    fn kinds_above(&self, kind: &EntityTypeName) -> BTreeSet<EntityTypeName> {
        self.common.schema.ancestors(kind).into_iter().flatten().cloned().collect()
    }
}

/// What the id of a caller whom the bundles do not list says of it. One that is no id of a caller is nobody's.
fn parts(uid: &EntityUid) -> String {
    let Ok(Principal::Workload(id)) = uid.id().unescaped().parse() else { return "false".to_owned() };
    let parts = [
        ("trust_domain", id.trust_domain()),
        ("namespace", id.namespace().unwrap_or_default()),
        ("service_account", id.service_account().unwrap_or_default()),
    ];
    parts.map(|(part, value)| format!("principal.{part} == {value:?}")).join(" && ")
}

fn is_a(uid: &EntityUid, kind: &str) -> bool {
    uid.type_name().to_string() == kind
}

/// That `subject` is one of these entities.
fn one_of(uids: &[String], subject: &str) -> String {
    if uids.is_empty() { "false".to_owned() } else { format!("[{}].contains({subject})", uids.join(", ")) }
}

fn equals(subject: &str, value: &Value) -> String {
    match value.value_kind() {
        // A set without members has no type.
        ValueKind::Set(members) if members.is_empty() => format!("{subject}.isEmpty()"),
        _ => format!("{subject} == {}", Expr::from(value.clone())),
    }
}
