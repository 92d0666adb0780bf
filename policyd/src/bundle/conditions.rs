//! The conditions of limits and rules, as policies that are satisfied when the condition holds.

use std::collections::BTreeMap;

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator, pst};
use cedar_policy_core::ast::Template;
use daemon::finding::Findings;

use super::cedar_text::Place;
use super::validation;
use crate::atoms::{Derived, meaning};

/// A set of conditions, and where each one stands in the bundle.
#[derive(Debug, Default)]
pub struct Conditions<'a> {
    /// The conditions as policies, by id.
    pub set: PolicySet,
    places: BTreeMap<PolicyId, Place<'a>>,
}

impl<'a> Conditions<'a> {
    /// Adds a condition that stands at `place`.
    pub fn add(&mut self, policy: Policy, place: Place<'a>, findings: &mut Findings) {
        let id = policy.id().clone();
        match self.set.add(policy) {
            Ok(()) => {
                self.places.insert(id, place);
            }
            Err(error) => {
                findings.push(place.finding(error.to_string()).with_help("give each policy an id of its own"))
            }
        }
    }

    /// The conditions and where they stand, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&Policy, Place<'a>)> {
        self.places.iter().filter_map(|(id, place)| Some((self.set.policy(id)?, *place)))
    }

    /// The conditions and their atoms.
    pub fn derived(&self) -> Vec<(&Template, Derived)> {
        let one = |policy: &'_ Policy| -> Derived {
            let mut derived = Derived::default();
            // From the syntax tree that there is: `Policy::to_pst` would parse the policy's text again.
            match pst::Template::try_from(policy.as_ref().template().clone()) {
                Ok(tree) => derived.policy(&tree, &meaning),
                // One that can't be shown as such a tree may read anything.
                Err(_) => derived.reads_everything = true,
            }
            derived
        };
        self.set.policies().map(|policy| (policy.as_ref().template(), one(policy))).collect()
    }

    /// Checks every condition strictly against `schema`; what the validator only suspects is a warning.
    pub fn validate(&self, schema: &Schema, findings: &mut Findings) {
        let result = Validator::new(schema.clone()).validate(&self.set, ValidationMode::Strict);
        findings.merge(validation::findings(&result, |id| self.places.get(id).copied(), None));
    }
}
