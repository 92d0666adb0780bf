//! One connection of the generator: plain or mutual TLS, with one request on its way at most.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};
use daemon::Clock;
use identity::{Identity, Source, Svid, TrustBundle, tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};

use crate::load::{Exchange, Tls};
use crate::upstream::SIZE;

/// The most headers of an answer.
const HEADERS_MAX: usize = 64;

/// A connection to a proxy.
#[derive(Debug)]
pub(crate) struct Client {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    received: Vec<u8>,
}

/// What came of looking for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has not come whole.
    Pending,
    /// It has; 200 is what all should be.
    Whole { status: u16 },
}

impl Client {
    pub(crate) fn connect(target: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let socket = TcpStream::connect(target).context("can't connect")?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let name = ServerName::IpAddress(target.ip().into());
        let tls =
            tls.map(|config| ClientConnection::new(Arc::clone(config), name).map(Box::new)).transpose()?;
        Ok(Self { socket, tls, received: Vec::new() })
    }

    /// Sends a request; under TLS as soon as the handshake is over.
    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.write_all(request),
            Some(tls) => {
                tls.writer().write_all(request)?;
                self.flush()
            }
        }
    }

    /// Reads what there is, and says whether that ends the answer.
    pub(crate) fn receive(&mut self, exchange: &Exchange) -> io::Result<Answer> {
        let mut chunk = [0; 16 * SIZE];
        match &mut self.tls {
            None => match self.socket.read(&mut chunk) {
                Ok(0) => return Err(ended()),
                Ok(length) => self.received.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Answer::Pending),
                Err(error) => return Err(error),
            },
            Some(tls) => {
                match tls.read_tls(&mut self.socket) {
                    Ok(0) => return Err(ended()),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Answer::Pending),
                    Err(error) => return Err(error),
                }
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                let waiting = state.plaintext_bytes_to_read();
                let start = self.received.len();
                self.received.resize(start + waiting, 0);
                tls.reader().read_exact(self.received.get_mut(start..).unwrap_or_default())?;
                self.flush()?;
            }
        }
        let (answer, length) = read(&self.received, exchange)?;
        self.received.drain(..length);
        Ok(answer)
    }

    /// What TLS agreed on, once it has.
    pub(crate) fn agreed(&self) -> Option<String> {
        let tls = self.tls.as_ref()?;
        let suite = tls.negotiated_cipher_suite()?.suite().as_str()?;
        let group = tls.negotiated_key_exchange_group()?.name();
        Some(format!("{suite}, {group:?}"))
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// The client's side of mutual TLS, as a sidecar has it: no resumption, the server known by its SPIFFE ID.
pub(crate) fn tls_config(files: &Tls) -> Result<Arc<ClientConfig>> {
    let chain = CertificateDer::pem_file_iter(&files.chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&files.key)?;
    let svid = Svid::new(chain, &key)?;
    let bundle = TrustBundle::load(svid.id.trust_domain().parse()?, &files.trust)?;
    let source = Source::fixed(Identity { svid, bundle });
    Ok(tls::client_config(&source, Clock::system(), vec![files.server.parse()?], &[b"http/1.1"]))
}

/// Whether `received` is a whole answer, and how long that is.
fn read(received: &[u8], exchange: &Exchange) -> io::Result<(Answer, usize)> {
    const PENDING: (Answer, usize) = (Answer::Pending, 0);
    if !matches!(exchange, Exchange::Http { .. }) {
        return Ok(if received.len() < SIZE { PENDING } else { (Answer::Whole { status: 200 }, SIZE) });
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received).map_err(io::Error::other)? else {
        return Ok(PENDING);
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = length
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .ok_or_else(|| io::Error::other("an answer without content-length"))?;
    let whole = head + length;
    let status = response.code.unwrap_or_default();
    Ok(if received.len() < whole { PENDING } else { (Answer::Whole { status }, whole) })
}

fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the proxy closed the connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let http = Exchange::Http { prefix: String::new() };
        let whole = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!";
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut], &http).unwrap(), (Answer::Pending, 0));
        }
        assert_eq!(read(whole, &http).unwrap(), (Answer::Whole { status: 403 }, whole.len()));
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n", &http).is_err());
        assert!(read(b"SSH-2.0\r\n", &http).is_err());
    }

    #[test]
    fn a_kib_is_a_whole_answer_over_tcp() {
        assert_eq!(read(&[0; SIZE - 1], &Exchange::Tcp).unwrap().0, Answer::Pending);
        assert_eq!(read(&[0; SIZE], &Exchange::Tcp).unwrap(), (Answer::Whole { status: 200 }, SIZE));
    }
}
