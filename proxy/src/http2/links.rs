//! Connections to one address that many requests share.
//!
//! A connection takes new streams until its peer says that it goes away, until it has as many as the peer takes, or
//! until the credentials that made it no longer hold. The streams that it has go on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::client::SendRequest;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::guard::Guard;
use super::settings::{self, STREAMS_MAX};
use super::transport::Transport;
use crate::http1::Buffer;
use crate::intercept::Leaving;
use crate::pool::{Connection, Credentials};
use crate::proxy_protocol::Greeting;

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Links {
    open: Mutex<Vec<Arc<Link>>>,
    /// Held by who makes another.
    pub connecting: tokio::sync::Mutex<()>,
    /// How often that failed.
    pub failures: AtomicUsize,
}

/// Where a connection is noted while it is open.
type Noted = (Option<Leaving>, SemaphorePermit<'static>);

/// One connection.
#[derive(Debug)]
struct Link {
    send: SendRequest<Bytes>,
    credentials: Option<Credentials>,
    /// Notes the connection as one that leaves the mesh; and its place among those to upstreams.
    _noted: Noted,
    /// What it began with.
    greeting: Option<Greeting>,
    /// Cuts it when its peer's certificate has ended.
    _cutting: Option<AbortOnDropHandle<()>>,
    streams: AtomicUsize,
    served: AtomicBool,
    /// When it last took a stream.
    used: Mutex<Instant>,
}

/// The right to one stream of a connection.
#[derive(Debug)]
pub(crate) struct Lease {
    link: Arc<Link>,
    /// Whether the connection has served a request before.
    pub reused: bool,
}

impl Links {
    /// A stream of a connection that takes one, that began with `greeting`, and whose credentials hold.
    pub(crate) fn lease(
        &self,
        holds: &dyn Fn(Option<&Credentials>) -> bool,
        greeting: Option<&Greeting>,
    ) -> Option<Lease> {
        let mut open = self.list();
        open.retain(|link| link.is_open() && holds(link.credentials.as_ref()));
        open.iter().filter(|link| link.greeting.as_ref() == greeting).find_map(Lease::of)
    }

    /// A stream of a new connection, which ends when `cut` does, whatever is under way on it.
    pub(crate) async fn open(
        &self,
        connection: Connection,
        cut: Option<BoxFuture<'static, ()>>,
    ) -> Result<Lease, h2::Error> {
        let Connection { stream, credentials, leaving, greeting, descriptor, .. } = connection;
        let now = Instant::now();
        let (transport, outlet) = Transport::new(stream, Buffer::default(), Guard::of_client(now));
        let (send, mut connection) = settings::client().handshake(transport).await?;
        // It ends by itself, when the link and its last stream are gone.
        let driving = tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                outlet.flush(cx);
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "a connection to an upstream failed");
            }
        });
        let driving = driving.abort_handle();
        // A task of its own, so that nothing is looked at while the connection is used.
        let cutting = cut.map(|cut| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                cut.await;
                driving.abort();
            }))
        });
        let streams = AtomicUsize::new(1);
        let link = Arc::new(Link {
            send,
            credentials,
            _noted: (leaving, descriptor),
            _cutting: cutting,
            greeting,
            streams,
            served: AtomicBool::new(false),
            used: Mutex::new(now),
        });
        self.list().push(Arc::clone(&link));
        Ok(Lease { link, reused: false })
    }

    /// Closes the connections that were idle for too long at `now`.
    pub(crate) fn sweep(&self, now: Instant, patience: Duration) {
        self.list().retain(|link| {
            let used = *link.used.lock().unwrap_or_else(PoisonError::into_inner);
            link.streams.load(Ordering::Relaxed) > 0 || now.duration_since(used) < patience
        });
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Whether its peer has not said that it goes away.
    fn is_open(&self) -> bool {
        // Nobody waits: it is ready, or it has failed.
        let mut cx = Context::from_waker(Waker::noop());
        !matches!(self.send.clone().poll_ready(&mut cx), std::task::Poll::Ready(Err(_)))
    }
}

impl Lease {
    fn of(link: &Arc<Link>) -> Option<Self> {
        let max = link.send.current_max_send_streams().min(STREAMS_MAX as usize);
        if link.streams.fetch_add(1, Ordering::Relaxed) >= max {
            link.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *link.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Some(Self { link: Arc::clone(link), reused: link.served.load(Ordering::Relaxed) })
    }

    /// What requests are sent by.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.link.send.clone()
    }

    /// A response came.
    pub(super) fn served(&self) {
        self.link.served.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
