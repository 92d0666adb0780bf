//! Accepts connections, and serves the requests on each.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daemon::Lifecycle;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::tls::{self, Peer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::exchange::Direction;
use crate::gate::{Gate, Refused};
use crate::request::{Connection, Proxy};

/// The most connections a listener holds; callers beyond them wait to be accepted.
const CONNECTIONS_MAX: usize = 10_000;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// After an error of accept, most often a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// One listening socket and what comes through it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub socket: TcpListener,
    pub direction: Direction,
    /// For listeners that demand a verified peer.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Listener {
    /// Accepts connections until the proxy stops.
    pub(crate) async fn serve_until_stopped(self, proxy: Arc<Proxy>, lifecycle: Lifecycle) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let acceptor = self.tls.map(TlsAcceptor::from);
        loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                Some((permit, self.socket.accept().await))
            };
            let accepted = tokio::select! {
                () = lifecycle.stopping() => return,
                accepted = next => accepted,
            };
            match accepted {
                Some((permit, Ok((stream, address)))) => {
                    let open = proxy.observers.metrics.connection_opened(self.direction.as_str());
                    let serve = serve(
                        stream,
                        address,
                        self.direction,
                        acceptor.clone(),
                        Arc::clone(&proxy),
                        lifecycle.clone(),
                    );
                    drop(lifecycle.spawn(async move {
                        serve.await;
                        drop((permit, open));
                    }));
                }
                Some((_, Err(error))) => {
                    tracing::warn!(direction = self.direction.as_str(), %error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
                None => return,
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    direction: Direction,
    acceptor: Option<TlsAcceptor>,
    proxy: Arc<Proxy>,
    lifecycle: Lifecycle,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "can't set TCP_NODELAY");
    }
    let connection = |peer| Connection { direction, address: address.ip(), peer };
    let Some(acceptor) = acceptor else {
        return serve_http(stream, connection(None), proxy, lifecycle).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let handshaken = tokio::select! {
        () = lifecycle.stopping() => return,
        handshaken = handshake => handshaken,
    };
    match handshaken {
        Ok(Ok(stream)) => match tls::peer(stream.get_ref().1) {
            Some(peer) => serve_http(stream, connection(Some(peer)), proxy, lifecycle).await,
            None => tracing::info!(%address, "a caller without an identity was turned away"),
        },
        Ok(Err(error)) => tracing::info!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%address, "TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"),
    }
}

async fn serve_http<IO>(stream: IO, connection: Connection, proxy: Arc<Proxy>, lifecycle: Lifecycle)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let refused = Refused::default();
    let requests = AtomicU64::new(0);
    let gate = TokioIo::new(Gate::new(stream, refused.clone()));
    let service = service_fn(async |request| {
        let malformed = refused.at(requests.fetch_add(1, Ordering::Relaxed));
        Ok::<_, Infallible>(proxy.serve(&connection, request, malformed).await)
    });
    let mut http = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper counts from the end of the response before; the gate has a shorter one for heads begun.
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(gate, service)
    );
    let result = tokio::select! {
        result = http.as_mut() => result,
        () = end_of_life(&connection.peer, &proxy, &lifecycle) => {
            http.as_mut().graceful_shutdown();
            // hyper would still wait for a first request.
            if requests.load(Ordering::Relaxed) == 0 {
                return;
            }
            http.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, address = %connection.address, "a connection ended");
    }
}

/// When a connection is to take no more requests: when the proxy stops, or when the certificate that
/// authenticated its peer ends. The peer connects again, with its next certificate.
async fn end_of_life(peer: &Option<Peer>, proxy: &Proxy, lifecycle: &Lifecycle) {
    let expiry = async {
        match peer {
            Some(peer) => proxy.clock.sleep_until(peer.not_after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = lifecycle.stopping() => {}
        () = expiry => {}
    }
}
