//! The PROXY protocol, versions 1 and 2: a load balancer in front of an ingress says who the caller is, and so do we
//! to an application that wants it ([`Greeting`]).
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The header stands before anything else, TLS and HTTP
//! alike. Whoever may send one says who he is, so it is believed only from the networks that the configuration names;
//! and where it is expected, nothing is served without.

mod greeting;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

pub(crate) use greeting::Greeting;
pub use greeting::Version;

/// How long a header may take: a load balancer sends it at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest header, in bytes. One without extensions has at most 107 as text, 52 as binary; those of cloud
/// providers have some hundreds.
const HEADER_MAX: usize = 4096;
/// The longest header as text, its end included.
const TEXT_MAX: usize = 107;

/// Who may say who the caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The load balancers' networks.
    pub from: Vec<IpNet>,
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// It comes from nobody who is believed.
    #[error("it is not one of the load balancers of `proxy_protocol`")]
    Stranger,
    /// It does not begin with a header.
    #[error("it does not begin with a header of the PROXY protocol")]
    Malformed,
    /// Its header is too long.
    #[error("its PROXY header has more than {HEADER_MAX} bytes")]
    TooLong,
    /// Its header took too long.
    #[error("its PROXY header took longer than {HEADER_TIMEOUT:?}")]
    Timeout,
    /// It ended, or broke.
    #[error("it broke: {0}")]
    Io(#[from] io::Error),
}

impl ProxyProtocol {
    /// Who really called, as the header says that `stream` begins with; the header is read, and nothing more.
    ///
    /// It is the load balancer, `address`, where this is its own connection, such as to see whether we are well.
    ///
    /// # Errors
    /// When there is no header, or it is not to be believed.
    pub(crate) async fn caller(
        &self,
        stream: &mut TcpStream,
        address: SocketAddr,
    ) -> Result<SocketAddr, HeaderError> {
        if !self.trusts(address.ip()) {
            return Err(HeaderError::Stranger);
        }
        let read = tokio::time::timeout(HEADER_TIMEOUT, read(stream)).await;
        let said = read.map_err(|_elapsed| HeaderError::Timeout)??;
        Ok(said.unwrap_or(address))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.from.iter().any(|network| network.contains(&address))
    }
}

/// Reads the header alone: what has come is looked at where it is, and taken only as far as it belongs to it.
async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut bytes = [0; HEADER_MAX];
    let mut taken = 0;
    loop {
        let rest = bytes.get_mut(taken..).unwrap_or_default();
        if rest.is_empty() {
            return Err(HeaderError::TooLong);
        }
        let here = stream.peek(rest).await?;
        if here == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let parsed = parse(bytes.get(..taken + here).unwrap_or_default())?;
        let end = parsed.map_or(taken + here, |(_, length)| length);
        let belonging = bytes.get_mut(taken..end).unwrap_or_default();
        stream.read_exact(belonging).await?;
        taken = end;
        if let Some((caller, _)) = parsed {
            return Ok(caller);
        }
    }
}

/// The caller that the header at the start of `bytes` names, and how long the header is; nothing if there is no
/// whole header yet. The sender itself is the caller if the header names none.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, HeaderError> {
    // The library waits for a whole header before it looks.
    let begins = |greeting: &[u8]| greeting.iter().zip(bytes).all(|(expected, byte)| expected == byte);
    if !begins(b"PROXY ") && !begins(b"\r\n\r\n\0\r\nQUIT\n") {
        return Err(HeaderError::Malformed);
    }
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        // In pieces the library refuses it; and so it is refused at once.
        Ok((_, length)) if bytes.starts_with(b"PROXY ") && length > TEXT_MAX => Err(HeaderError::Malformed),
        Ok((header, length)) => {
            let caller = header.proxied_address().map(|address| address.source);
            let canonical = |caller: SocketAddr| SocketAddr::new(caller.ip().to_canonical(), caller.port());
            Ok(Some((caller.map(canonical), length)))
        }
        Err(proxy_header::Error::BufferTooShort) if !is_whole(bytes) => Ok(None),
        Err(_) => Err(HeaderError::Malformed),
    }
}

/// Whether a binary header is here as far as it says it goes; then nothing of it is to come.
fn is_whole(bytes: &[u8]) -> bool {
    match (bytes, bytes.get(14..16)) {
        ([b'\r', ..], Some([high, low])) => {
            bytes.len() >= 16 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
