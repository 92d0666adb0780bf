//! Headers of the PROXY protocol.

use std::net::SocketAddr;

use crate::proxy_protocol::{self, Greeting, Version};

/// What a connection begins with: its header is read to its end and no further, and says the same when it is written
/// again.
pub fn proxy_protocol(bytes: &[u8]) {
    let Ok(Some((caller, length))) = proxy_protocol::parse(bytes) else { return };
    let said = |bytes: &[u8]| proxy_protocol::parse(bytes).ok().flatten();
    assert!(length > 0 && length <= bytes.len(), "the header ends where nothing was sent");
    let header = bytes.get(..length).unwrap_or_default();
    assert_eq!(said(header), Some((caller, length)), "it says something else alone");
    for follows in [b"GET / HTTP/1.1\r\n".as_slice(), b"PROXY UNKNOWN\r\n", b"\r\n\0"] {
        let more = [header, follows].concat();
        assert_eq!(said(&more), Some((caller, length)), "what follows it counts");
    }
    for cut in 0..length {
        let part = bytes.get(..cut).unwrap_or_default();
        let read = proxy_protocol::parse(part);
        assert!(matches!(read, Ok(None)), "{cut} bytes of {length} are enough, or wrong: {read:?}");
    }
    let Some(caller) = caller else { return };
    assert_eq!(caller.ip(), caller.ip().to_canonical(), "one address has one form");
    let here = SocketAddr::from(([10, 0, 0, 1], 80));
    for version in [Version::V1, Version::V2] {
        let greeting = Greeting::new(version, caller, here);
        let again = said(greeting.bytes()).and_then(|(again, _)| again);
        assert_eq!(again, Some(SocketAddr::new(caller.ip(), caller.port())), "{version:?}");
    }
}
