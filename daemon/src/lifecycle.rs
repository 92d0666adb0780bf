//! How a daemon's tasks are told to stop, and how it waits for them.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One daemon's life, from its start to its drain; all clones are the same life.
///
/// Whoever owns tasks spawns them here. A task watches [`Lifecycle::stopping`], then finishes what it has
/// promised and ends.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    /// Cancelled with `stop` or, by who retires, later.
    close: CancellationToken,
    tasks: TaskTracker,
}

impl Lifecycle {
    /// A life that has just begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task`, which [`Lifecycle::drain`] will wait for. Dropping the handle does not end the task.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// Resolves when the daemon is told to stop; at once if it was already.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the daemon was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves when what is idle is to be closed: when the daemon is told to stop, or, if it retires, some time later.
    pub async fn closing(&self) {
        self.close.cancelled().await;
    }

    /// Whether it stops for another process to take its place, and whoever has begun to speak to it may finish.
    pub fn is_retiring(&self) -> bool {
        self.stop.is_cancelled() && !self.close.is_cancelled()
    }

    /// Tells all tasks to stop, and returns at once.
    pub fn stop(&self) {
        self.stop.cancel();
        self.close.cancel();
    }

    /// The same for a daemon whose place another process has taken, so that nobody is in a hurry: a connection on which
    /// a request may just be on its way is not closed within the time of `grace`.
    pub fn retire(&self, grace: Duration) {
        self.stop.cancel();
        let close = self.close.clone();
        // No task of the daemon's: once all of those have ended, nobody waits for it.
        drop(tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            close.cancel();
        }));
    }

    /// Tells all tasks to stop and waits until they have ended, but no longer than `patience`.
    ///
    /// False when some task is still running then.
    pub async fn drain(&self, patience: Duration) -> bool {
        if !self.is_stopping() {
            self.stop();
        }
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }

    /// Resolves when the process gets SIGINT or SIGTERM, or when the daemon is told to stop otherwise.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub async fn stop_requested(&self) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = self.stopping() => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_every_task() {
        let life = Lifecycle::new();
        let task = life.spawn({
            let life = life.clone();
            async move {
                life.stopping().await;
                tokio::time::sleep(SECOND).await;
                "finished"
            }
        });
        assert!(!life.is_stopping());
        assert!(life.drain(2 * SECOND).await);
        assert!(life.is_stopping());
        assert!(task.is_finished());
        assert_eq!(task.await.unwrap(), "finished");
    }

    #[tokio::test(start_paused = true)]
    async fn who_retires_closes_nothing_at_once() {
        let life = Lifecycle::new();
        life.retire(SECOND);
        assert!(life.is_stopping() && life.is_retiring());
        let start = tokio::time::Instant::now();
        life.closing().await;
        assert_eq!(start.elapsed(), SECOND);
        assert!(life.drain(SECOND).await && !life.is_retiring());
        let life = Lifecycle::new();
        life.stop();
        life.closing().await;
        assert!(!life.is_retiring());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_loses_patience() {
        let life = Lifecycle::new();
        let _stuck = life.spawn(std::future::pending::<()>());
        assert!(!life.drain(SECOND).await);
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait_for_signals() {
        let life = Lifecycle::new();
        life.stop();
        life.stop_requested().await.unwrap();
    }
}
