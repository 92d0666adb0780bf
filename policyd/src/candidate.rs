//! Candidate bundles: tried next to the bundle in force, and never enforced.
//!
//! One task watches their folders, and tells the owner of the snapshots of each change. Whatever is wrong with a
//! candidate is told and ignored: it is not tried then, and the bundle in force goes on as if there were none.

use std::path::PathBuf;
use std::sync::Arc;

use daemon::Lifecycle;
use daemon::finding::Findings;
use model::AtomSet;
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
    use super::*;

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
