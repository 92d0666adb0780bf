//! The bytes below an HTTP/2 connection.
//!
//! `h2` flushes after every frame of data, so that sixteen small responses would leave by sixteen system calls. What it
//! writes is gathered here, and leaves together once it has nothing more to say for now: whoever polls the connection
//! asks its [`Outlet`] for that afterwards.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{Guard, TooManyFrames};
use crate::http1::Buffer;
use crate::stream::Stream;

/// How much is gathered. What is more is written at once.
const GATHERED_MAX: usize = 32 * 1024;

/// A connection, some bytes of which may have been read already.
#[derive(Debug)]
pub(super) struct Transport(Arc<Mutex<Wire>>);

/// Where what was gathered leaves.
#[derive(Debug)]
pub(super) struct Outlet(Arc<Mutex<Wire>>);

#[derive(Debug)]
struct Wire {
    stream: Stream,
    read: Buffer,
    gathered: Buffer,
    /// Why nothing can leave any more, until `h2` has heard of it.
    failed: Option<io::Error>,
    guard: Guard,
}

impl Transport {
    /// `read` was read from `stream` before. The peer starts with a preface if it is the `client`.
    pub(super) fn new(stream: Stream, read: Buffer, guard: Guard) -> (Self, Outlet) {
        let wire = Wire { stream, read, gathered: Buffer::default(), failed: None, guard };
        let wire = Arc::new(Mutex::new(wire));
        (Self(Arc::clone(&wire)), Outlet(wire))
    }
}

impl Outlet {
    /// Sends what was gathered, as far as it can be sent now. Whoever is woken by `cx` has to call this again.
    pub(super) fn flush(&self, cx: &mut Context<'_>) {
        let mut wire = lock(&self.0);
        if let Poll::Ready(Err(error)) = wire.poll_flush(cx) {
            wire.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.gathered.unused()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.consume(written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Takes some of `slices`, and answers how many bytes.
    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let size: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.unused().len().saturating_add(size) > GATHERED_MAX {
            ready!(self.poll_flush(cx))?;
        }
        let taken = if size > GATHERED_MAX {
            ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?
        } else {
            slices.iter().for_each(|slice| self.gathered.extend(slice));
            size
        };
        let mut left = taken;
        for slice in slices {
            let count = left.min(slice.len());
            self.guard.sent(slice.get(..count).unwrap_or_default());
            left = left.saturating_sub(count);
        }
        Poll::Ready(Ok(taken))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *lock(&self.0);
        let before = buffer.filled().len();
        if wire.read.is_empty() {
            ready!(Pin::new(&mut wire.stream).poll_read(cx, buffer))?;
        } else {
            let count = buffer.remaining().min(wire.read.unused().len());
            buffer.put_slice(wire.read.unused().get(..count).unwrap_or_default());
            wire.read.consume(count);
        }
        let new = buffer.filled().get(before..).unwrap_or_default();
        wire.guard.received(new).map_err(|TooManyFrames| io::Error::other(TooManyFrames))?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was gathered stays: see [`Outlet`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.0).failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *lock(&self.0);
        ready!(wire.poll_flush(cx))?;
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }
}
