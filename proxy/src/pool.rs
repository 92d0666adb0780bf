//! Connections to one address, kept for the next request.
//!
//! A pool serves one endpoint of one service, so a connection whose peer was verified for one service never
//! carries a request to another. A connection is reused only while both certificates that made it still hold:
//! not after ours was renewed, not when the peer's is about to end. When that has ended, what is under way is cut.
//! One that began by naming a caller is reused for that caller alone.

mod security;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::config::Protocol;
use daemon::Clock;
use daemon::descriptors::{self, budget};
use futures_util::future::BoxFuture;
use identity::tls;
use identity::{Source, Tenure};
use model::SpiffeId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::external::External;
use crate::http2::{Lease, Links};
use crate::intercept::{Leaving, Outgoing};
use crate::proxy_protocol::Greeting;
use crate::stream::Stream;
use crate::worker;
pub(crate) use security::Security;

/// How long a connect, TLS handshake included, may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many lists of connections a pool has. Workers beyond these share, which is slower and no less right.
const SLOTS: usize = 8;
/// The most idle connections of one list.
const IDLE_MAX: usize = 64;
/// The longest that a connection is used, whatever its certificates say; so that no time is beyond all clocks.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// How long an idle connection is kept; shorter than our own listeners keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How sidecars ask each other for a protocol.
pub(crate) const ALPN_HTTP1: &[&[u8]] = &[b"http/1.1"];
pub(crate) const ALPN_HTTP2: &[&[u8]] = &[b"h2"];
/// The protocols that a sidecar understands, the one it likes better first.
pub(crate) const ALPN_OF_SERVER: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Connections to one address.
#[derive(Debug)]
pub(crate) struct Pool {
    target: Target,
    /// By worker, each of which uses its own: none waits for another.
    idle: [Mutex<Vec<Idle>>; SLOTS],
    /// The ones that many requests share.
    links: [Links; SLOTS],
}

#[derive(Debug)]
enum Target {
    /// `host:port`: the application behind this proxy, or a sidecar that takes no TLS.
    Plain(String),
    /// A host outside of the mesh; what comes back from there is known by `outgoing`.
    Outside { address: SocketAddr, outgoing: Outgoing },
    /// A server outside of the mesh that the bundle names.
    External(Arc<External>),
    /// Another sidecar.
    Mesh {
        address: SocketAddr,
        http1: Arc<ClientConfig>,
        http2: Arc<ClientConfig>,
        /// For raw connections, which have no name.
        tcp: Arc<ClientConfig>,
        source: Source,
        clock: Clock,
    },
}

/// A connection that carries no request at present.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its bytes.
    pub stream: Stream,
    pub credentials: Option<Credentials>,
    /// Notes the connection as one that leaves the mesh.
    pub leaving: Option<Leaving>,
    /// What it began with.
    pub greeting: Option<Greeting>,
    /// Its place among the connections to upstreams.
    pub descriptor: SemaphorePermit<'static>,
    /// Whether it has served a request before.
    pub reused: bool,
}

/// What authenticated a connection.
#[derive(Debug)]
pub(crate) struct Credentials {
    own_serial: String,
    pub tenure: Tenure,
    /// The end of the tenure, by the runtime's time.
    pub cut_at: Instant,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It took too long.
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
    /// TCP or TLS failed; the latter when the peer is not who it must be.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer showed no certificate.
    #[error("the peer has no identity")]
    NoPeer,
    /// Another request tried at the same time, and failed.
    #[error("no connection for a request that waited for the same")]
    Together,
    /// This process may have no more of them open.
    #[error("too many connections to upstreams are open: raise the limit of open files")]
    Full,
    /// It speaks no HTTP/2.
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

impl ConnectError {
    /// Whether the reason is here, and says nothing of the peer.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Io(error) => descriptors::are_exhausted(error),
            _ => false,
        }
    }
}

impl Connection {
    /// How long it may be used, by the certificate of its peer; for ever without one.
    pub(crate) fn tenure(&self) -> Option<Tenure> {
        self.credentials.as_ref().map(|credentials| credentials.tenure)
    }

    const fn plain(
        stream: TcpStream,
        leaving: Option<Leaving>,
        descriptor: SemaphorePermit<'static>,
    ) -> Self {
        let stream = Stream::Plain(stream);
        Self { stream, credentials: None, leaving, descriptor, greeting: None, reused: false }
    }
}

impl Pool {
    /// Connections to the application at `address`, or to a sidecar that takes no TLS.
    pub(crate) fn in_the_clear(address: String) -> Self {
        Self { target: Target::Plain(address), idle: Default::default(), links: Default::default() }
    }

    /// Connections to a host outside of the mesh, in the clear.
    pub(crate) fn to_outside(address: SocketAddr, outgoing: Outgoing) -> Self {
        let target = Target::Outside { address, outgoing };
        Self { target, idle: Default::default(), links: Default::default() }
    }

    /// Connections to the sidecar at `address`, which must have one of the identities in `allowed`.
    pub(crate) fn to_sidecar(
        address: SocketAddr,
        allowed: Vec<SpiffeId>,
        source: Source,
        clock: Clock,
    ) -> Self {
        let http1 = tls::client_config(&source, clock.clone(), allowed.clone(), ALPN_HTTP1);
        let http2 = tls::client_config(&source, clock.clone(), allowed.clone(), ALPN_HTTP2);
        let tcp = tls::client_config(&source, clock.clone(), allowed, &[]);
        let target = Target::Mesh { address, http1, http2, tcp, source, clock };
        Self { target, idle: Default::default(), links: Default::default() }
    }

    /// Connections to a server outside of the mesh that the bundle names, by TLS.
    pub(crate) fn to_external(external: Arc<External>) -> Self {
        Self { target: Target::External(external), idle: Default::default(), links: Default::default() }
    }

    /// How its connections are secured, as logs have it.
    pub(crate) const fn security(&self) -> Security {
        match self.target {
            Target::Plain(_) | Target::Outside { .. } => Security::None,
            Target::External(_) => Security::Server,
            Target::Mesh { .. } => Security::Mutual,
        }
    }

    /// An idle connection that is still good and began with `greeting`, the one used last.
    pub(crate) fn reuse(&self, greeting: Option<&Greeting>) -> Option<Connection> {
        // One at a time, for a look at a connection may ask the system.
        while let Some(Idle { mut connection, since }) = take_last(&mut self.idle(), greeting) {
            if since.elapsed() < IDLE_TIMEOUT
                && self.holds(connection.credentials.as_ref())
                && !connection.stream.is_spent()
            {
                return Some(Connection { reused: true, ..connection });
            }
        }
        None
    }

    /// Keeps a connection on which an exchange has ended, for the next one.
    pub(crate) fn keep(&self, connection: Connection, now: Instant) {
        let mut idle = self.idle();
        // The one idle the longest goes if there are too many: it is the first.
        if idle.len() >= IDLE_MAX {
            idle.remove(0);
        }
        idle.push(Idle { connection, since: now });
    }

    /// Closes the connections that were idle for too long at `now`.
    pub(crate) fn sweep(&self, now: Instant) {
        for slot in &self.idle {
            let mut idle = slot.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| now.duration_since(idle.since) < IDLE_TIMEOUT);
        }
        self.links.iter().for_each(|links| links.sweep(now, IDLE_TIMEOUT));
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        let [first, ..] = &self.idle;
        let slot = self.idle.get(worker::number() % SLOTS).unwrap_or(first);
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream on a connection that speaks HTTP/2; on a new one if it has to be `fresh`, or if all are full.
    pub(crate) async fn lease(
        &self,
        fresh: bool,
        greeting: Option<&Greeting>,
    ) -> Result<Lease, ConnectError> {
        let [first, ..] = &self.links;
        let links = self.links.get(worker::number() % SLOTS).unwrap_or(first);
        if !fresh && let Some(lease) = links.lease(&|made| self.holds(made), greeting) {
            return Ok(lease);
        }
        // One connects, and the others wait for it: it will do for all of them, and so will its failure.
        let failures = links.failures.load(Ordering::Relaxed);
        let connecting = links.connecting.lock().await;
        if !fresh && let Some(lease) = links.lease(&|made| self.holds(made), greeting) {
            return Ok(lease);
        }
        if links.failures.load(Ordering::Relaxed) != failures {
            return Err(ConnectError::Together);
        }
        let lease = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let room = &budget().upstreams;
            let connection = self.connect_without_timeout(Protocol::Http2, greeting, room).await?;
            let cut = self.cut(&connection);
            Ok(links.open(connection, cut).await?)
        });
        let lease = lease.await.unwrap_or(Err(ConnectError::Timeout));
        if lease.is_err() {
            links.failures.fetch_add(1, Ordering::Relaxed);
        }
        drop(connecting);
        lease
    }

    /// A new connection, which begins with `greeting`.
    pub(crate) async fn connect(&self, greeting: Option<&Greeting>) -> Result<Connection, ConnectError> {
        self.connect_in_time(Protocol::Http1, greeting).await
    }

    /// A new raw connection, which begins with `greeting`.
    pub(crate) async fn dial(&self, greeting: Option<&Greeting>) -> Result<Connection, ConnectError> {
        self.connect_in_time(Protocol::Tcp, greeting).await
    }

    async fn connect_in_time(
        &self,
        protocol: Protocol,
        greeting: Option<&Greeting>,
    ) -> Result<Connection, ConnectError> {
        let connecting = self.connect_without_timeout(protocol, greeting, &budget().upstreams);
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn connect_without_timeout(
        &self,
        protocol: Protocol,
        greeting: Option<&Greeting>,
        room: &'static Semaphore,
    ) -> Result<Connection, ConnectError> {
        let descriptor = room.try_acquire().map_err(|_full| ConnectError::Full)?;
        match &self.target {
            Target::Plain(address) => {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                if let Some(greeting) = greeting {
                    stream.write_all(greeting.bytes()).await?;
                }
                Ok(Connection { greeting: greeting.cloned(), ..Connection::plain(stream, None, descriptor) })
            }
            Target::Outside { address, outgoing } => {
                let (stream, leaving) = outgoing.connect(*address).await?;
                stream.set_nodelay(true)?;
                Ok(Connection::plain(stream, Some(leaving), descriptor))
            }
            Target::External(external) => {
                let stream = Stream::Client(Box::new(external.connect(protocol).await?));
                let (credentials, leaving) = (None, None);
                Ok(Connection { stream, credentials, leaving, descriptor, greeting: None, reused: false })
            }
            Target::Mesh { address, http1, http2, tcp, source, clock } => {
                let tls = match protocol {
                    Protocol::Http1 => http1,
                    Protocol::Http2 => http2,
                    Protocol::Tcp => tcp,
                };
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                // Read before the handshake: should the certificate be renewed meanwhile, the connection is
                // taken for the older one's, and replaced too early rather than too late.
                let own_serial = source.current().svid.serial.clone();
                let name = ServerName::IpAddress(address.ip().into());
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
                let peer = tls::peer(stream.get_ref().1).ok_or(ConnectError::NoPeer)?;
                let now = clock.now();
                let tenure = Tenure::new(now, peer.not_after);
                let left = Duration::try_from(tenure.cut_at.duration_since(now)).unwrap_or_default();
                let cut_at = Instant::now() + left.min(CONNECTION_AGE_MAX);
                let credentials = Some(Credentials { own_serial, tenure, cut_at });
                let stream = Stream::Client(Box::new(stream));
                let connection = Connection {
                    stream,
                    credentials,
                    leaving: None,
                    descriptor,
                    greeting: None,
                    reused: false,
                };
                Ok(connection)
            }
        }
    }

    /// Resolves when `connection` has to be cut, whatever is under way on it; nothing for one that never has to be.
    fn cut(&self, connection: &Connection) -> Option<BoxFuture<'static, ()>> {
        let cut_at = connection.credentials.as_ref()?.tenure.cut_at;
        let Target::Mesh { clock, .. } = &self.target else { return None };
        let clock = clock.clone();
        Some(Box::pin(async move { clock.sleep_until(cut_at).await }))
    }

    fn holds(&self, credentials: Option<&Credentials>) -> bool {
        match (&self.target, credentials) {
            (Target::Plain(_) | Target::Outside { .. } | Target::External(_), None) => true,
            (Target::Mesh { source, clock, .. }, Some(credentials)) => {
                credentials.own_serial == source.current().svid.serial
                    && clock.now() < credentials.tenure.drain_from
            }
            _ => false,
        }
    }
}

/// The connection used last that began with `greeting`.
fn take_last(idle: &mut Vec<Idle>, greeting: Option<&Greeting>) -> Option<Idle> {
    let at = idle.iter().rposition(|idle| idle.connection.greeting.as_ref() == greeting)?;
    Some(idle.remove(at))
}

#[cfg(test)]
mod tests;
