//! Candidate bundles: tried next to the bundle in force, and never enforced.
//!
//! One task watches their folders, and tells the owner of the snapshots of each change. Whatever is wrong with a
//! candidate is told and ignored: it is not tried then, and the bundle in force goes on as if there were none.

use std::path::PathBuf;
use std::sync::Arc;

use daemon::Lifecycle;
use daemon::finding::Findings;
use model::{Atom, AtomSet, Name, Test};
use notify::RecommendedWatcher;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tracing::{debug, error, info, warn};

use crate::bundle::limits::is_token;
use crate::bundle::{Bundle, Files};
use crate::concern::Concerns;
use crate::folders::{self, POLL};
use crate::metrics::Metrics;
use crate::shadows::OWN;
use crate::source::crashed;

/// The most candidates: each is evaluated on every miss.
pub const CANDIDATES_MAX: usize = 8;

/// What a candidate is called, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its name in logs and metrics.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// A candidate without mistakes.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What would be in force.
    pub bundle: Arc<Bundle>,
    /// What its decisions are made from, service by service.
    pub concerns: Arc<Concerns>,
}

/// What a candidate is to a service of the bundle in force.
#[derive(Clone, Copy, Debug)]
pub enum Trial<'a> {
    /// It is evaluated, and reads these.
    Evaluated(&'a AtomSet),
    /// It would deny all requests, for this.
    Unknown(&'static str),
    /// It is not tried: no decision on the service could be cached any more.
    TooDear,
}

/// Those that are tried, by the order of their locations.
pub type Candidates = Arc<Vec<Candidate>>;

/// Watches the folders of candidates.
#[derive(Debug)]
pub struct Watching {
    folders: Vec<Folder>,
    tried: watch::Sender<Candidates>,
    /// The system's news of the folders.
    changes: mpsc::Receiver<()>,
    /// Nothing where the system tells no news.
    watcher: Option<RecommendedWatcher>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Folder {
    location: Location,
    /// What was found in it last.
    found: Option<Result<Files, Findings>>,
    /// The candidate, unless there is something wrong with what was found.
    candidate: Option<Candidate>,
}

/// What is wrong with names and number of candidates: which one, and why.
pub fn mistakes(locations: &[Location]) -> Vec<(usize, String)> {
    let wrong = |(index, location): (usize, &Location)| {
        let name = &location.name;
        let is_taken = locations.iter().take(index).any(|other| other.name == *name);
        let why = if !is_token(name) {
            format!("`{name}` can't be the name of a candidate: use a-z, A-Z, 0-9, `-`, `_` and `.`")
        } else if name == OWN {
            format!("`{OWN}` is what the bundle's own shadow policies are called: choose another name")
        } else if is_taken {
            format!("two candidates are called `{name}`")
        } else if index >= CANDIDATES_MAX {
            format!("there are more than {CANDIDATES_MAX} candidates, and each is evaluated on every miss")
        } else {
            return None;
        };
        Some((index, why))
    };
    locations.iter().enumerate().filter_map(wrong).collect()
}

impl Candidate {
    /// What this candidate is to `service` of the bundle `in_force`.
    pub fn on(&self, service: &str, in_force: &Bundle) -> Trial<'_> {
        if self.bundle.mesh.trust_domain != in_force.mesh.trust_domain {
            return Trial::Unknown("another trust domain");
        }
        let Some(atoms) = self.bundle.atoms.get(service) else { return Trial::Unknown("no such service") };
        let is_cached = in_force.atoms.get(service).is_some_and(AtomSet::is_cacheable);
        if is_cached && !atoms.is_cacheable() { Trial::TooDear } else { Trial::Evaluated(atoms) }
    }

    /// What this candidate finds a request's operation by, where it has other operations of `service` than the bundle
    /// `in_force`. Proxies find those of the latter only, and know no routes of a candidate: so these facts have to be
    /// in the key as they are.
    pub fn finds_operations_by(&self, service: &str, in_force: &Bundle) -> Vec<Atom> {
        let operations = |bundle: &Bundle| {
            bundle.mesh.services.get(service).map(|service| service.operations.operations.clone())
        };
        let own = operations(&self.bundle).unwrap_or_default();
        if own.is_empty() || Some(&own) == operations(in_force).as_ref() {
            return Vec::new();
        }
        [Name::Method, Name::Path].map(|name| Atom::new(name, Test::Value)).into()
    }
}

impl Watching {
    /// Reads the candidates for the first time.
    pub async fn start(locations: Vec<Location>, metrics: Arc<Metrics>) -> Self {
        let (watcher, changes) = folders::news();
        let watcher = watcher.inspect_err(|error| warn!(%error, "candidates are read every {POLL:?}")).ok();
        let folder = |location| Folder { location, found: None, candidate: None };
        let folders = locations.into_iter().map(folder).collect();
        let mut watching = Self { folders, tried: watch::Sender::default(), changes, watcher, metrics };
        watching.look().await;
        watching
    }

    /// The candidates that are tried, now and after every change.
    pub fn tried(&self) -> watch::Receiver<Candidates> {
        self.tried.subscribe()
    }

    /// Looks at each change until the daemon stops.
    pub async fn run(mut self, lifecycle: Lifecycle) {
        if self.folders.is_empty() {
            return;
        }
        let mut poll = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                () = lifecycle.stopping() => return,
                Some(()) = self.changes.recv() => self.look().await,
                _ = poll.tick() => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        let mut changed = false;
        for folder in &mut self.folders {
            if let Some(watcher) = &mut self.watcher
                && let Err(error) = folders::watch(watcher, &folder.location.folder)
            {
                debug!(%error, candidate = folder.location.name, "the candidate's folder can't be watched");
            }
            changed |= folder.look().await;
            self.metrics.candidate(&folder.location.name, folder.candidate.is_some());
        }
        if changed {
            let tried = self.folders.iter().filter_map(|folder| folder.candidate.clone());
            self.tried.send_replace(Arc::new(tried.collect()));
        }
    }
}

impl Folder {
    /// Reads the folder; true if another candidate has come of it, or none any more.
    async fn look(&mut self) -> bool {
        let known = self.found.as_ref();
        let found =
            folders::settled(|found| known == Some(found), || read(self.location.folder.clone())).await;
        if self.found.as_ref() == Some(&found) {
            return false;
        }
        let name = self.location.name.clone();
        let loaded = match &found {
            Ok(files) => load(name.clone(), files.clone()).await,
            Err(findings) => Err(findings.clone()),
        };
        self.found = Some(found);
        let before = self.candidate.take();
        match loaded {
            Ok(candidate) => {
                info!(candidate = name, "the candidate is tried");
                self.candidate = Some(candidate);
                true
            }
            Err(findings) => {
                error!(
                    candidate = name,
                    "the candidate is refused and not tried: {}\n{}",
                    findings.summary(&self.location.folder.display().to_string()),
                    findings.render(false)
                );
                before.is_some()
            }
        }
    }
}

async fn read(folder: PathBuf) -> Result<Files, Findings> {
    match spawn_blocking(move || Files::read(&folder)).await {
        Ok(result) => result,
        Err(error) => Err(crashed(&error)),
    }
}

async fn load(name: String, files: Files) -> Result<Candidate, Findings> {
    let load = move || {
        let bundle = Bundle::load(&files)?;
        Ok(Candidate { name, concerns: Arc::new(Concerns::of(&bundle)), bundle: Arc::new(bundle) })
    };
    match spawn_blocking(load).await {
        Ok(result) => result,
        Err(error) => Err(crashed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use model::{Attributes, Keys, Room, Verdict};

    use super::*;
    use crate::handlers::Handlers;
    use crate::shadows;
    use crate::snapshot::Current;

    const ACL: &str = "permit (principal, action in Action::\"http\", resource);\n";

    fn bundle(operations: &str, acl: &str) -> Arc<Bundle> {
        let mesh = format!("trust_domain: a.example\nservices: {{orders: {{operations: {operations}}}}}\n");
        let texts = [("mesh.yaml", mesh), ("acl.cedar", format!("{ACL}{acl}"))];
        let texts = texts.map(|(name, text)| (name.to_owned(), text)).into();
        Arc::new(Bundle::load(&Files { folder: ".".into(), texts }).unwrap())
    }

    /// What the candidate `tried` says of reading each of `paths`, and which of these have keys of their own.
    async fn said(in_force: &Arc<Bundle>, tried: &Arc<Bundle>, paths: [&str; 3]) -> (Vec<Verdict>, usize) {
        let handlers = Arc::new(Handlers::default());
        let concerns = Arc::new(Concerns::of(tried));
        let candidate = Candidate { name: "next".to_owned(), bundle: tried.clone(), concerns };
        let current = Current::new(in_force.clone(), handlers, 1);
        current.publish(current.trying(Arc::new(vec![candidate])));
        let snapshot = current.get();
        let keys = Keys::new(&snapshot.atoms("orders").unwrap());
        let requests = paths.map(|path| {
            let mut request = Attributes {
                resource: "orders".into(),
                method: "GET".into(),
                path: path.into(),
                ..Attributes::default()
            };
            request.operation = in_force.mesh.operation(&request).map(str::to_owned);
            request
        });
        let verdict = |request: &Attributes| {
            let evaluation = crate::engine::evaluate(in_force, request).unwrap();
            let opinion = evaluation.opinion.clone();
            shadows::of(&snapshot, request, &evaluation, opinion)[0].verdict
        };
        let distinct: std::collections::BTreeSet<Vec<u8>> =
            requests.iter().map(|request| keys.encode(request, &mut Room::default()).to_vec()).collect();
        (requests.iter().map(verdict).collect(), distinct.len())
    }

    #[tokio::test]
    async fn a_candidate_finds_operations_by_its_own_routes_and_its_say_has_a_key_of_its_own() {
        let forbid = "forbid (principal, action == Action::\"one\", resource);";
        let (none, one) = (bundle("{}", ""), bundle("{one: {method: GET, path: '/a/{id}'}}", forbid));
        let paths = ["/a/1", "/a/1/b", "/a/2/b"];
        let expected = vec![Verdict::Deny, Verdict::Allow, Verdict::Allow];
        assert_eq!(said(&none, &one, paths).await, (expected.clone(), 3));
        let other = bundle("{one: {method: GET, path: '/{id}/1'}}", "");
        assert_eq!(said(&other, &one, paths).await, (expected.clone(), 3), "a name alone says nothing");
        assert_eq!(said(&one, &one, paths).await, (expected, 2), "the same routes cost no hits");
        assert_eq!(said(&one, &none, paths).await, (vec![Verdict::Allow; 3], 2));
    }

    #[test]
    fn each_candidate_has_a_name_of_its_own() {
        let locations = |names: &[&str]| -> Vec<Location> {
            names.iter().map(|name| Location { name: (*name).to_owned(), folder: PathBuf::new() }).collect()
        };
        let nine = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        for (names, expected) in [
            (&["next", "v1.2"][..], None),
            (&["next", "next"], Some((1, "two candidates are called `next`"))),
            (&["shadow"], Some((0, "`shadow` is what the bundle's own shadow policies are called"))),
            (&["a b"], Some((0, "`a b` can't be the name of a candidate"))),
            (&[""], Some((0, "`` can't be the name of a candidate"))),
            (&nine, Some((8, "there are more than 8 candidates"))),
        ] {
            let mistakes = mistakes(&locations(names));
            let found = mistakes.first().map(|(index, why)| (*index, why.as_str()));
            match (found, expected) {
                (None, None) => {}
                (Some((index, why)), Some((at, start))) => {
                    assert!(index == at && why.starts_with(start), "{why}")
                }
                _ => panic!("{names:?}: {mistakes:?}"),
            }
        }
    }
}
