//! Keeps the current snapshot in step with the bundle on disk and with what check adapters know.
//!
//! One task owns the bundle: it alone reads, builds and publishes. A bundle with a mistake, or none at all, is
//! told of and changes nothing. A bundle that an operator has pinned comes before what the source has, until it is
//! released: a broken source must not come back by itself.

use std::sync::Arc;

use anyhow::{Context, Result};
use daemon::finding::{Finding, Findings};
use daemon::{Clock, Lifecycle, Readiness};
use futures_util::StreamExt;
use model::Revision;
use notify::RecommendedWatcher;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use crate::bundle::{Bundle, Loader, mesh};
use crate::candidate::Candidates;
use crate::delivery::history::Why;
use crate::delivery::standing::Standing;
use crate::delivery::{Delivered, Delivery, Digest};
use crate::folders::{self, POLL};
use crate::handlers::{Changes, Handlers};
use crate::metrics::Metrics;
use crate::proxies::Proxies;
use crate::snapshot::{Current, Snapshot};

mod again;
mod first;
mod told;

use first::{First, first};
pub(crate) use told::crashed;
use told::warn_of;

/// The task that owns the bundle.
#[derive(Debug)]
pub struct Source {
    delivery: Arc<Delivery>,
    /// What is kept of one load for the next.
    loader: Loader,
    /// The bundle in force.
    in_force: Delivered,
    /// Why it is.
    why: Why,
    /// What it is called; none if it is not kept.
    kept: Option<Digest>,
    /// It could not be kept, which is tried again.
    keep_failed: bool,
    /// What the source had when it was last looked at while another bundle was pinned, and what is wrong with it.
    aside: Option<(Delivered, Option<Arc<Findings>>)>,
    /// The bundle last refused, and why: nothing but an edit makes another of it.
    refused: Option<(Delivered, Arc<Findings>)>,
    current: Current,
    surroundings: Surroundings,
    /// How things stood when that was last told in the state folder.
    stood: Option<Standing>,
    /// Tells how the last reading went; for `up`, which shows it.
    status: watch::Sender<Status>,
    /// The system's news of the folders.
    changes: mpsc::Receiver<()>,
    /// The check adapters' news, from the handlers in force.
    answers: Changes,
    /// Other bundles to be tried, now and after every change.
    candidates: watch::Receiver<Candidates>,
    watcher: RecommendedWatcher,
}

/// What a [`Source`] works with.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Are told of each change before it is published.
    pub proxies: Arc<Proxies>,
    /// Is told when another bundle than the source's serves.
    pub readiness: Readiness,
    /// For the history.
    pub clock: Clock,
}

/// How the last reading of the bundle went.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// How often there was something to tell: a bundle that came into force, or one that was refused.
    pub reads: u64,
    /// What is wrong with the bundle at the source, if it is refused.
    pub refused: Option<Arc<Findings>>,
    /// Why the bundle in force is.
    pub why: Why,
    /// The bundle that an operator wants in force.
    pub pinned: Option<Digest>,
    /// Why that one is not.
    pub pin_refused: Option<Arc<Findings>>,
}

impl Source {
    /// Takes the first bundle: the one that is pinned, else what the source has, else the last good one. From then on it
    /// watches.
    ///
    /// # Errors
    /// [`Findings`] when the bundle has mistakes and none is kept; else why it can't be watched.
    pub async fn start(delivery: Delivery, epoch: u64, surroundings: Surroundings) -> Result<Self> {
        let (watcher, changes) = folders::news();
        let mut watcher = watcher.context("the bundle's folder can't be watched")?;
        // Watching starts before reading, so that no change falls in between.
        if let Err(error) = watch(&mut watcher, &delivery) {
            warn!(%error, "the system can't tell of changes to the bundle: it is read every {POLL:?}");
        }
        let (delivery, mut loader) = (Arc::new(delivery), Loader::default());
        let First { bundle, handlers, delivered, why, refused } = first(&mut loader, &delivery).await?;
        warn_of(&bundle.warnings);
        let mut answers = Changes::new();
        handlers.listen(&Handlers::default(), &mut answers);
        let current = Current::new(Arc::new(bundle), Arc::new(handlers), epoch);
        surroundings.proxies.publishing(current.get().revision);
        let mut source = Self {
            delivery,
            loader,
            in_force: delivered,
            why,
            kept: None,
            keep_failed: false,
            aside: None,
            refused: None,
            answers,
            candidates: watch::channel(Candidates::default()).1,
            current,
            surroundings,
            stood: None,
            status: watch::Sender::default(),
            changes,
            watcher,
        };
        source.surroundings.metrics.reloaded(refused.is_none());
        source.surroundings.metrics.published(1);
        source.status.send_modify(|status| status.refused = refused);
        source.keep().await;
        source.stand().await;
        Ok(source)
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
                Some((name, _)) = self.answers.next() => self.republish(&name).await,
                Ok(()) = self.candidates.changed() => {
                    self.try_candidates();
                    self.stand().await;
                }
            }
        }
        self.current.get().handlers.close().await;
    }

    /// Looks at what is pinned and at the source, and publishes what has changed and has no mistake.
    async fn look(&mut self) {
        if self.keep_failed {
            self.keep().await;
        }
        match self.blocking(Delivery::pinned).await {
            Ok(Some(digest)) => {
                let refused = self.hold(digest).await.err();
                self.tell_pin(Some(digest), refused);
                self.stand().await;
                let result = self.look_aside().await;
                self.tell(result.map(|()| None)).await;
            }
            Ok(None) => {
                self.tell_pin(None, None);
                let result = self.follow().await;
                self.tell(result).await;
            }
            // Whatever it is that an operator wants, it is not the source: what is in force stays so.
            Err(findings) => {
                self.tell_pin(None, Some(Arc::new(findings)));
                self.stand().await;
            }
        }
    }

    /// Puts what the source has in force.
    async fn follow(&mut self) -> Result<Option<Revision>, Arc<Findings>> {
        self.aside = None;
        match self.read_settled().await {
            Ok(delivered) if delivered == self.in_force => {
                self.why = Why::Source;
                Ok(None)
            }
            Ok(delivered) => match &self.refused {
                Some((refused, findings)) if *refused == delivered => Err(findings.clone()),
                _ => self.replace(delivered, Why::Source).await.map(Some),
            },
            Err(findings) => Err(Arc::new(findings)),
        }
    }

    /// Puts the bundle called `digest` in force, if it is not.
    async fn hold(&mut self, digest: Digest) -> Result<(), Arc<Findings>> {
        if self.kept == Some(digest) {
            self.why = Why::Pinned;
            return Ok(());
        }
        let delivered = self.blocking(move |delivery| delivery.kept(digest)).await?;
        let revision = self.replace(delivered, Why::Pinned).await?;
        warn!(%revision, bundle = %digest, "an operator has put this bundle in force, until `tidegate bundle release`");
        Ok(())
    }

    /// Looks at what the source has while another bundle is pinned: so it is known before the release whether it is good.
    async fn look_aside(&mut self) -> Result<(), Arc<Findings>> {
        let delivered = self.read_settled().await.map_err(Arc::new)?;
        let known = self.aside.take().filter(|(before, _)| *before == delivered).map(|(_, wrong)| wrong);
        let wrong = match known {
            Some(wrong) => wrong,
            None => load(&mut self.loader, &delivered)
                .await
                .and_then(|bundle| self.of_this_mesh(bundle))
                .err()
                .map(Arc::new),
        };
        self.aside = Some((delivered, wrong.clone()));
        wrong.map_or(Ok(()), Err)
    }

    async fn read_settled(&mut self) -> Result<Delivered, Findings> {
        let Self { delivery, watcher, in_force, .. } = self;
        let is_known =
            |found: &Result<Delivered, Findings>| found.as_ref().is_ok_and(|found| found == in_force);
        let read = || {
            if let Err(error) = watch(watcher, delivery) {
                debug!(%error, "the bundle's folder can't be watched");
            }
            blocking(delivery.clone(), Delivery::read)
        };
        folders::settled(is_known, read).await
    }

    async fn replace(&mut self, delivered: Delivered, why: Why) -> Result<Revision, Arc<Findings>> {
        let bundle =
            match load(&mut self.loader, &delivered).await.and_then(|bundle| self.of_this_mesh(bundle)) {
                Ok(bundle) => bundle,
                Err(findings) => {
                    let findings = Arc::new(findings);
                    self.refused = Some((delivered, findings.clone()));
                    return Err(findings);
                }
            };
        // Not remembered as refused: what handlers need, such as a list's file, may be there at the next look.
        let before = self.current.get();
        let handlers = Arc::new(before.handlers.next(&bundle).await?);
        warn_of(&bundle.warnings);
        // Off the runtime's threads: a large bundle takes a while to compare.
        let (current, running) = (self.current.clone(), handlers.clone());
        let next = spawn_blocking(move || current.next(Arc::new(bundle), running)).await;
        let next = next.map_err(|error| crashed(&error))?;
        // Listened to before anyone asks them. Handlers that are gone end with the last Check that uses them.
        handlers.listen(&before.handlers, &mut self.answers);
        let revision = self.publish(next);
        (self.in_force, self.why, self.refused) = (delivered, why, None);
        // In force first: what enforces must not wait for a disk.
        self.kept = None;
        self.keep().await;
        Ok(revision)
    }

    fn publish(&self, next: Snapshot) -> Revision {
        let revision = next.revision;
        self.surroundings.proxies.publishing(revision);
        self.current.publish(next);
        self.surroundings.metrics.published(revision.number);
        revision
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

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Delivery) -> Result<T, Findings> + Send + 'static,
    ) -> Result<T, Findings> {
        blocking(self.delivery.clone(), call).await
    }
}

fn watch(watcher: &mut RecommendedWatcher, delivery: &Delivery) -> notify::Result<()> {
    delivery.watched().iter().try_for_each(|folder| folders::watch(watcher, folder))
}

async fn blocking<T: Send + 'static>(
    delivery: Arc<Delivery>,
    call: impl FnOnce(&Delivery) -> Result<T, Findings> + Send + 'static,
) -> Result<T, Findings> {
    match spawn_blocking(move || call(&delivery)).await {
        Ok(result) => result,
        Err(error) => Err(crashed(&error)),
    }
}

async fn load(loader: &mut Loader, delivered: &Delivered) -> Result<Bundle, Findings> {
    let (files, mut kept) = (delivered.files.clone(), std::mem::take(loader));
    let loading = spawn_blocking(move || {
        let result = kept.load(&files);
        (kept, result)
    });
    match loading.await {
        Ok((kept, result)) => {
            *loader = kept;
            result
        }
        Err(error) => Err(crashed(&error)),
    }
}

#[cfg(test)]
mod tests;
