//! Takes callers' connections, while there is room for them.
//!
//! A proxy that is full leaves further callers waiting, all but one of each listener in the kernel's queue, and serves
//! those it has. So it never runs out of descriptors for what it has promised, nor for its admin port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::Lifecycle;
use daemon::descriptors::{self, budget};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// After an error that says nothing of the caller. There may be descriptors again then.
const RETRY: Duration = Duration::from_millis(100);
/// How often the log tells of the same trouble.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// What an operator can do.
const FIX: &str = "raise `max_connections`, or the limit of open files (`ulimit -n`, `LimitNOFILE=`)";

/// How many connections a proxy may have from all of its callers. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Capacity(Arc<Semaphore>);

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _own: OwnedSemaphorePermit,
    _of_process: SemaphorePermit<'static>,
}

/// A socket on which callers arrive.
#[derive(Debug)]
pub(crate) struct Arrivals<'a> {
    pub socket: TcpListener,
    pub direction: &'static str,
    pub capacity: Capacity,
    pub metrics: &'a Metrics,
    /// When the log told of trouble last.
    pub told: Option<Instant>,
}

impl Capacity {
    /// Room for `max`, or for as many as the process may have.
    pub(crate) fn new(max: usize) -> Self {
        let budget = budget();
        let max = max.min(budget.each);
        tracing::info!(open_files = budget.limit, connections = max, "room for connections");
        Self(Arc::new(Semaphore::new(max)))
    }

    fn try_place(&self) -> Option<Place> {
        let own = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Place { _own: own, _of_process: budget().callers.try_acquire().ok()? })
    }

    async fn place(&self) -> Option<Place> {
        let own = Arc::clone(&self.0).acquire_owned().await.ok()?;
        Some(Place { _own: own, _of_process: budget().callers.acquire().await.ok()? })
    }
}

impl Arrivals<'_> {
    /// The next connection, with its place once there is one; none when the proxy stops.
    pub(crate) async fn next(
        &mut self,
        lifecycle: &Lifecycle,
    ) -> Option<(TcpStream, SocketAddr, Option<Place>)> {
        // Either it was accepted, or it still waits to be: none is lost in between.
        let (stream, address) = tokio::select! {
            () = lifecycle.stopping() => return None,
            accepted = self.accept() => accepted,
        };
        if let Some(place) = self.capacity.try_place() {
            return Some((stream, address, Some(place)));
        }
        self.metrics.full(self.direction);
        self.tell(|direction| tracing::warn!(direction, "no room for another connection: {FIX}"));
        let place = tokio::select! {
            // It is one of the last.
            () = lifecycle.stopping() => None,
            place = self.capacity.place() => place,
        };
        Some((stream, address, place))
    }

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                // The caller has gone away; the next one may be there.
                Err(error) if is_of_caller(&error) => {}
                Err(error) => {
                    self.metrics.not_accepted(self.direction);
                    let fix = if descriptors::are_exhausted(&error) { FIX } else { "" };
                    self.tell(|direction| {
                        tracing::warn!(direction, %error, fix, "can't accept a connection");
                    });
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// The same again and again is told now and then.
    fn tell(&mut self, say: impl FnOnce(&str)) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            say(self.direction);
        }
    }
}

fn is_of_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
