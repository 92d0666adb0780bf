//! Keeps the current snapshot in step with the bundle on disk and with what check adapters know.
//!
//! One task owns the bundle: it alone reads, builds and publishes. A bundle with a mistake is told of and
//! changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use daemon::Lifecycle;
use daemon::finding::Findings;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::bundle::{Bundle, Files};
use crate::handlers::Handlers;
use crate::metrics::Metrics;
use crate::snapshot::Current;

/// An editor writes a file in several steps: read once it has been quiet for this long,
const QUIET: Duration = Duration::from_millis(20);
/// but at the latest this long after the first step.
const PATIENCE: Duration = Duration::from_millis(250);
/// The bundle is looked at this often even if the system tells of no change, as network file systems don't.
const POLL: Duration = Duration::from_secs(5);

/// The task that owns the bundle.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    /// The files last read, good or bad: the same mistake is told once.
    files: Files,
    current: Current,
    metrics: Arc<Metrics>,
    /// Tells how the last reading went; for `up`, which shows it.
    status: watch::Sender<Status>,
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

/// How the last reading of the bundle went.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// How often the bundle was read.
    pub reads: u64,
    /// What was wrong with it, if it was refused.
    pub refused: Option<Arc<Findings>>,
}

impl Source {
    /// Reads the bundle in `folder` for the first time, and watches it from then on.
    ///
    /// # Errors
    /// [`Findings`] when the bundle has mistakes; else why it can't be watched.
    pub async fn start(folder: &Path, epoch: u64, metrics: Arc<Metrics>) -> Result<Self> {
        // Watching starts before reading, so that no change falls in between.
        let (told, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A full queue already holds the news.
            if event.is_ok_and(|event| !event.kind.is_access()) && told.try_send(()).is_err() {}
        })
        .context("the bundle's folder can't be watched")?;
        let files = Files::read(folder)?;
        watcher.watch(folder, RecursiveMode::NonRecursive).context("the bundle's folder can't be watched")?;
        let bundle = Bundle::load(&files)?;
        warn_of(&bundle.warnings);
        let handlers = Handlers::start(&bundle).await?;
        metrics.reloaded(true);
        metrics.published(1);
        Ok(Self {
            folder: folder.to_owned(),
            files,
            current: Current::new(Arc::new(bundle), Arc::new(handlers), epoch),
            metrics,
            status: watch::Sender::default(),
            changes,
            _watcher: watcher,
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
            let handlers = self.current.get().handlers.clone();
            let mut changes = handlers.changes();
            tokio::select! {
                () = lifecycle.stopping() => break,
                Some(()) = self.changes.recv() => {
                    self.settle().await;
                    self.reload().await;
                }
                _ = poll.tick() => self.reload().await,
                () = any_changed(&mut changes) => self.republish(),
            }
        }
        self.current.get().handlers.close().await;
    }

    /// Waits until the files have been quiet for a moment.
    async fn settle(&mut self) {
        let latest = Instant::now() + PATIENCE;
        while Instant::now() < latest {
            if tokio::time::timeout(QUIET, self.changes.recv()).await.is_err() {
                return;
            }
        }
    }

    async fn reload(&mut self) {
        let result = match Files::read(&self.folder) {
            Ok(files) if files == self.files => return,
            Ok(files) => {
                self.files = files;
                self.replace().await
            }
            Err(findings) => Err(findings),
        };
        self.metrics.reloaded(result.is_ok());
        let refused = result.err().map(Arc::new);
        if let Some(findings) = &refused {
            error!(
                "the bundle was changed and is refused; what was in force stays so: {}\n{}",
                findings.summary(&self.folder.display().to_string()),
                findings.render(false)
            );
        }
        self.status.send_modify(|status| *status = Status { reads: status.reads + 1, refused });
    }

    async fn replace(&self) -> Result<(), Findings> {
        let bundle = Bundle::load(&self.files)?;
        warn_of(&bundle.warnings);
        let handlers = Handlers::start(&bundle).await?;
        let before = self.current.get().handlers.clone();
        let revision = self.current.publish(Arc::new(bundle), Arc::new(handlers));
        self.metrics.published(revision.number);
        info!(%revision, "the bundle was changed and is in force");
        before.close().await;
        Ok(())
    }

    /// The same bundle under a new revision: what an adapter answered before may no longer hold.
    fn republish(&self) {
        let before = self.current.get();
        let revision = self.current.publish(before.bundle.clone(), before.handlers.clone());
        self.metrics.published(revision.number);
        info!(%revision, "a check adapter's answers have changed");
    }
}

fn warn_of(findings: &Findings) {
    if !findings.is_empty() {
        warn!("the bundle is in force, but look at this:\n{}", findings.render(false));
    }
}

/// Resolves when one of the receivers has news; never if there is none.
async fn any_changed(receivers: &mut [watch::Receiver<u64>]) {
    let changes: Vec<_> = receivers.iter_mut().map(|receiver| Box::pin(receiver.changed())).collect();
    if changes.is_empty() {
        return std::future::pending().await;
    }
    if let (Err(_closed), ..) = futures_util::future::select_all(changes).await {
        // A handler that ended has nothing more to tell; the next bundle brings a new one.
        std::future::pending::<()>().await;
    }
}
