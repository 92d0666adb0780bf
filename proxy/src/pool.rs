//! Connections to one address, kept for the next request.
//!
//! A pool serves one endpoint of one service, so a connection whose peer was verified for one service never
//! carries a request to another. A connection is reused only while both certificates that made it still hold:
//! not after ours was renewed, not after the peer's has ended.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::Clock;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::Source;
use identity::tls;
use jiff::Timestamp;
use model::SpiffeId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::body::{self, Body};

/// How long a connect, TLS handshake included, may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most idle connections a pool keeps.
const IDLE_MAX: usize = 64;
/// How long an idle connection is kept; shorter than our own listeners keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The only protocol spoken between sidecars.
pub(crate) const ALPN: &[&[u8]] = &[b"http/1.1"];

/// Connections to one address.
#[derive(Debug)]
pub(crate) struct Pool {
    target: Target,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
enum Target {
    /// The application behind this proxy, `host:port`.
    Plain(String),
    /// Another sidecar.
    Mesh { address: SocketAddr, tls: Arc<ClientConfig>, source: Source, clock: Clock },
}

/// A connection that carries no request at present.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<Body>,
    credentials: Option<Credentials>,
    reused: bool,
}

/// What authenticated a connection.
#[derive(Debug)]
struct Credentials {
    own_serial: String,
    peer_not_after: Timestamp,
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
    /// HTTP could not start.
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// What went wrong.
    pub error: hyper::Error,
    /// The request, if none of it was sent.
    pub unsent: Option<Request<Body>>,
    /// Whether the connection had served a request before.
    pub reused: bool,
}

impl Pool {
    /// Connections to the application at `address`, in the clear.
    pub(crate) fn to_application(address: String) -> Self {
        Self { target: Target::Plain(address), idle: Mutex::default() }
    }

    /// Connections to the sidecar at `address`, which must have one of the identities in `allowed`.
    pub(crate) fn to_sidecar(
        address: SocketAddr,
        allowed: Vec<SpiffeId>,
        source: Source,
        clock: Clock,
    ) -> Self {
        let tls = tls::client_config(&source, clock.clone(), allowed, ALPN);
        Self { target: Target::Mesh { address, tls, source, clock }, idle: Mutex::default() }
    }

    /// An idle connection that is still good, the one used last.
    pub(crate) fn reuse(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { connection, since }) = idle.pop() {
            if since.elapsed() < IDLE_TIMEOUT && connection.sender.is_ready() && self.holds(&connection) {
                return Some(Connection { reused: true, ..connection });
            }
        }
        None
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.connect_without_timeout()).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    /// Sends `request`; the connection comes back to the pool when the response has been read to its end.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut connection: Connection,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        match connection.sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|incoming| self.returning(incoming, connection))),
            Err(mut failed) => {
                let unsent = failed.take_message();
                Err(SendError { error: failed.into_error(), unsent, reused: connection.reused })
            }
        }
    }

    async fn connect_without_timeout(&self) -> Result<Connection, ConnectError> {
        match &self.target {
            Target::Plain(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                start_http(stream, None).await
            }
            Target::Mesh { address, tls, source, .. } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                // Read before the handshake: should the certificate be renewed meanwhile, the connection is
                // taken for the older one's, and replaced too early rather than too late.
                let own_serial = source.current().svid.serial.clone();
                let name = ServerName::IpAddress(address.ip().into());
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
                let peer = tls::peer(stream.get_ref().1).ok_or(ConnectError::NoPeer)?;
                start_http(stream, Some(Credentials { own_serial, peer_not_after: peer.not_after })).await
            }
        }
    }

    fn holds(&self, connection: &Connection) -> bool {
        match (&self.target, &connection.credentials) {
            (Target::Plain(_), None) => true,
            (Target::Mesh { source, clock, .. }, Some(credentials)) => {
                credentials.own_serial == source.current().svid.serial
                    && clock.now() < credentials.peer_not_after
            }
            _ => false,
        }
    }

    /// `incoming`; at its end, `connection` becomes idle. If it is given up before, the connection is closed.
    fn returning(self: &Arc<Self>, incoming: Incoming, connection: Connection) -> Body {
        if incoming.is_end_stream() {
            self.keep(connection);
            return body::empty();
        }
        let lent = Lent { pool: Arc::clone(self), connection: Some(connection), incoming };
        lent.boxed_unsync()
    }

    fn keep(self: &Arc<Self>, mut connection: Connection) {
        if connection.sender.is_ready() {
            self.put(connection);
            return;
        }
        // The end of the response is known here a moment before the connection's own task is done with it;
        // and the request's body may still be on its way.
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                pool.put(connection);
            }
        });
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| !idle.connection.sender.is_closed() && idle.since.elapsed() < IDLE_TIMEOUT);
        if idle.len() < IDLE_MAX {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

async fn start_http<IO>(stream: IO, credentials: Option<Credentials>) -> Result<Connection, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Whoever waits for a response learns of the error; an idle connection may just end.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Connection { sender, credentials, reused: false })
}

/// A response's body that holds the connection it comes from.
struct Lent {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    incoming: Incoming,
}

impl hyper::body::Body for Lent {
    type Data = bytes::Bytes;
    type Error = body::BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let frame = std::task::ready!(std::pin::Pin::new(&mut self.incoming).poll_frame(cx));
        let is_over = match &frame {
            None => true,
            Some(Ok(_)) => self.incoming.is_end_stream(),
            Some(Err(_)) => {
                self.connection = None;
                false
            }
        };
        if is_over && let Some(connection) = self.connection.take() {
            self.pool.keep(connection);
        }
        std::task::Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}
