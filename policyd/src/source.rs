//! Keeps the current snapshot in step with the bundle on disk and with what check adapters know.
//!
//! One task owns the bundle: it alone reads, builds and publishes. A bundle with a mistake, or none at all, is
//! told of and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use daemon::Lifecycle;
use daemon::finding::{Finding, Findings};
use futures_util::StreamExt;
use model::Revision;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tracing::{debug, error, info, warn};

use crate::bundle::{Bundle, Files, mesh};
use crate::handlers::{Changes, Handlers};
use crate::metrics::Metrics;
use crate::snapshot::Current;

/// A change counts once the files have stayed the same for this long,
const QUIET: Duration = Duration::from_millis(20);
/// or once they were read this often.
const READS_MAX: usize = 10;
/// The bundle is looked at this often even if the system tells of no change, as network file systems don't.
const POLL: Duration = Duration::from_secs(5);

/// The task that owns the bundle.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    /// The files of the bundle in force.
    in_force: Arc<Files>,
    /// The files last refused, and why: nothing but an edit makes a bundle of them.
    refused: Option<(Arc<Files>, Arc<Findings>)>,
    current: Current,
    metrics: Arc<Metrics>,
    /// Tells how the last reading went; for `up`, which shows it.
    status: watch::Sender<Status>,
    /// The system's news of the folder.
    changes: mpsc::Receiver<()>,
    /// The check adapters' news, from the handlers in force.
    answers: Changes,
    watcher: RecommendedWatcher,
}

/// How the last reading of the bundle went.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// How often there was something to tell: a bundle that came into force, or one that was refused.
    pub reads: u64,
    /// What is wrong with the bundle on disk, if it is refused.
    pub refused: Option<Arc<Findings>>,
}

impl Source {
    /// Reads the bundle in `folder` for the first time, and watches it from then on.
    ///
    /// # Errors
    /// [`Findings`] when the bundle has mistakes; else why it can't be watched.
    pub async fn start(folder: &Path, epoch: u64, metrics: Arc<Metrics>) -> Result<Self> {
        let (told, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may be all there is of a change. A full queue already holds the news.
            if event.map_or(true, |event| !event.kind.is_access()) && told.try_send(()).is_err() {}
        })
        .context("the bundle's folder can't be watched")?;
        // Watching starts before reading, so that no change falls in between.
        let watching = watcher.watch(folder, RecursiveMode::NonRecursive);
        let files = Arc::new(read(folder.to_owned()).await?);
        if let Err(error) = watching {
            warn!(%error, "the system can't tell of changes to the bundle: it is read every {POLL:?}");
        }
        let bundle = load(&files).await?;
        warn_of(&bundle.warnings);
        let handlers = Handlers::start(&bundle).await?;
        metrics.reloaded(true);
        metrics.published(1);
        Ok(Self {
            folder: folder.to_owned(),
            in_force: files,
            refused: None,
            answers: handlers.changes(),
            current: Current::new(Arc::new(bundle), Arc::new(handlers), epoch),
            metrics,
            status: watch::Sender::default(),
            changes,
            watcher,
        })
    }

    /// The snapshots it publishes.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// How the last reading went, and every later one.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Publishes every change until the daemon stops.
    pub async fn run(mut self, lifecycle: Lifecycle) {
        let mut poll = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                () = lifecycle.stopping() => break,
                Some(()) = self.changes.recv() => self.look().await,
                _ = poll.tick() => self.look().await,
                Some(_) = self.answers.next() => self.republish(),
            }
        }
        self.current.get().handlers.close().await;
    }

    /// Looks at the bundle, and publishes it if it has changed and has no mistake.
    async fn look(&mut self) {
        let result = match self.read_settled().await {
            Ok(files) if files == *self.in_force => Ok(None),
            Ok(files) => match &self.refused {
                Some((refused, findings)) if **refused == files => Err(findings.clone()),
                _ => self.replace(Arc::new(files)).await.map(Some),
            },
            Err(findings) => Err(Arc::new(findings)),
        };
        self.tell(result);
    }

    /// Believes in a change only when the files still say the same a moment later: many programs empty a file
    /// before they write it, and an empty file forbids nothing.
    async fn read_settled(&mut self) -> Result<Files, Findings> {
        let mut files = self.read_watched().await;
        for _ in 1..READS_MAX {
            if files.as_ref().is_ok_and(|files| *files == *self.in_force) {
                break;
            }
            tokio::time::sleep(QUIET).await;
            let again = self.read_watched().await;
            if again == files {
                break;
            }
            files = again;
        }
        files
    }

    /// A folder that took the place of the one watched so far has to be watched anew.
    async fn read_watched(&mut self) -> Result<Files, Findings> {
        if let Err(error) = self.watcher.watch(&self.folder, RecursiveMode::NonRecursive) {
            debug!(%error, "the bundle's folder can't be watched");
        }
        read(self.folder.clone()).await
    }

    async fn replace(&mut self, files: Arc<Files>) -> Result<Revision, Arc<Findings>> {
        let bundle = match load(&files).await.and_then(|bundle| self.of_this_mesh(bundle)) {
            Ok(bundle) => bundle,
            Err(findings) => {
                let findings = Arc::new(findings);
                self.refused = Some((files, findings.clone()));
                return Err(findings);
            }
        };
        // Not remembered as refused: what handlers need, such as a list's file, may be there at the next look.
        let handlers = Handlers::start(&bundle).await?;
        warn_of(&bundle.warnings);
        // Listened to before anyone asks them. The handlers before end with the last Check that uses them.
        self.answers = handlers.changes();
        let revision = self.current.publish(Arc::new(bundle), Arc::new(handlers));
        self.metrics.published(revision.number);
        (self.in_force, self.refused) = (files, None);
        Ok(revision)
    }

    /// All identities, policyd's too, belong to the trust domain it started with.
    fn of_this_mesh(&self, bundle: Bundle) -> Result<Bundle, Findings> {
        let ours = &self.current.get().bundle.mesh.trust_domain;
        if bundle.mesh.trust_domain == *ours {
            return Ok(bundle);
        }
        let message = format!("the trust domain was `{ours}` and can't change while policyd runs");
        Err(Finding::in_file(mesh::FILE, message).with_help("change it back, or restart the mesh").into())
    }

    /// Tells what is new. The same mistake is told once.
    fn tell(&self, result: Result<Option<Revision>, Arc<Findings>>) {
        let before = self.status.borrow().refused.clone();
        match &result {
            Ok(None) if before.is_none() => return,
            Ok(None) => info!("the bundle is again the one in force"),
            Ok(Some(revision)) => info!(%revision, "the bundle was changed and is in force"),
            Err(findings) if before.as_ref() == Some(findings) => return,
            Err(findings) => error!(
                "the bundle was changed and is refused; what was in force stays so: {}\n{}",
                findings.summary(&self.folder.display().to_string()),
                findings.render(false)
            ),
        }
        self.metrics.reloaded(result.is_ok());
        self.status.send_modify(|status| *status = Status { reads: status.reads + 1, refused: result.err() });
    }

    /// The same bundle under a new revision: what an adapter answered before may no longer hold.
    fn republish(&self) {
        let before = self.current.get();
        let revision = self.current.publish(before.bundle.clone(), before.handlers.clone());
        self.metrics.published(revision.number);
        info!(%revision, "a check adapter's answers have changed");
    }
}

async fn read(folder: PathBuf) -> Result<Files, Findings> {
    match spawn_blocking(move || Files::read(&folder)).await {
        Ok(result) => result,
        Err(error) => Err(crashed(&error)),
    }
}

async fn load(files: &Arc<Files>) -> Result<Bundle, Findings> {
    let files = files.clone();
    match spawn_blocking(move || Bundle::load(&files)).await {
        Ok(result) => result,
        Err(error) => Err(crashed(&error)),
    }
}

/// A fault of ours, or of Cedar's, must not end the task: what is in force stays so.
fn crashed(error: &tokio::task::JoinError) -> Findings {
    Finding::in_file(mesh::FILE, format!("the bundle can't be checked, by a fault of Tidegate: {error}"))
        .into()
}

fn warn_of(findings: &Findings) {
    if !findings.is_empty() {
        warn!("the bundle is in force, but look at this:\n{}", findings.render(false));
    }
}

#[cfg(test)]
mod tests;
