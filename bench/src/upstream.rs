//! The service behind the proxies: a fixed answer, at the least cost.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};

use crate::grpc;
use crate::poll::Poll;

/// What an answer's body and one TCP exchange have.
pub(crate) const SIZE: usize = 1024;
const LISTENER: usize = usize::MAX;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// What the service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Speaks {
    /// 1 KiB for each head of a request.
    Http,
    /// 1 KiB for each gRPC call.
    Grpc,
    /// 1 KiB for each KiB.
    Tcp,
}

/// Answers at `address` until the process is ended.
pub(crate) fn serve(address: SocketAddr, speaks: Speaks) -> Result<()> {
    if speaks == Speaks::Grpc {
        return grpc::serve(address);
    }
    let listener = TcpListener::bind(address).with_context(|| format!("`{address}` can't be bound"))?;
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER)?;
    let mut connections: HashMap<usize, (TcpStream, Vec<u8>)> = HashMap::new();
    let (mut next, answer) = (0, answer(speaks));
    loop {
        for token in poll.wait(None)?.to_vec() {
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    poll.add(&stream, next)?;
                    connections.insert(next, (stream, Vec::new()));
                    next += 1;
                }
            } else if let Some((stream, received)) = connections.get_mut(&token)
                && !is_answered(stream, received, speaks, &answer)
            {
                connections.remove(&token);
            }
        }
    }
}

fn answer(speaks: Speaks) -> Vec<u8> {
    let body = "x".repeat(SIZE);
    match speaks {
        Speaks::Tcp | Speaks::Grpc => body.into_bytes(),
        Speaks::Http => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
                        date: Mon, 23 Nov 2026 08:44:53 GMT\r\nserver: bench\r\ncontent-length: ";
            format!("{head}{SIZE}\r\n\r\n{body}").into_bytes()
        }
    }
}

/// Answers what has come whole. False once the connection is over.
fn is_answered(stream: &mut TcpStream, received: &mut Vec<u8>, speaks: Speaks, answer: &[u8]) -> bool {
    let mut chunk = [0; 8 * SIZE];
    let length = match stream.read(&mut chunk) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    received.extend_from_slice(chunk.get(..length).unwrap_or_default());
    while let Some(end) = end_of_request(received, speaks) {
        received.drain(..end);
        if stream.write_all(answer).is_err() {
            return false;
        }
    }
    true
}

/// Where the first request ends. The generator's have no body, and no proxy sends one before the last is answered.
fn end_of_request(received: &[u8], speaks: Speaks) -> Option<usize> {
    match speaks {
        Speaks::Tcp | Speaks::Grpc => (received.len() >= SIZE).then_some(SIZE),
        Speaks::Http => received.ends_with(END_OF_HEAD).then_some(received.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_its_head_does() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(end_of_request(head, Speaks::Http), Some(head.len()));
        assert_eq!(end_of_request(&head[..10], Speaks::Http), None);
        assert_eq!(end_of_request(&[0; SIZE + 1], Speaks::Tcp), Some(SIZE));
        assert_eq!(end_of_request(&[0; SIZE - 1], Speaks::Tcp), None);
    }
}
