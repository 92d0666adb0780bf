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
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What hyper would read when a client sends `parts` and then ends, or how reading failed.
    async fn through(parts: &[&[u8]]) -> (Vec<u8>, Option<io::ErrorKind>, Refused) {
        let (mut client, server) = tokio::io::duplex(64);
        let refused = Refused::default();
        let mut gate = Gate::new(server, refused.clone());
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let sender = tokio::spawn(async move {
            for part in parts {
                if client.write_all(&part).await.is_err() {
                    return;
                }
            }
        });
        let mut seen = Vec::new();
        let mut bytes = [0; 16];
        let error = loop {
            if refused.0.get().is_some() && gate.passed.is_empty() {
                break None;
            }
            match gate.read(&mut bytes).await {
                Ok(0) => break None,
                Ok(count) => seen.extend_from_slice(&bytes[..count]),
                Err(error) => break Some(error.kind()),
            }
        };
        drop(gate);
        sender.await.unwrap();
        (seen, error, refused)
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nHost: ";
    const CHUNKED: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    const BAD: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

    #[tokio::test]
    async fn good_requests_pass_unchanged_however_they_arrive() {
        let all = [GET, POST, GET, CHUNKED, CHUNKED, POST, GET].concat();
        for size in [1, 7, 64, all.len()] {
            let parts: Vec<&[u8]> = all.chunks(size).collect();
            let (seen, error, refused) = through(&parts).await;
            assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&all));
            assert_eq!((error, refused.0.get()), (None, None));
        }
    }

    #[tokio::test]
    async fn nothing_after_a_bad_head_passes() {
        let (seen, _, refused) =
            through(&[GET, CHUNKED, BAD, GET, GET].concat().chunks(9).collect::<Vec<_>>()).await;
        assert_eq!(seen, [GET, CHUNKED, STAND_IN].concat());
        assert_eq!(refused.at(2), Some(Malformed::TwoLengths));
        assert_eq!((refused.at(0), refused.at(1), refused.at(3)), (None, None, None));
        let (seen, _, _) = through(&[b"HEAD / HTTP/1.1\r\n\r\n"]).await;
        assert_eq!(seen, HEAD_STAND_IN);
    }

    #[tokio::test]
    async fn broken_chunks_break_the_connection() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (seen, error, _) = through(&[head, b"3\nabc"]).await;
        assert_eq!((seen, error), (head.to_vec(), Some(io::ErrorKind::InvalidData)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_refused_but_an_idle_connection_is_not() {
        let (mut client, server) = tokio::io::duplex(64);
        let refused = Refused::default();
        let mut gate = Gate::new(server, refused.clone());
        let mut bytes = [0; 64];
        let idle = tokio::time::timeout(10 * HEAD_TIMEOUT, gate.read(&mut bytes)).await;
        assert!(idle.is_err());
        client.write_all(b"GET / HT").await.unwrap();
        let read = gate.read(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..read], STAND_IN);
        assert_eq!(refused.at(0), Some(Malformed::HeadTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_a_moment_for_the_peer_to_finish() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut gate = Gate::new(server, Refused::default());
        let sender = tokio::spawn(async move {
            client.write_all(&[b'x'; 4096]).await.unwrap();
            client
        });
        let start = tokio::time::Instant::now();
        gate.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());
        drop(sender.await.unwrap());
    }

    proptest! {
        #[test]
        fn what_passes_does_not_depend_on_how_it_arrives(
            requests in prop::collection::vec(prop::sample::select(vec![GET, POST, CHUNKED, BAD, b"\r\n", b"0\r\n\r\n", b"x\n"]), 0..6),
            size in 1usize..80,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let all = requests.concat();
            let parts: Vec<&[u8]> = all.chunks(size).collect();
            let (whole, whole_error, whole_refused) = runtime.block_on(through(&[&all]));
            let (seen, error, refused) = runtime.block_on(through(&parts));
            prop_assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&whole));
            prop_assert_eq!((error, refused.0.get()), (whole_error, whole_refused.0.get()));
        }
    }
}
