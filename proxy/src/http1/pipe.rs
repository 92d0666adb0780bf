//! One direction of an exchange: bytes that wait to be written, then a body, from one connection to another.
//!
//! A body is read only once what was read before is written: that is the back-pressure. Nothing is collected.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffer::{self, Buffer};
use super::trailers;
use crate::chunks::{Chunks, Kind};
use crate::stream::Stream;

/// How the end of a body is known.
#[derive(Debug)]
pub(crate) enum Framing {
    /// After so many bytes, maybe none.
    Exactly(u64),
    /// Chunks, passed on as chunks.
    Chunked(Chunks),
    /// Chunks, for a receiver that knows none: only their data is passed on.
    Decoded(Chunks),
    /// By the end of the connection.
    UntilClose,
}

/// Bytes on their way in one direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    framing: Framing,
    is_over: bool,
    has_written: bool,
    /// To be written before anything else is read.
    pending: Buffer,
    /// Trailers of which the end has not come yet.
    trailers: Buffer,
    /// How many bytes of the body have passed, without what frames chunks.
    pub passed: u64,
}

/// Why not all of a body got through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    /// The sender's connection failed, or ended too early.
    #[error("the sender's connection ended within the body: {0}")]
    Sender(io::Error),
    /// The chunks, or the fields after them, are not well-formed.
    #[error("the chunks of the body are not well-formed")]
    Chunks,
    /// The receiver's connection failed.
    #[error("the receiver's connection ended within the body: {0}")]
    Receiver(io::Error),
}

impl Pipe {
    /// For `head`, which is written first, and a body after it.
    pub(crate) fn new(head: Buffer, framing: Framing) -> Self {
        let is_over = matches!(framing, Framing::Exactly(0));
        Self { framing, is_over, has_written: false, pending: head, trailers: Buffer::default(), passed: 0 }
    }

    /// Whether the whole body has been read.
    pub(crate) const fn is_read(&self) -> bool {
        self.is_over
    }

    /// Whether anything has been written so far, be it of the head.
    pub(crate) const fn has_written(&self) -> bool {
        self.has_written
    }

    /// Takes what of the body is among `read` already, so that it is written together with the head.
    pub(crate) fn take(&mut self, read: &mut Buffer) -> Result<(), PipeError> {
        if self.is_over || read.is_empty() {
            return Ok(());
        }
        let (verbatim, taken) = self.accept(read.unused())?;
        self.pending.extend(read.unused().get(..verbatim).unwrap_or_default());
        self.finish_trailers()?;
        read.consume(taken);
        Ok(())
    }

    /// Passes on what there is; ready at the end of the body, when all of it is written. What `from` sends after that
    /// is left in `read`, where what came before may lie already.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        read: &mut Buffer,
        to: &mut Stream,
    ) -> Poll<Result<(), PipeError>> {
        loop {
            ready!(self.poll_write_pending(cx, to)).map_err(PipeError::Receiver)?;
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            if !read.is_empty() {
                self.take(read)?;
                continue;
            }
            ready!(self.poll_pass(cx, from, read, to))?;
        }
    }

    /// Reads once, and writes as much of it as can be written at once.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        read: &mut Buffer,
        to: &mut Stream,
    ) -> Poll<Result<(), PipeError>> {
        let passed = buffer::poll_read(cx, from, |cx, bytes| {
            if bytes.is_empty() {
                return self.end_of_stream();
            }
            let (verbatim, taken) = self.accept(bytes)?;
            let (verbatim, rest) =
                (bytes.get(..verbatim).unwrap_or_default(), bytes.get(taken..).unwrap_or_default());
            let written = match verbatim {
                [] => 0,
                verbatim => match Pin::new(to).poll_write(cx, verbatim) {
                    Poll::Ready(Ok(0)) => return Err(PipeError::Receiver(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => written.map_err(PipeError::Receiver)?,
                    Poll::Pending => 0,
                },
            };
            if let Some(left @ [_, ..]) = verbatim.get(written..) {
                self.pending.extend(left);
            }
            self.finish_trailers()?;
            if !rest.is_empty() {
                read.extend(rest);
            }
            Ok(())
        });
        Poll::Ready(ready!(passed).map_err(PipeError::Sender)?)
    }

    fn end_of_stream(&mut self) -> Result<(), PipeError> {
        if matches!(self.framing, Framing::UntilClose) {
            self.is_over = true;
            return Ok(());
        }
        Err(PipeError::Sender(io::ErrorKind::UnexpectedEof.into()))
    }

    /// How many of `bytes` are to be written as they are, and how many belong to the body. What is to be written
    /// otherwise is kept.
    fn accept(&mut self, bytes: &[u8]) -> Result<(usize, usize), PipeError> {
        let taken = match &mut self.framing {
            Framing::UntilClose => bytes.len(),
            Framing::Exactly(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left = left.saturating_sub(taken as u64);
                self.is_over = *left == 0;
                taken
            }
            Framing::Chunked(_) | Framing::Decoded(_) => return self.accept_chunks(bytes),
        };
        self.passed = self.passed.saturating_add(taken as u64);
        Ok((taken, taken))
    }

    fn accept_chunks(&mut self, bytes: &[u8]) -> Result<(usize, usize), PipeError> {
        let (chunks, decoded) = match &mut self.framing {
            Framing::Chunked(chunks) => (chunks, false),
            Framing::Decoded(chunks) => (chunks, true),
            Framing::Exactly(_) | Framing::UntilClose => return Ok((0, 0)),
        };
        let (mut verbatim, mut rest) = (0_usize, bytes);
        while !rest.is_empty() && !chunks.is_end() {
            let (length, kind) = chunks.next(rest).map_err(|_broken| PipeError::Chunks)?;
            let (piece, after) = rest.split_at_checked(length).ok_or(PipeError::Chunks)?;
            match kind {
                Kind::Trailers => self.trailers.extend(piece),
                Kind::Data if decoded => self.pending.extend(piece),
                Kind::Frame if decoded => {}
                Kind::Data | Kind::Frame => verbatim = verbatim.saturating_add(length),
            }
            if kind == Kind::Data {
                self.passed = self.passed.saturating_add(length as u64);
            }
            rest = after;
        }
        self.is_over = chunks.is_end();
        Ok((verbatim, bytes.len().saturating_sub(rest.len())))
    }

    /// Once all trailers have come: those that may pass are to be written.
    fn finish_trailers(&mut self) -> Result<(), PipeError> {
        if !self.is_over || self.trailers.is_empty() {
            return Ok(());
        }
        if matches!(self.framing, Framing::Chunked(_)) {
            trailers::write(self.trailers.unused(), self.pending.vec()).ok_or(PipeError::Chunks)?;
        }
        self.trailers = Buffer::default();
        Ok(())
    }

    fn poll_write_pending(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        let before = self.pending.unused().len();
        let written = poll_write_all(cx, &mut self.pending, to);
        self.has_written |= self.pending.unused().len() < before;
        written
    }
}

/// Writes all of `bytes`, and sees to it that they leave.
pub(crate) fn poll_write_all(
    cx: &mut Context<'_>,
    bytes: &mut Buffer,
    to: &mut Stream,
) -> Poll<io::Result<()>> {
    while !bytes.is_empty() {
        match ready!(Pin::new(&mut *to).poll_write(cx, bytes.unused()))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => bytes.consume(written),
        }
    }
    Pin::new(to).poll_flush(cx)
}
