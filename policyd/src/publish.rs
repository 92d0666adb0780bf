//! What each proxy is told of a snapshot.
//!
//! It comes in two parts. The mesh is the same for all proxies; policies are the same for all proxies with one
//! identity and the same services. Each part is put together and encoded once, and stays for as long as a
//! snapshot says that it is the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use api::config::{DecisionLog, Endpoint, Enforced, Mesh, Part, Policies, Service};
use model::{AtomSet, Limit, Mode, Name, Operand, Revision, SpiffeId};

use crate::bundle::{Bundle, mesh};
use crate::snapshot::Snapshot;

/// Inbound addresses by instance name, for instances whose address the bundle leaves open.
pub type Addresses = BTreeMap<String, SocketAddr>;

/// The most policies kept ready; beyond, all are put together again.
const KEPT_MAX: usize = 20_000;

/// The parts of what proxies are told, ready to be sent.
#[derive(Debug)]
pub struct Publisher {
    addresses: Addresses,
    ready: Mutex<Ready>,
}

#[derive(Debug, Default)]
struct Ready {
    mesh: Option<Part>,
    policies: HashMap<(SpiffeId, Vec<String>), Part>,
}

impl Publisher {
    /// With the addresses that bundles leave open.
    pub fn new(addresses: Addresses) -> Self {
        Self { addresses, ready: Mutex::default() }
    }

    /// What every proxy is told of `snapshot`.
    pub fn mesh(&self, snapshot: &Snapshot) -> Part {
        let since = snapshot.mesh_since();
        if let Some(ready) = self.ready().mesh.as_ref().filter(|ready| ready.since == since) {
            return ready.clone();
        }
        let made = Part::of_mesh(since, &mesh(snapshot, &self.addresses));
        self.ready().mesh = Some(made.clone());
        made
    }

    /// What proxies with the identity `peer` are told of those of `services` that are theirs.
    pub fn policies(&self, snapshot: &Snapshot, peer: &SpiffeId, services: &[String]) -> Part {
        let since = snapshot.told_since(services);
        let whose = (peer.clone(), services.to_vec());
        if let Some(ready) = self.ready().policies.get(&whose).filter(|ready| ready.since == since) {
            return ready.clone();
        }
        // Not under the lock: thousands of proxies may be waiting for theirs.
        let made = Part::of_policies(since, &policies(snapshot, peer, services));
        let mut ready = self.ready();
        if ready.policies.len() >= KEPT_MAX {
            ready.policies.clear();
        }
        ready.policies.insert(whose, made.clone());
        made
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mesh(snapshot: &Snapshot, addresses: &Addresses) -> Mesh {
    let endpoint = |instance: &mesh::Instance| {
        let address = addresses.get(&instance.name).copied().or(instance.inbound)?;
        Some(Endpoint { instance: instance.name.clone(), version: instance.version.clone(), address })
    };
    let service = |(name, service): (&String, &mesh::Service)| Service {
        name: name.clone(),
        // A server outside of the mesh has none.
        spiffe_ids: service.external.is_none().then(|| service.spiffe_id.clone()).into_iter().collect(),
        endpoints: service.instances.iter().filter_map(endpoint).collect(),
        timeout: service.timeout,
        protocol: service.protocol,
        mtls: service.mtls,
        idle_timeout: service.idle_timeout,
        external: service.external.clone(),
    };
    Mesh { services: snapshot.bundle.mesh.services.iter().map(service).collect() }
}

/// A service that is no longer `peer`'s since a change of the bundle is none of its own.
fn policies(snapshot: &Snapshot, peer: &SpiffeId, services: &[String]) -> Policies {
    let bundle = &snapshot.bundle;
    // No sidecar stands before a service outside of the mesh: its callers' decide.
    let own = |name: &String| {
        bundle.mesh.services.get(name).is_some_and(|service| match service.external {
            Some(_) => true,
            None => services.contains(name) && service.spiffe_id == *peer,
        })
    };
    let enforced = |name: &String| {
        let service = bundle.mesh.services.get(name)?;
        let atoms = snapshot.atoms(name)?;
        Some(Enforced {
            service: name.clone(),
            revision: snapshot.decisions_since(name),
            fail_mode: service.fail_mode,
            denial_exposure: service.denial_exposure,
            enforcement: service.enforcement,
            decision_log: service.decision_log.then(|| decision_log(bundle, &atoms)),
            routes: service.operations.operations.routes().to_vec(),
            issuers: service.issuers.clone(),
            merge_slashes: service.merge_slashes,
            atoms,
        })
    };
    let limits = bundle.limits.iter().filter(|limit| limit.service.as_ref().is_none_or(own));
    let concerns = |service: &Option<String>| service.as_ref().is_none_or(own);
    let rules = bundle.rules.iter().filter(|rule| rule.reports() && concerns(&rule.service));
    let rules: Vec<_> = rules.map(|rule| rule.report()).collect();
    let used: BTreeSet<&str> =
        rules.iter().flat_map(|rule| &rule.actions).map(|action| action.handler.as_str()).collect();
    Policies {
        services: services
            .iter()
            .chain(bundle.mesh.externals())
            .filter(|name| own(name))
            .filter_map(enforced)
            .collect(),
        limits: limits.map(|limit| Limit::clone(&limit.limit)).collect(),
        handlers: used.into_iter().filter_map(|name| bundle.rules.report_handler(name)).collect(),
        rules,
        stale_after: bundle.mesh.stale_after,
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
    let always = [Name::Method, Name::Path, Name::Host, Name::SourceIp, Name::Sni];
    let masked = always.iter().chain(recorded.iter().copied()).filter(|name| masks.cover(name));
    let masked = masked.cloned().map(Operand::Context).chain(masks.principal.then_some(Operand::Principal));
    DecisionLog {
        sample_hits: *sample_hits,
        masked: masked.collect(),
        recorded: recorded.into_iter().cloned().collect(),
    }
}

/// The mesh-wide limit called `name`, if there is one that `service` may be charged to.
pub fn mesh_limit<'a>(snapshot: &'a Snapshot, service: &str, name: &str) -> Option<&'a Arc<Limit>> {
    let limit = snapshot.bundle.limit(name)?;
    let concerns = limit.service.as_ref().is_none_or(|limited| limited == service);
    (concerns && limit.limit.mode != Mode::Local).then_some(&limit.limit)
}

/// What a proxy has, or was sent: since when each part is what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The mesh.
    pub mesh: Option<Revision>,
    /// The policies.
    pub policies: Option<Revision>,
}

impl Parts {
    /// What proxies of `services` should have.
    pub fn of(snapshot: &Snapshot, services: &[String]) -> Self {
        Self { mesh: Some(snapshot.mesh_since()), policies: Some(snapshot.told_since(services)) }
    }
}
