//! Lets hyper see only heads that pass [`crate::framing`].
//!
//! Sits between the socket and hyper and reads along: each head is checked before hyper gets its first byte,
//! bodies pass through. A head that fails is replaced by a harmless one, so that the refusal is answered by
//! [`crate::request`] like every other, with a JSON body, and in its turn after the requests before it. Nothing
//! after a refused head is ever read as a request.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::chunks::Chunks;
use crate::framing::{self, BodyLength, HEAD_MAX, Malformed};

/// How long a head may take from its first byte to its last.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long, and for how many bytes, we wait for the peer to stop sending after our last byte.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;
/// How much is read at once.
const READ_SIZE: usize = 8 * 1024;

/// Which request of a connection was refused, and why; set at most once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refused(Arc<OnceLock<(u64, Malformed)>>);

/// A socket whose requests' heads are checked.
#[derive(Debug)]
pub(crate) struct Gate<IO> {
    io: IO,
    state: State,
    /// Read from the socket, not yet let through.
    waiting: BytesMut,
    /// Up to where `waiting` holds no end of a head.
    scanned: usize,
    /// Let through, not yet taken by hyper.
    passed: Bytes,
    heads: u64,
    refused: Refused,
    timeout: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

#[derive(Debug)]
enum State {
    Head,
    Exactly(u64),
    Chunked(Chunks),
    Refused,
}

#[derive(Debug)]
struct Linger {
    deadline: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Refused {
    /// Why the request at `index`, counted from 0 on its connection, was refused, if it was.
    pub(crate) fn at(&self, index: u64) -> Option<Malformed> {
        self.0.get().filter(|(at, _)| *at == index).map(|(_, why)| *why)
    }
}

impl<IO> Gate<IO> {
    /// A gate before `io`; `refused` tells the other side.
    pub(crate) fn new(io: IO, refused: Refused) -> Self {
        Self {
            io,
            state: State::Head,
            waiting: BytesMut::new(),
            scanned: 0,
            passed: Bytes::new(),
            heads: 0,
            refused,
            timeout: None,
            linger: None,
        }
    }

    /// Lets the next head through if it has arrived.
    fn admit(&mut self) {
        // A robust server ignores empty lines before a request line (RFC 9112 2.2); hyper does not get them.
        while self.waiting.starts_with(b"\r\n") {
            self.waiting.advance(2);
            self.scanned = 0;
        }
        match framing::head_length(&self.waiting, self.scanned) {
            Ok(None) => self.scanned = self.waiting.len(),
            Ok(Some(length)) => match framing::check(self.waiting.get(..length).unwrap_or_default()) {
                Ok(body) => self.pass_head(length, body),
                Err(why) => self.refuse(why),
            },
            Err(why) => self.refuse(why),
        }
    }

    fn pass_head(&mut self, length: usize, body: BodyLength) {
        self.passed = self.waiting.split_to(length).freeze();
        self.scanned = 0;
        self.timeout = None;
        self.heads += 1;
        self.state = match body {
            BodyLength::Exactly(0) => State::Head,
            BodyLength::Exactly(length) => State::Exactly(length),
            BodyLength::Chunked => State::Chunked(Chunks::default()),
        };
    }

    fn refuse(&mut self, why: Malformed) {
        // A refusal is the last word on its connection, so the cell is empty.
        let _only_once = self.refused.0.set((self.heads, why));
        // The answer to HEAD must not have a body.
        let is_head = self.waiting.starts_with(b"HEAD ");
        self.passed = Bytes::from_static(if is_head { HEAD_STAND_IN } else { STAND_IN });
        self.waiting.clear();
        self.timeout = None;
        self.state = State::Refused;
    }

    /// Of `bytes`, which follow what was let through before, how many belong to the current body.
    fn body_part(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (taken, ended) = match &mut self.state {
            State::Head | State::Refused => return Ok(0),
            State::Exactly(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left = left.saturating_sub(taken as u64);
                (taken, *left == 0)
            }
            State::Chunked(chunks) => match chunks.read(bytes) {
                Ok(taken) => (taken, chunks.is_end()),
                Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, Malformed::Chunks)),
            },
        };
        if ended {
            self.state = State::Head;
        }
        Ok(taken)
    }
}

impl<IO: AsyncRead + Unpin> Gate<IO> {
    /// Reads more into `waiting`; answers the number of bytes, 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; READ_SIZE];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.waiting.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Gets on with the next head: `true` when something was let through, `false` at the end of the stream.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            self.admit();
            if !self.passed.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if !self.waiting.is_empty() {
                let timeout = self.timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_TIMEOUT)));
                if timeout.as_mut().poll(cx).is_ready() {
                    self.refuse(Malformed::HeadTimeout);
                    return Poll::Ready(Ok(true));
                }
            }
            debug_assert!(self.waiting.len() <= HEAD_MAX, "longer heads are refused");
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty() {
            let mut waiting = std::mem::take(&mut self.waiting);
            let taken = self.body_part(&waiting)?;
            self.passed = waiting.split_to(taken).freeze();
            self.waiting = waiting;
            self.hand_over(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        let taken = self.body_part(read)?;
        // The rest is the next request, pipelined.
        self.waiting.extend_from_slice(read.get(taken..).unwrap_or_default());
        buffer.set_filled(before + taken);
        Poll::Ready(Ok(()))
    }

    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let part = self.passed.split_to(self.passed.len().min(buffer.remaining()));
        buffer.put_slice(&part);
    }

    /// Discards what the peer still sends. Closing with unread bytes would reset the connection, and the peer
    /// might never see our last answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            deadline: Box::pin(tokio::time::sleep(LINGER)),
            bytes_left: LINGER_BYTES,
        });
        let mut bytes = [0; READ_SIZE];
        while linger.bytes_left > 0 && linger.deadline.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    linger.bytes_left = linger.bytes_left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gate<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        if !gate.passed.is_empty() {
            gate.hand_over(buffer);
            return Poll::Ready(Ok(()));
        }
        match gate.state {
            State::Head => {
                if ready!(gate.poll_head(cx))? {
                    gate.hand_over(buffer);
                }
                Poll::Ready(Ok(()))
            }
            State::Exactly(_) | State::Chunked(_) => gate.poll_body(cx, buffer),
            // hyper closes once the refusal is answered; until then there is nothing more to read.
            State::Refused => Poll::Pending,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        ready!(self.poll_linger(cx));
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";
const HEAD_STAND_IN: &[u8] = b"HEAD / HTTP/1.1\r\nhost: refused\r\n\r\n";

#[cfg(test)]
mod tests;
