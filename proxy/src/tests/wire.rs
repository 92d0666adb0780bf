//! A raw HTTP client.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A response, as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Raw {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The `error` of one of the proxy's own answers.
    pub(super) fn error(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("a JSON body");
        json["error"].as_str().unwrap().to_owned()
    }
}

/// A connection on which a test writes and reads what it likes.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Writes, unless the other side takes no more.
    pub(super) async fn write_if_open(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Reads up to and with `mark`.
    pub(super) async fn read_to(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                let rest = self.buffer.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(
                self.fill().await > 0,
                "the connection ended before {mark:?}: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads one response, after any number of invitations to send the body; to a request by HEAD without body.
    pub(super) async fn response(&mut self, to_head: bool) -> Raw {
        let mut head = self.read_to("\r\n\r\n").await;
        while head.starts_with("HTTP/1.1 100 ") {
            head = self.read_to("\r\n\r\n").await;
        }
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let length =
            headers.get("content-length").map(|value| value.to_str().unwrap().parse::<usize>().unwrap());
        let body = match length {
            _ if to_head => String::new(),
            Some(length) => {
                while self.buffer.len() < length {
                    assert!(self.fill().await > 0, "the body is cut");
                }
                let rest = self.buffer.split_off(length);
                String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap()
            }
            None => self.read_to("0\r\n\r\n").await,
        };
        Raw { status, headers, body }
    }

    /// Sends nothing more.
    pub(super) async fn shut(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Whether the other side ends the connection, with nothing more to read.
    pub(super) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().await == 0
    }

    /// Whatever comes next; 0 bytes at the end.
    pub(super) async fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.stream.read(bytes).await.unwrap()
    }

    /// Everything up to the end of the connection.
    pub(super) async fn read_to_end(&mut self, rest: &mut Vec<u8>) {
        while self.fill().await > 0 {}
        rest.append(&mut self.buffer);
    }

    async fn fill(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut bytes));
        let count = read.await.expect("the other side is silent").unwrap();
        self.buffer.extend_from_slice(&bytes[..count]);
        count
    }
}

/// One request on a connection of its own.
pub(super) async fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Raw {
    let mut wire = Wire::open(address).await;
    wire.write(bytes.as_ref()).await;
    wire.response(bytes.as_ref().starts_with(b"HEAD ")).await
}

/// One GET.
pub(super) async fn get(address: SocketAddr, host: &str, path: &str) -> Raw {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}
