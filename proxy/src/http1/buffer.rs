//! Buffers that cost nothing while a connection waits.
//!
//! A proxy holds many connections, most of which wait for their next request. So bytes are read into room that
//! each thread has once, and only what has to be kept is put into a buffer of its connection; and a buffer that is
//! empty gives its memory back to its thread, for the next connection.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// How much is read at once.
pub(crate) const READ_SIZE: usize = 64 * 1024;
/// The most memory that a thread keeps for buffers to come: so many, none of which is larger.
const SPARE_MAX: usize = 256;
const SPARE_SIZE_MAX: usize = 16 * 1024;

thread_local! {
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read and not yet used, or made and not yet written.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where the unused bytes start.
    start: usize,
}

impl Buffer {
    /// The unused bytes.
    pub(crate) fn unused(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// The first `count` of them are used; all, if there are fewer.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.is_empty() {
            self.release();
        }
    }

    /// Adds bytes.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.vec().extend_from_slice(bytes);
    }

    /// What to add bytes to.
    pub(crate) fn vec(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = spare();
        }
        &mut self.bytes
    }

    /// The first `length` bytes, which move out; the rest stays.
    pub(crate) fn take(&mut self, length: usize) -> Self {
        let rest = self.unused().get(length..).unwrap_or_default();
        let mut kept = Self::default();
        if !rest.is_empty() {
            kept.extend(rest);
        }
        let end = self.bytes.len().saturating_sub(rest.len());
        self.bytes.truncate(end);
        std::mem::replace(self, kept)
    }

    /// Reads what has arrived, which is kept; answers the number of bytes, 0 at the end of the stream.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        poll_read(cx, from, |_, bytes| {
            self.extend(bytes);
            bytes.len()
        })
    }

    fn release(&mut self) {
        self.start = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() == 0 || bytes.capacity() > SPARE_SIZE_MAX {
            return;
        }
        bytes.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(bytes);
            }
        });
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Reads what has arrived into this thread's room, and lets `take` have it: nothing at the end of the stream.
pub(crate) fn poll_read<T>(
    cx: &mut Context<'_>,
    from: &mut (impl AsyncRead + Unpin),
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    ROOM.with_borrow_mut(|room| {
        let mut buffer = ReadBuf::new(room);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(cx, buffer.filled())))
    })
}

fn spare() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(2048))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_used_in_their_order() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        buffer.extend(b"head");
        buffer.extend(b"body");
        buffer.consume(1);
        let head = buffer.take(3);
        assert_eq!((head.unused(), buffer.unused()), (b"ead".as_slice(), b"body".as_slice()));
        buffer.consume(100);
        assert!(buffer.is_empty());
        assert_eq!(buffer.take(0).unused(), b"");
    }

    #[test]
    fn an_empty_buffer_holds_no_memory_and_a_spare_one_is_taken() {
        let mut buffer = Buffer::default();
        buffer.extend(&[1; 5000]);
        let memory = buffer.bytes.as_ptr();
        buffer.consume(5000);
        assert_eq!(buffer.bytes.capacity(), 0);
        let mut next = Buffer::default();
        next.extend(b"x");
        assert_eq!((next.bytes.as_ptr(), next.unused()), (memory, b"x".as_slice()));
        // Memory of one large request is not kept.
        next.extend(&[1; SPARE_SIZE_MAX]);
        drop(next);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(|bytes| bytes.capacity() <= SPARE_SIZE_MAX)));
    }
}
