//! Which policies may concern a caller and a service, by what their scopes say of both.

use std::collections::HashSet;

use cedar_policy::{EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use super::{Caller, permits};
use crate::bundle::Bundle;
use crate::bundle::entities::workload;
use crate::engine::request::{Kind, uid};

/// The scopes of all policies.
pub(super) struct Scopes<'b> {
    bundle: &'b Bundle,
    policies: Vec<(Policy, Option<EntityUid>, Option<EntityUid>)>,
}

/// The policies whose principal and resource may fit; what they say of actions is not looked at.
pub(super) struct Within<'b> {
    pub(super) permits: Vec<&'b Policy>,
    pub(super) forbids: Vec<&'b Policy>,
}

impl<'b> Scopes<'b> {
    pub(super) fn of(bundle: &'b Bundle) -> Self {
        let policies = bundle.policies.policies().filter_map(crate::bundle::Policy::to_cedar);
        let named = |policy: Policy| {
            let principal = match policy.principal_constraint() {
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
                PrincipalConstraint::In(uid)
                | PrincipalConstraint::Eq(uid)
                | PrincipalConstraint::IsIn(_, uid) => Some(uid),
            };
            let resource = match policy.resource_constraint() {
                ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
                ResourceConstraint::In(uid)
                | ResourceConstraint::Eq(uid)
                | ResourceConstraint::IsIn(_, uid) => Some(uid),
            };
            (policy, principal, resource)
        };
        Self { bundle, policies: policies.map(named).collect() }
    }

    /// O(policies).
    pub(super) fn concerning(&self, caller: &Caller, service: &str) -> Within<'_> {
        let of_caller = self.containing(uid(Kind::Workload, caller.principal.as_str()).ok(), caller);
        let of_service = self.containing(uid(Kind::Service, service).ok(), caller);
        let fits = |named: &Option<EntityUid>, among: &HashSet<EntityUid>| {
            named.as_ref().is_none_or(|uid| among.contains(uid))
        };
        let fitting = self
            .policies
            .iter()
            .filter(|(_, principal, resource)| fits(principal, &of_caller) && fits(resource, &of_service));
        let (permits, forbids) = fitting.map(|(policy, ..)| policy).partition(|policy| permits(policy));
        Within { permits, forbids }
    }

    /// An entity and all that it is in. A caller that the bundle doesn't list is in its namespace, and in what that is in.
    fn containing(&self, uid: Option<EntityUid>, caller: &Caller) -> HashSet<EntityUid> {
        let Some(uid) = uid else { return HashSet::new() };
        let mut starts = vec![uid.clone()];
        if self.bundle.entities.get(&uid).is_none() {
            let implied = cedar_policy::Entity::from_json_value(workload(&caller.principal), None);
            let parents = implied.ok().map(|entity| entity.into_inner().2);
            starts.extend(parents.into_iter().flatten());
        }
        let above = starts.iter().flat_map(|uid| self.bundle.entities.ancestors(uid).into_iter().flatten());
        above.chain(&starts).cloned().collect()
    }
}
