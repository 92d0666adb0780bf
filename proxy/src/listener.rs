//! Accepts connections, and serves the requests on each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::config::Protocol;
use daemon::Lifecycle;
use identity::Tenure;
use identity::tls::{self, Peer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::accept::{Arrivals, Capacity};
use crate::exchange::Direction;
use crate::http1::{self, Buffer};
use crate::http2;
use crate::intercept;
use crate::load::Load;
use crate::opening::{self, Opening};
use crate::request::{Connection, Proxy};
use crate::stream::Stream;
use crate::tcp;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// One listening socket and what comes through it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub socket: std::net::TcpListener,
    pub entrance: Entrance,
    /// The connections of this proxy.
    pub capacity: Capacity,
    /// For listeners that demand a verified peer.
    pub tls: Option<Arc<ServerConfig>>,
}

/// A way in.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub direction: Direction,
    /// The service whose local address this is, if it is one.
    pub tcp: Option<Arc<str>>,
    /// The requests that come this way.
    pub load: Load,
}

impl Listener {
    /// Accepts connections until the proxy stops; ends when the last of them has ended.
    pub(crate) async fn serve_until_stopped(self, proxy: Arc<Proxy>, lifecycle: Lifecycle) {
        let direction = self.entrance.direction.as_str();
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(direction, %error, "can't listen"),
        };
        let (metrics, capacity) = (&proxy.observers.metrics, self.capacity);
        let mut arrivals = Arrivals { socket, direction, capacity, metrics, told: None };
        let acceptor = self.tls.map(TlsAcceptor::from);
        let connections = TaskTracker::new();
        while let Some((stream, address, place)) = arrivals.next(&lifecycle).await {
            let open = metrics.connection_opened(direction);
            let (proxy, lifecycle) = (Arc::clone(&proxy), lifecycle.clone());
            let (entrance, acceptor) = (self.entrance.clone(), acceptor.clone());
            // Made where it is awaited: one that was made before would be kept twice.
            drop(lifecycle.clone().spawn(connections.track_future(async move {
                serve(stream, address, entrance, acceptor, proxy, lifecycle).await;
                drop((place, open));
            })));
        }
        drop(arrivals);
        connections.close();
        connections.wait().await;
    }
}

/// Serves a connection. What only some connections need, or only at first, is kept apart from it: it would take room
/// for as long as the connection is open.
async fn serve(
    mut stream: TcpStream,
    address: SocketAddr,
    Entrance { direction, tcp, load }: Entrance,
    acceptor: Option<TlsAcceptor>,
    proxy: Arc<Proxy>,
    lifecycle: Lifecycle,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "can't set TCP_NODELAY");
    }
    let Some(caller) = caller(&mut stream, address, direction, &proxy).await else { return };
    let original = proxy.interception.original(&stream, address);
    let caller = SocketAddr::new(caller.ip().to_canonical(), caller.port());
    let meant = original.as_ref().map(|original| original.address);
    let Some(local) = meant.or_else(|| stream.local_addr().ok()) else { return };
    let connection = |peer, tenure, protocol| Connection {
        direction,
        protocol,
        caller,
        local,
        peer,
        tenure,
        load,
        original,
    };
    let Some(acceptor) = acceptor else {
        let connection = connection(None, None, Protocol::Http1);
        if let Some(target) = tcp::target(&proxy, &connection, tcp.as_ref()) {
            let stream = Stream::Plain(stream);
            return Box::pin(tcp::serve(stream, &connection, &target, &proxy, &lifecycle)).await;
        }
        if let Some(stream) =
            Box::pin(intercept::http_or_relayed(&proxy, stream, &connection, &lifecycle)).await
        {
            http1::serve(stream, connection, &proxy, &lifecycle).await;
        }
        return;
    };
    match opening(&stream, &proxy, &lifecycle).await {
        Ok(Opening::Tls) => {}
        Ok(Opening::Clear) => {
            let connection = connection(None, None, Protocol::Http1);
            let stream = Stream::Plain(stream);
            if let Some(target) = tcp::target(&proxy, &connection, None) {
                return Box::pin(tcp::serve(stream, &connection, &target, &proxy, &lifecycle)).await;
            }
            return http1::serve(stream, connection, &proxy, &lifecycle).await;
        }
        Err(error) => return tracing::info!(%address, %error, "a caller said nothing"),
    }
    serve_tls(stream, address, acceptor, connection, &proxy, &lifecycle).await;
}

/// Serves a connection once its caller is verified.
async fn serve_tls(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    connection: impl FnOnce(Option<Peer>, Option<Tenure>, Protocol) -> Connection,
    proxy: &Proxy,
    lifecycle: &Lifecycle,
) {
    let handshake = Box::pin(tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)));
    let handshaken = tokio::select! {
        () = lifecycle.closing() => return,
        handshaken = handshake => handshaken,
    };
    match handshaken {
        Ok(Ok(stream)) => match tls::peer(stream.get_ref().1) {
            Some(peer) => {
                let tenure = Tenure::new(proxy.clock.now(), peer.not_after);
                let protocol = match stream.get_ref().1.alpn_protocol() {
                    _ if tcp::is_own(proxy) => Protocol::Tcp,
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                let stream = Stream::Server(Box::new(stream));
                let connection = connection(Some(peer), Some(tenure), protocol);
                let serving = Box::pin(serve_peer(stream, connection, proxy, lifecycle));
                if !proxy.cutter.until(tenure.cut_at, serving).await {
                    tracing::info!(%address, "a connection was cut: its caller's certificate has ended");
                }
            }
            None => tracing::info!(%address, "a caller without an identity was turned away"),
        },
        Ok(Err(error)) => tracing::info!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%address, "TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"),
    }
}

/// Whether a caller of the inbound port begins with TLS.
async fn opening(stream: &TcpStream, proxy: &Proxy, lifecycle: &Lifecycle) -> io::Result<Opening> {
    let opening = tokio::time::timeout(HANDSHAKE_TIMEOUT, opening::of(stream, proxy.mtls()));
    tokio::select! {
        () = lifecycle.closing() => Err(io::ErrorKind::Interrupted.into()),
        opening = opening => opening?,
    }
}

async fn serve_peer(stream: Stream, connection: Connection, proxy: &Proxy, lifecycle: &Lifecycle) {
    match connection.protocol {
        Protocol::Http1 => http1::serve(stream, connection, proxy, lifecycle).await,
        Protocol::Http2 => http2::serve(stream, Buffer::default(), &connection, proxy, lifecycle).await,
        Protocol::Tcp => {
            let target = tcp::Target::Own { sni: stream.server_name().map(str::to_ascii_lowercase) };
            tcp::serve(stream, &connection, &target, proxy, lifecycle).await;
        }
    }
}

/// Who calls; nobody if the connection is not to be served.
async fn caller(
    stream: &mut TcpStream,
    address: SocketAddr,
    direction: Direction,
    proxy: &Proxy,
) -> Option<SocketAddr> {
    match &proxy.proxy_protocol {
        Some(expected) if direction == Direction::Ingress => {
            let caller = expected.caller(stream, address).await;
            caller.inspect_err(|error| tracing::info!(%address, %error, "a caller was turned away")).ok()
        }
        _ => Some(address),
    }
}
