//! Which services a policy's scope lets it concern.

use cedar_policy::Entities;
use cedar_policy_core::ast::{EntityReference, EntityUID, PrincipalOrResourceConstraint, Template};

use crate::engine::request::{Kind, uid};

/// The entity that the scope of `template` names as resource, with `slot` as `?resource`. Its policy concerns that
/// entity and what is in it; without one it concerns every service.
pub fn named_resource<'a>(template: &'a Template, slot: Option<&'a EntityUID>) -> Option<&'a EntityUID> {
    use PrincipalOrResourceConstraint::{Any, Eq, In, Is, IsIn};
    match template.resource_constraint().as_inner() {
        Any | Is(_) => None,
        Eq(EntityReference::EUID(uid))
        | In(EntityReference::EUID(uid))
        | IsIn(_, EntityReference::EUID(uid)) => Some(uid.as_ref()),
        Eq(EntityReference::Slot(_)) | In(EntityReference::Slot(_)) | IsIn(_, EntityReference::Slot(_)) => {
            slot
        }
    }
}

/// The resources that a scope may name so as to concern the service called `name`: itself, its ancestors,
/// nothing. In no order.
pub fn of_service(name: &str, entities: &Entities) -> Vec<Option<EntityUID>> {
    let uid = uid(Kind::Service, name).ok();
    let ancestors = uid.iter().flat_map(|uid| entities.ancestors(uid).into_iter().flatten());
    let named = ancestors.chain(&uid).map(|uid| Some(AsRef::<EntityUID>::as_ref(uid).clone()));
    named.chain([None]).collect()
}
