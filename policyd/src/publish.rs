//! What each proxy is told of a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use api::config::{Config, DecisionLog, Endpoint, Service};
use model::{AtomSet, Name, Operand, Scope, SpiffeId};

use crate::bundle::{Bundle, mesh};
use crate::snapshot::Snapshot;

/// Inbound addresses by instance name, for instances whose address the bundle leaves open.
pub type Addresses = BTreeMap<String, SocketAddr>;

/// The configuration of the proxy with the identity `peer`, which enforces for `services`.
///
/// It is told of every service of the mesh, for any may be called, but only of its own services' policies. A
/// service that is no longer `peer`'s since a change of the bundle is none of its own.
pub fn config(snapshot: &Snapshot, peer: &SpiffeId, services: &[String], addresses: &Addresses) -> Config {
    let bundle = &snapshot.bundle;
    let own = |name: &String| {
        services.contains(name)
            && bundle.mesh.services.get(name).is_some_and(|service| service.spiffe_id == *peer)
    };
    let described = bundle.mesh.services.iter().map(|(name, service)| Service {
        name: name.clone(),
        spiffe_ids: vec![service.spiffe_id.clone()],
        endpoints: service.instances.iter().filter_map(|instance| endpoint(instance, addresses)).collect(),
        timeout: service.timeout,
        fail_mode: service.fail_mode,
        denial_exposure: service.denial_exposure,
        enforcement: service.enforcement,
        atoms: bundle.atoms.get(name).filter(|_| own(name)).cloned(),
        decision_log: bundle
            .atoms
            .get(name)
            .filter(|_| own(name) && service.decision_log)
            .map(|atoms| decision_log(bundle, atoms)),
    });
    let limits = bundle.limits.iter().filter(|limit| limit.service.as_ref().is_none_or(own));
    Config {
        revision: snapshot.revision,
        services: described.collect(),
        limits: limits.map(|limit| limit.limit.clone()).collect(),
        handlers: bundle.rules.report_handlers(),
        rules: bundle.rules.report_rules(),
    }
}

/// How decisions made of these atoms are logged.
fn decision_log(bundle: &Bundle, atoms: &AtomSet) -> DecisionLog {
    let mesh::DecisionLog { sample_hits, masks } = &bundle.mesh.decision_log;
    let mut recorded: BTreeSet<&Name> = atoms.atoms().iter().map(|atom| &atom.name).collect();
    if !atoms.is_cacheable() {
        // Something reads what no atom stands for: it may be any.
        recorded.extend(bundle.schemas.declared.keys());
    }
    recorded.retain(|name| name.field().is_some());
    let always = [Name::Method, Name::Path, Name::Host, Name::SourceIp];
    let masked = always.iter().chain(recorded.iter().copied()).filter(|name| masks.cover(name));
    let masked = masked.cloned().map(Operand::Context).chain(masks.principal.then_some(Operand::Principal));
    DecisionLog {
        sample_hits: *sample_hits,
        masked: masked.collect(),
        recorded: recorded.into_iter().cloned().collect(),
    }
}

/// The mesh-wide limit called `name`, if there is one that `service` may be charged to.
pub fn mesh_limit<'a>(snapshot: &'a Snapshot, service: &str, name: &str) -> Option<&'a model::Limit> {
    let limit = snapshot.bundle.limits.iter().find(|limit| limit.limit.name == name)?;
    let concerns = limit.service.as_ref().is_none_or(|limited| limited == service);
    (concerns && limit.limit.scope == Scope::Mesh).then_some(&limit.limit)
}

fn endpoint(instance: &mesh::Instance, addresses: &Addresses) -> Option<Endpoint> {
    let address = addresses.get(&instance.name).copied().or(instance.inbound)?;
    Some(Endpoint { instance: instance.name.clone(), version: instance.version.clone(), address })
}
