//! The atoms of each service: those of every policy and condition whose scope does not rule the service out.
//!
//! Atoms are gathered by what a policy's scope says of the resource, once for each policy; a service then gets
//! those of the scopes that name it, an ancestor of it, or nothing. So the work grows with the policies, and not
//! with the policies times the services.

use std::collections::HashMap;

use cedar_policy::pst;
use cedar_policy::{Entities, EntityUid, PolicySet, ResourceConstraint};
use model::AtomSet;

use crate::atoms::Derived;
use crate::engine::request::{Kind, uid};

/// Atoms by the entity that the scope names as resource, if it names one.
#[derive(Debug, Default)]
pub(super) struct ScopedAtoms(HashMap<Option<EntityUid>, Derived>);

impl ScopedAtoms {
    /// Adds the atoms of all policies of `set`.
    pub(super) fn add(&mut self, set: &PolicySet) {
        for policy in set.policies() {
            let named = match policy.resource_constraint() {
                ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
                ResourceConstraint::Eq(uid)
                | ResourceConstraint::In(uid)
                | ResourceConstraint::IsIn(_, uid) => Some(uid),
            };
            let derived = self.0.entry(named).or_default();
            // Of the template: a link's slots stand in its scope alone. And from the syntax tree that there is:
            // `Policy::to_pst` would parse the policy's text again.
            match pst::Template::try_from(policy.as_ref().template().clone()) {
                Ok(policy) => derived.policy(&policy),
                // One that can't be shown as such a tree may read anything.
                Err(_) => derived.reads_everything = true,
            }
        }
    }

    /// What concerns every service.
    pub(super) fn of_all(&mut self) -> &mut Derived {
        self.0.entry(None).or_default()
    }

    /// Everything that was added.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Derived> {
        self.0.values()
    }

    /// The atoms of the service called `name`.
    pub(super) fn of_service(&self, name: &str, entities: &Entities) -> AtomSet {
        let uid = uid(Kind::Service, name).ok();
        let ancestors = uid.iter().flat_map(|uid| entities.ancestors(uid).into_iter().flatten()).cloned();
        let scopes = ancestors.map(Some).chain([uid.clone(), None]);
        let mut derived = Derived::default();
        for scope in scopes.filter_map(|scope| self.0.get(&scope)) {
            derived.atoms.extend(scope.atoms.iter().cloned());
            derived.reads_everything |= scope.reads_everything;
        }
        // The order must not depend on that of a hash map: equal bundles have equal atom sets.
        derived.atoms.sort();
        AtomSet::new(derived.atoms, !derived.reads_everything)
    }
}
