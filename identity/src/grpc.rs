//! gRPC servers and channels over mutual TLS; servers in the clear too, for callers on the same host.

mod address;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use address::{Address, AddressError, Listener, bind};
use daemon::Lifecycle;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::Stream as Incoming;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

use crate::tls::{self, Peer};
use address::Stream;

/// The most connections at once, handshakes included. A caller beyond them waits to be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;
/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connect, with its handshake, may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an idle channel is pinged, and how long the answer may take: a server that is gone without a
/// word is noticed after both.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long to wait after an error of accept, which is most often a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A server's connection, after the handshake if there is one.
#[derive(Debug)]
pub struct Connection {
    stream: Either<TlsStream<Stream>, Stream>,
    info: ConnectionInfo,
    _permit: OwnedSemaphorePermit,
}

/// What a request knows of its connection: [`tonic::Request::extensions`] holds it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Who called, if it showed a certificate.
    pub peer: Option<Peer>,
    /// From where; a Unix socket's callers have no address.
    pub remote: Option<SocketAddr>,
}

/// Accepts TLS connections until the lifecycle stops, for tonic's `serve_with_incoming_shutdown`. Handshakes
/// run side by side, so a slow caller holds up no other; one that fails is logged and forgotten.
pub fn incoming(
    listener: Listener,
    config: Arc<ServerConfig>,
    lifecycle: &Lifecycle,
) -> impl Incoming<Item = io::Result<Connection>> + use<> {
    accepted(listener, Some(TlsAcceptor::from(config)), lifecycle)
}

/// The same in the clear. Nobody knows who calls, so it is for callers on the same host.
pub fn incoming_in_the_clear(
    listener: Listener,
    lifecycle: &Lifecycle,
) -> impl Incoming<Item = io::Result<Connection>> + use<> {
    accepted(listener, None, lifecycle)
}

fn accepted(
    listener: Listener,
    acceptor: Option<TlsAcceptor>,
    lifecycle: &Lifecycle,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, accepted) = mpsc::channel(1);
    lifecycle.spawn(accept_until_stopped(listener, acceptor, lifecycle.clone(), ready));
    ReceiverStream::new(accepted)
}

/// Who sent a request, if its connection came through [`incoming`] and the caller showed a certificate.
pub fn peer<T>(request: &tonic::Request<T>) -> Option<Peer> {
    request.extensions().get::<ConnectionInfo>()?.peer.clone()
}

/// A channel to one address. Connects at the first call, and again by itself after a connection is lost; each
/// connect is a handshake of its own, with the certificates of that moment.
pub fn channel(address: impl Into<Address>, config: Arc<ClientConfig>) -> Channel {
    let (connector, address) = (TlsConnector::from(config), address.into());
    // TLS checks SPIFFE IDs, not names.
    let name = match &address {
        Address::Tcp(address) => ServerName::IpAddress(address.ip().into()),
        Address::Unix(_) => ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
    };
    // The URI is only a name for logs: the connector knows the address.
    Endpoint::from_static("http://tidegate")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (connector, address, name) = (connector.clone(), address.clone(), name.clone());
            async move { connector.connect(name, address.connect().await?).await.map(TokioIo::new) }
        }))
}

async fn accept_until_stopped(
    listener: Listener,
    acceptor: Option<TlsAcceptor>,
    lifecycle: Lifecycle,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let accepted = tokio::select! {
            () = lifecycle.stopping() => return,
            () = ready.closed() => return,
            accepted = next => accepted,
        };
        match accepted {
            Some((permit, Ok((stream, remote)))) => {
                let handshake = handshake(acceptor.clone(), stream, remote, permit, ready.clone());
                let stopping = lifecycle.clone();
                lifecycle.spawn(async move {
                    tokio::select! {
                        () = stopping.stopping() => {}
                        () = handshake => {}
                    }
                });
            }
            Some((_, Err(error))) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
            None => return,
        }
    }
}

async fn handshake(
    acceptor: Option<TlsAcceptor>,
    stream: Stream,
    remote: Option<SocketAddr>,
    permit: OwnedSemaphorePermit,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let shaken = async {
        let Some(acceptor) = acceptor else { return Ok((Either::Right(stream), None)) };
        let stream = acceptor.accept(stream).await?;
        let peer = tls::peer(stream.get_ref().1);
        Ok::<_, io::Error>((Either::Left(stream), peer))
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken).await {
        Ok(Ok((stream, peer))) => {
            let info = ConnectionInfo { peer, remote };
            let connection = Connection { stream, info, _permit: permit };
            if ready.send(Ok(connection)).await.is_err() {
                tracing::debug!(?remote, "the server stopped during a handshake");
            }
        }
        Ok(Err(error)) => tracing::info!(?remote, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(?remote, "TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"),
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
