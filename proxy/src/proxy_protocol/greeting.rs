//! The header that a connection to the application begins with, where the configuration says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_header::{ProxiedAddress, ProxyHeader};

/// In which form an application wants to be told who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A header that names one caller. What it says is of a whole connection, so a connection that began with it carries
/// requests of that caller alone: two greetings are equal if they are the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting(Arc<[u8]>);

impl Greeting {
    /// Says that `source` has called `destination`.
    pub(crate) fn new(version: Version, source: SocketAddr, destination: SocketAddr) -> Self {
        let (source, destination) = of_one_family(source, destination);
        let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        let mut bytes = Vec::new();
        let written = match version {
            Version::V1 => header.encode_v1(&mut bytes),
            Version::V2 => header.encode_v2(&mut bytes),
        };
        // Two addresses of one family always have a form; this one says that they are not known.
        if written.is_err() {
            bytes = b"PROXY UNKNOWN\r\n".to_vec();
        }
        Self(bytes.into())
    }

    /// The header.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The same addresses, both of IPv4 or both of IPv6: a header has room for nothing else.
fn of_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to) = match (from, to) {
        (IpAddr::V4(v4), IpAddr::V6(_)) => (v4.to_ipv6_mapped().into(), to),
        (IpAddr::V6(_), IpAddr::V4(v4)) => (from, v4.to_ipv6_mapped().into()),
        same => same,
    };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_are_of_one_family() {
        let text = |source: &str, destination: &str| {
            let greeting = Greeting::new(Version::V1, source.parse().unwrap(), destination.parse().unwrap());
            String::from_utf8(greeting.bytes().to_vec()).unwrap()
        };
        let table = [
            ("192.0.2.1:5", "10.0.0.1:80", "PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n"),
            ("[2001:db8::1]:5", "[2001:db8::2]:80", "PROXY TCP6 2001:db8::1 2001:db8::2 5 80\r\n"),
            ("[::ffff:192.0.2.1]:5", "10.0.0.1:80", "PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n"),
            ("[2001:db8::1]:0", "10.0.0.1:80", "PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 0 80\r\n"),
            ("192.0.2.1:5", "[fe80::1%3]:80", "PROXY TCP6 ::ffff:192.0.2.1 fe80::1 5 80\r\n"),
        ];
        for (source, destination, expected) in table {
            assert_eq!(text(source, destination), expected);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for version in [Version::V1, Version::V2] {
            for (source, destination) in
                [("192.0.2.1:5", "10.0.0.1:80"), ("[2001:db8::1]:5", "[2001:db8::2]:80")]
            {
                let source: SocketAddr = source.parse().unwrap();
                let greeting = Greeting::new(version, source, destination.parse().unwrap());
                let read = super::super::parse(greeting.bytes()).unwrap();
                assert_eq!(read, Some((Some(source), greeting.bytes().len())), "{version:?}");
            }
        }
    }
}
