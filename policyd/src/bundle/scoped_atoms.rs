//! The atoms of each service: those of every policy and condition whose scope does not rule the service out.
//!
//! Atoms are gathered by what a policy's scope says of the resource, once for each policy; a service then gets
//! those of the scopes that name it, an ancestor of it, or nothing. So the work grows with the policies, and not
//! with the policies times the services.

use std::collections::HashMap;

use cedar_policy::Entities;
use cedar_policy_core::ast::{EntityUID, Template};
use model::{Atom, AtomSet};

use super::policies::Policy;
use super::schema::Types;
use super::scope;
use crate::atoms::{Derived, read_as};

/// Atoms by the entity that the scope names as resource, if it names one.
#[derive(Debug, Default)]
pub(super) struct ScopedAtoms<'a> {
    by_scope: HashMap<Option<&'a EntityUID>, Scope<'a>>,
}

#[derive(Debug, Default)]
struct Scope<'a> {
    atoms: Vec<&'a Atom>,
    reads_everything: bool,
}

impl<'a> ScopedAtoms<'a> {
    /// Adds the atoms of a policy.
    pub(super) fn add_policy(&mut self, policy: &'a Policy) {
        let slot = policy.slots().and_then(|link| link.resource.as_deref());
        self.add(policy.statement().template(), slot, policy.statement().derived());
    }

    /// Adds the atoms of what `template` says with `slot` as `?resource`.
    pub(super) fn add(&mut self, template: &'a Template, slot: Option<&'a EntityUID>, derived: &'a Derived) {
        let scope = self.by_scope.entry(scope::named_resource(template, slot)).or_default();
        scope.atoms.extend(&derived.atoms);
        scope.reads_everything |= derived.reads_everything;
    }

    /// Leaves one of each atom, once all are there: services share scopes.
    pub(super) fn settle(&mut self) {
        for scope in self.by_scope.values_mut() {
            scope.atoms.sort_unstable();
            scope.atoms.dedup();
        }
    }

    /// Everything that was added by scope.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Atom> {
        self.by_scope.values().flat_map(|scope| &scope.atoms).copied()
    }

    /// The atoms of the service called `name`, whose texts have `types`, and those `of_rules`, by service.
    pub(super) fn of_service(
        &self,
        name: &str,
        entities: &Entities,
        types: &Types,
        of_rules: &HashMap<Option<&str>, Derived>,
    ) -> AtomSet {
        let scopes = scope::of_service(name, entities);
        let of_rules = || [None, Some(name)].into_iter().filter_map(|service| of_rules.get(&service));
        let mut atoms: Vec<&Atom> = Vec::new();
        let mut reads_everything = of_rules().any(|derived| derived.reads_everything);
        for scope in scopes.iter().filter_map(|scope| self.by_scope.get(&scope.as_ref())) {
            atoms.extend(&scope.atoms);
            reads_everything |= scope.reads_everything;
        }
        // Services share scopes, and scopes atoms: each is copied once.
        atoms.sort_unstable();
        atoms.dedup();
        let typed = atoms.into_iter().cloned().map(|mut atom| {
            let kind = types.of(&atom.name);
            read_as(&mut atom, kind);
            atom
        });
        let of_rules = of_rules().flat_map(|derived| &derived.atoms).cloned();
        AtomSet::new(typed.chain(of_rules).collect(), !reads_everything)
    }
}
