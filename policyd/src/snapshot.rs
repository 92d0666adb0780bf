//! The state that decides: immutable, numbered, replaced whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Atom, AtomSet, Revision};
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::candidate::{Candidate, Candidates, Trial};
use crate::concern::{Concern, Concerns};
use crate::digest::Digest;
use crate::handlers::Handlers;

/// Everything a decision is made from, at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of this state.
    pub revision: Revision,
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// The check adapters, running.
    pub handlers: Arc<Handlers>,
    /// Other bundles, which are tried.
    pub candidates: Candidates,
    concerns: Arc<Concerns>,
    mesh: Since<Digest>,
    services: BTreeMap<String, Standing>,
    /// When a service was last taken out of the mesh.
    removed: Revision,
    /// Frees the bundle. The last field, for it has to be dropped last.
    _last: Last,
}

/// Holds a bundle until nobody else does, and has it freed where that keeps nobody waiting: a bundle of many thousand
/// policies takes many milliseconds, and the last one to let go of it may be a task that answers Checks.
#[derive(Debug)]
struct Last(Option<Arc<Bundle>>);

impl Drop for Last {
    fn drop(&mut self) {
        let Some(bundle) = self.0.take().and_then(Arc::into_inner) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(bundle));
        }
    }
}

/// Since when things are as they are for one service.
#[derive(Clone, Debug)]
struct Standing {
    /// What decisions on it are made from, the versions of the check adapters that are asked and what candidates would
    /// say included.
    decisions: Since<(Digest, Vec<Option<u64>>, Vec<Digest>)>,
    /// What its proxies are told: that, and more.
    told: Since<Digest>,
}

/// Something, and the revision since which it is what it is.
#[derive(Clone, Debug)]
struct Since<T> {
    content: T,
    revision: Revision,
}

impl<T: PartialEq> Since<T> {
    fn after(previous: Option<&Self>, content: T, now: Revision) -> Self {
        let same = previous.filter(|previous| previous.content == content);
        Self { content, revision: same.map_or(now, |same| same.revision) }
    }
}

impl Snapshot {
    fn new(
        revision: Revision,
        bundle: Arc<Bundle>,
        handlers: Arc<Handlers>,
        candidates: Candidates,
        previous: Option<&Self>,
    ) -> Self {
        let concerns = match previous.filter(|previous| Arc::ptr_eq(&previous.bundle, &bundle)) {
            Some(same) => same.concerns.clone(),
            None => Arc::new(Concerns::of(&bundle)),
        };
        let standing = |(name, concern): (&String, &Concern)| {
            let before = previous.and_then(|previous| previous.services.get(name));
            let versions = concern.handlers.iter().map(|name| handlers.version(name)).collect();
            let tried = candidates.iter().map(|candidate| tried(candidate, name)).collect();
            let decisions = (concern.decisions, versions, tried);
            let decisions = Since::after(before.map(|before| &before.decisions), decisions, revision);
            let mut told = Since::after(before.map(|before| &before.told), concern.told, revision);
            told.revision = if decisions.revision == revision { revision } else { told.revision };
            (name.clone(), Standing { decisions, told })
        };
        let kept = |name| concerns.services.contains_key(name);
        let removed = match previous {
            Some(previous) if previous.services.keys().all(kept) => previous.removed,
            _ => revision,
        };
        Self {
            revision,
            mesh: Since::after(previous.map(|previous| &previous.mesh), concerns.mesh, revision),
            services: concerns.services.iter().map(standing).collect(),
            removed,
            _last: Last(Some(bundle.clone())),
            bundle,
            handlers,
            candidates,
            concerns,
        }
    }

    /// The atoms of `service`: those that decide, and those that candidates read.
    pub fn atoms(&self, service: &str) -> Option<AtomSet> {
        let decide = self.bundle.atoms.get(service)?;
        let read = self.candidates.iter().filter_map(|candidate| match candidate.on(service, &self.bundle) {
            Trial::Evaluated(atoms) => Some((atoms, candidate.finds_operations_by(service, &self.bundle))),
            Trial::Unknown(_) | Trial::TooDear => None,
        });
        let with = |all: AtomSet, (more, operations): (&AtomSet, Vec<Atom>)| {
            let atoms = all.atoms().iter().chain(more.atoms()).cloned().chain(operations).collect();
            AtomSet::new(atoms, all.is_cacheable() && more.is_cacheable())
        };
        Some(read.fold(decide.clone(), with))
    }

    /// The revision of the decisions on `service`: since then they are all what they are (see [`crate::concern`]).
    pub fn decisions_since(&self, service: &str) -> Revision {
        self.services.get(service).map_or(self.removed, |standing| standing.decisions.revision)
    }

    /// Since when proxies of `services` are told what they are told of them.
    pub fn told_since(&self, services: &[String]) -> Revision {
        let since = |service: &String| {
            // A service that is gone has changed when it, or one after it, went.
            self.services.get(service).map_or(self.removed, |standing| standing.told.revision)
        };
        // Every proxy decides on calls to services outside of the mesh.
        let externals = self.bundle.mesh.externals();
        let all = services.iter().chain(externals).map(since);
        all.max_by_key(|revision| revision.number).unwrap_or(self.revision)
    }

    /// Since when every proxy is told what it is told of the mesh.
    pub const fn mesh_since(&self) -> Revision {
        self.mesh.revision
    }
}

/// What a candidate's say on `service` is made from.
fn tried(candidate: &Candidate, service: &str) -> Digest {
    let decisions = candidate.concerns.services.get(service).map(|concern| concern.decisions);
    Digest::of(&(&candidate.name, candidate.bundle.mesh.trust_domain.as_str(), decisions))
}

/// Where the current snapshot is published, and where everyone reads it.
#[derive(Clone, Debug)]
pub struct Current(watch::Sender<Arc<Snapshot>>);

impl Current {
    /// Publishes a first snapshot.
    pub fn new(bundle: Arc<Bundle>, handlers: Arc<Handlers>, epoch: u64) -> Self {
        let revision = Revision { epoch, number: 1 };
        Self(watch::Sender::new(Arc::new(Snapshot::new(
            revision,
            bundle,
            handlers,
            Candidates::default(),
            None,
        ))))
    }

    /// The current snapshot.
    pub fn get(&self) -> Arc<Snapshot> {
        self.0.borrow().clone()
    }

    /// The current snapshot and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }

    /// What replaces the current snapshot. O(the size of the bundle), unless it is the same bundle.
    pub fn next(&self, bundle: Arc<Bundle>, handlers: Arc<Handlers>) -> Snapshot {
        let previous = self.get();
        let candidates = previous.candidates.clone();
        Snapshot::new(previous.revision.next(), bundle, handlers, candidates, Some(&previous))
    }

    /// The current snapshot with other candidates.
    pub fn trying(&self, candidates: Candidates) -> Snapshot {
        let previous = self.get();
        let (bundle, handlers) = (previous.bundle.clone(), previous.handlers.clone());
        Snapshot::new(previous.revision.next(), bundle, handlers, candidates, Some(&previous))
    }

    /// Replaces the current snapshot. Only one task may do so: `next` was made from the one before.
    pub fn publish(&self, next: Snapshot) {
        self.0.send_replace(Arc::new(next));
    }
}
