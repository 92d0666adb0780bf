//! What is not HTTP and leaves the mesh: passed on as it is.

use std::future::Future;
use std::io;
use std::time::Duration;

use daemon::Lifecycle;
use daemon::descriptors::budget;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Leaving, OUTSIDE, Original, OutboundTo, Outgoing, service_at};
use crate::pool::{CONNECT_TIMEOUT, ConnectError};
use crate::request::{Connection, Proxy};
use crate::stream::Stream;
use crate::tcp;

/// How long a caller may be silent before it is assumed that the other side speaks first.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long both sides may be silent at first.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// The first word of a request: longer than any method.
const WORD_MAX: usize = 24;

/// What a redirected connection turns out to be.
enum Speech {
    Http,
    Other,
}

/// What a connection that leaves the mesh is noted by, and its place among those to upstreams.
type Noted = (Leaving, SemaphorePermit<'static>);

/// Gives `stream` back if it is to be served as HTTP. If it is something else, and meant for a host outside of the
/// mesh where the application may call, passes it on to its end.
pub(crate) async fn http_or_relayed(
    proxy: &Proxy,
    stream: TcpStream,
    connection: &Connection,
    lifecycle: &Lifecycle,
) -> Option<Stream> {
    let (interception, mut stream) = (&proxy.interception, Stream::Plain(stream));
    let Some(original) = connection.original.as_ref() else { return Some(stream) };
    if interception.outbound_to != Some(OutboundTo::AllowAny) || connection.peer.is_some() {
        return Some(stream);
    }
    let address = original.address;
    let applied = proxy.current.applied();
    let in_mesh = applied.services.is_empty() || service_at(&applied, address).is_some();
    if in_mesh || interception.is_own(address) {
        return Some(stream);
    }
    drop(applied);
    if original.is_own {
        tracing::error!(
            %address,
            "what this proxy sends is redirected back to it: `tidegate net install` needs its user as --uid"
        );
    }
    let connected = connect(&interception.outgoing, stream.socket(), original, &budget().upstreams);
    let connected = tokio::select! {
        () = lifecycle.stopping() => return None,
        connected = connected => connected,
    };
    match connected {
        Ok(None) => Some(stream),
        Ok(Some((server, _noted))) => {
            tcp::relay_outside(&mut stream, server, OUTSIDE, connection, proxy, lifecycle).await;
            None
        }
        Err(error) => {
            tracing::info!(%address, %error, "a connection to outside of the mesh failed");
            None
        }
    }
}

/// A connection to where the caller meant to go; none if it speaks HTTP, of which nothing was read then.
async fn connect(
    outgoing: &Outgoing,
    client: &TcpStream,
    original: &Original,
    room: &'static Semaphore,
) -> io::Result<Option<(TcpStream, Noted)>> {
    let is_silent = match tokio::time::timeout(PATIENCE, speech(client)).await {
        Ok(Ok(Speech::Http)) => return Ok(None),
        Ok(Ok(Speech::Other)) => false,
        Ok(Err(error)) => return Err(error),
        Err(_elapsed) => true,
    };
    if original.is_own {
        return Err(io::Error::other("it leads back to this proxy"));
    }
    let descriptor = room.try_acquire().map_err(|_full| io::Error::other(ConnectError::Full))?;
    let (server, leaving) = within(CONNECT_TIMEOUT, outgoing.connect(original.address)).await?;
    if is_silent {
        let mut byte = [0; 1];
        let first = async {
            tokio::select! {
                speech = speech(client) => speech,
                spoken = server.peek(&mut byte) => spoken.map(|_some| Speech::Other),
            }
        };
        if matches!(within(SILENCE_MAX, first).await?, Speech::Http) {
            return Ok(None);
        }
    }
    server.set_nodelay(true)?;
    Ok(Some((server, (leaving, descriptor))))
}

/// What the caller speaks, by its first bytes, which stay where they are.
async fn speech(client: &TcpStream) -> io::Result<Speech> {
    let mut bytes = [0; WORD_MAX];
    let read = client.peek(&mut bytes).await?;
    let bytes = bytes.get(..read).unwrap_or_default();
    Ok(if is_http(bytes) { Speech::Http } else { Speech::Other })
}

/// Whether HTTP begins so: with a method in capitals, which may not have come whole yet. HTTP/2 begins with `PRI`.
fn is_http(bytes: &[u8]) -> bool {
    let word = bytes.iter().position(|byte| *byte == b' ').and_then(|end| bytes.get(..end));
    let is_method = |word: &[u8]| word.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    match word {
        Some(word) => !word.is_empty() && is_method(word),
        None => bytes.len() < WORD_MAX && is_method(bytes),
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, work).await.map_err(io::Error::from)?
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn http_begins_with_a_method() {
        for http in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "PROPFIND /x ", "M-SEARCH * H", "PO", ""] {
            assert!(is_http(http.as_bytes()), "{http}");
        }
        let others = ["\x16\x03\x01\x02", "SSH-2.0-OpenSSH", "get / ", " GET", "*1\r\n", "\0"];
        for other in others {
            assert!(!is_http(other.as_bytes()), "{other}");
        }
        assert!(!is_http(&[b'A'; WORD_MAX]), "no method is so long");
    }

    fn meant_for(address: std::net::SocketAddr) -> Original {
        Original { address, is_own: false, outside: std::sync::OnceLock::new() }
    }

    fn room_for(connections: usize) -> &'static Semaphore {
        Box::leak(Box::new(Semaphore::new(connections)))
    }

    #[tokio::test]
    async fn each_has_its_place_among_the_connections_to_upstreams() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (original, outgoing) = (meant_for(server.local_addr().unwrap()), Outgoing::default());
        let (mut caller, here) = pair().await;
        caller.write_all(b"\x16hello").await.unwrap();
        let room = room_for(1);
        let first = connect(&outgoing, &here, &original, room).await.unwrap();
        let full = connect(&outgoing, &here, &original, room).await.unwrap_err();
        assert!(full.to_string().starts_with("too many connections to upstreams"), "{full}");
        drop(first);
        assert!(connect(&outgoing, &here, &original, room).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_comes_back_is_not_sent_again() {
        let (mut caller, here) = pair().await;
        caller.write_all(b"\x16hello").await.unwrap();
        let nobody = "127.0.0.1:1".parse().unwrap();
        let own = Original { is_own: true, ..meant_for(nobody) };
        let refused = connect(&Outgoing::default(), &here, &own, room_for(1)).await.unwrap_err();
        assert_eq!(refused.to_string(), "it leads back to this proxy");
    }

    /// How many bytes pass each way, of what is not HTTP.
    async fn relay(outgoing: &Outgoing, client: &mut TcpStream, original: &Original) -> (u64, u64) {
        let (mut server, _noted) = connect(outgoing, client, original, room_for(1)).await.unwrap().unwrap();
        tokio::io::copy_bidirectional(client, &mut server).await.unwrap()
    }

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn other_speech_is_passed_on() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let original = meant_for(server.local_addr().unwrap());
        let outgoing = Outgoing::default();
        let (mut caller, mut here) = pair().await;
        caller.write_all(b"\x16hello").await.unwrap();
        let serve = async {
            let (mut there, from) = server.accept().await.unwrap();
            assert!(outgoing.has(from.port()));
            let mut heard = [0; 6];
            there.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"\x16hello");
            there.write_all(b"bye").await.unwrap();
            from.port()
        };
        let call = async {
            let mut heard = String::new();
            caller.read_to_string(&mut heard).await.unwrap();
            drop(caller);
            heard
        };
        let relay = relay(&outgoing, &mut here, &original);
        let (passed, from, heard) = tokio::join!(relay, serve, call);
        assert_eq!((passed, heard.as_str()), ((6, 3), "bye"));
        assert!(!outgoing.has(from), "it is forgotten with its connection");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_may_still_speak_http() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let original = meant_for(server.local_addr().unwrap());
        let (mut caller, mut here) = pair().await;
        let outgoing = Outgoing::default();
        let call = async {
            // The other side was connected to, for it might have spoken first.
            let (there, _) = server.accept().await.unwrap();
            caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            there
        };
        let room = room_for(1);
        let (connected, there) = tokio::join!(connect(&outgoing, &here, &original, room), call);
        assert!(connected.unwrap().is_none());
        assert_eq!(room.available_permits(), 1);
        assert_eq!(there.peek(&mut [0; 1]).await.unwrap(), 0, "it was told nothing, and closed");
        let mut head = [0; 4];
        here.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"GET ", "nothing was read");
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_side_may_speak_first() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let original = meant_for(server.local_addr().unwrap());
        let (mut caller, mut here) = pair().await;
        let outgoing = Outgoing::default();
        let serve = async {
            let (mut there, _) = server.accept().await.unwrap();
            there.write_all(b"220 ready\r\n").await.unwrap();
        };
        let call = async {
            let mut heard = String::new();
            caller.read_to_string(&mut heard).await.unwrap();
            caller.shutdown().await.unwrap();
            heard
        };
        let (passed, (), heard) = tokio::join!(relay(&outgoing, &mut here, &original), serve, call);
        assert_eq!((passed, heard.as_str()), ((0, 11), "220 ready\r\n"));
    }
}
