//! How a caller of the inbound port begins, where that is not the same for all.
//!
//! TLS begins with a byte (22, a handshake record, RFC 8446 5.1) with which no request of HTTP begins. So the first
//! byte tells, and it is only looked at. Who waits for the other side to speak first is not known by anything.

use std::io;

use api::config::Mtls;
use tokio::net::TcpStream;

/// What a caller has begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// TLS, or what has to be.
    Tls,
    /// Something else, in the clear.
    Clear,
}

/// What `stream` begins with at a service of this mode. Waits for the first byte only where it makes a difference.
pub(crate) async fn of(stream: &TcpStream, mtls: Mtls) -> io::Result<Opening> {
    match mtls {
        Mtls::Strict => Ok(Opening::Tls),
        Mtls::Disabled => Ok(Opening::Clear),
        Mtls::Permissive => {
            let mut first = [0];
            match (stream.peek(&mut first).await?, first) {
                (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
                (_, [HANDSHAKE]) => Ok(Opening::Tls),
                (_, _) => Ok(Opening::Clear),
            }
        }
    }
}

/// The first byte of TLS.
const HANDSHAKE: u8 = 22;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_first_byte_tells_and_is_left_where_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let table: [(&[u8], Option<Opening>); 4] = [
            (b"\x16\x03\x01", Some(Opening::Tls)),
            (b"GET / HTTP/1.1\r\n", Some(Opening::Clear)),
            (b"\x15", Some(Opening::Clear)),
            (b"", None),
        ];
        for (sent, expected) in table {
            let mut caller = TcpStream::connect(address).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            caller.write_all(sent).await.unwrap();
            caller.shutdown().await.unwrap();
            assert_eq!(of(&stream, Mtls::Permissive).await.ok(), expected, "{sent:?}");
            assert_eq!(of(&stream, Mtls::Strict).await.ok(), Some(Opening::Tls));
            assert_eq!(of(&stream, Mtls::Disabled).await.ok(), Some(Opening::Clear));
            let mut first = [0; 16];
            let count = stream.peek(&mut first).await.unwrap();
            assert!(sent.starts_with(&first[..count]) && (count > 0) != sent.is_empty());
        }
    }
}
