//! Who may call, as far as policies can tell.

use std::collections::BTreeSet;

use model::Principal;

use crate::bundle::Bundle;

/// Everyone whom policies may know, and strangers.
pub(super) fn principals(bundles: &[&Bundle]) -> Vec<Principal> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut namespaces: BTreeSet<String> = BTreeSet::new();
    let mut principals = Vec::new();
    let mut add = |principal: Principal| {
        if known.insert(principal.as_str().to_owned()) {
            principals.push(principal);
        }
    };
    let services = bundles.iter().flat_map(|bundle| bundle.mesh.services.values());
    for service in services.filter(|service| service.external.is_none()) {
        add(Principal::Workload(service.spiffe_id.clone()));
        namespaces.insert(service.namespace.clone());
    }
    let listed = bundles.iter().flat_map(|bundle| bundle.entities.iter().map(cedar_policy::Entity::uid));
    let literals = bundles.iter().flat_map(|bundle| {
        let policies = bundle.policies.policies().filter_map(crate::bundle::Policy::to_cedar);
        policies.chain(bundle.conditions.policies().cloned())
    });
    let literals = literals.flat_map(|policy| policy.entity_literals());
    let mut named: Vec<(String, String)> = listed
        .chain(literals)
        .map(|uid| (uid.type_name().to_string(), uid.id().unescaped().to_owned()))
        .collect();
    named.sort();
    for (kind, id) in named {
        match kind.as_str() {
            "Workload" => {
                // An id that is no SPIFFE ID is nobody's.
                if let Ok(principal) = id.parse() {
                    add(principal);
                }
            }
            "Namespace" => {
                namespaces.insert(id);
            }
            _ => {}
        }
    }
    add(Principal::Unauthenticated);
    namespaces.insert(STRANGER.to_owned());
    for domain in bundles.iter().map(|bundle| &bundle.mesh.trust_domain) {
        // A namespace that is no part of a SPIFFE ID has no workloads.
        namespaces
            .iter()
            .filter_map(|namespace| domain.workload(namespace, STRANGER).ok())
            .for_each(|id| add(Principal::Workload(id)));
    }
    principals
}

/// The service account, and the namespace, of callers that nobody has heard of.
pub(crate) const STRANGER: &str = "stranger";
