//! One end of an exchange: bodies come from it and go to it, whichever protocol it speaks.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::head;
use crate::chunks::Kind;
use crate::http1::{Buffer, Framing, poll_write_all, trailers};
use crate::stream::Stream;

/// The most bytes of one piece of a body.
const PIECE_MAX: usize = 16 * 1024;

/// What a body consists of.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Some bytes.
    Data(Bytes),
    /// The fields after the last byte, which end it.
    Trailers(HeaderMap),
    /// Its end, without any.
    End,
}

/// Why no more can be had from a side, or given to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Its connection ended, or this stream of it.
    #[error("{0}")]
    Gone(String),
    /// What it sends is not well-formed.
    #[error("the body is not well-formed")]
    Malformed,
}

/// One end of an exchange.
#[derive(Debug)]
pub(super) enum Side<'a> {
    /// A connection of HTTP/1.1.
    Http1(Http1<'a>),
    /// A stream of HTTP/2.
    Http2(Http2),
}

/// How the end of a body is told to the one who gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// It was told how many bytes to expect.
    Exactly(u64),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// A connection of HTTP/1.1, for the time of one exchange.
#[derive(Debug)]
pub(super) struct Http1<'a> {
    pub stream: &'a mut Stream,
    /// Read, and not yet used.
    pub read: &'a mut Buffer,
    /// How the body that comes from here ends.
    pub incoming: Framing,
    pub outgoing: Outgoing,
    /// To be written before anything else.
    pub pending: Buffer,
    pub has_written: bool,
    trailers: Buffer,
    ended: bool,
}

/// A stream of HTTP/2. Either half may not be there yet.
#[derive(Debug, Default)]
pub(super) struct Http2 {
    pub receive: Option<RecvStream>,
    pub send: Option<SendStream<Bytes>>,
}

impl Side<'_> {
    /// What comes next of its body.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        match self {
            Self::Http1(side) => side.poll_piece(cx),
            Self::Http2(side) => side.poll_piece(cx),
        }
    }

    /// So many bytes of its body went on: it may send as many more.
    pub(super) fn taken(&mut self, count: usize) {
        if let Self::Http2(Http2 { receive: Some(receive), .. }) = self {
            // An error only if more is released than came.
            let _released = receive.flow_control().release_capacity(count);
        }
    }

    /// Whether its body is known to end here, without trailers.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Http1(side) => side.ended || matches!(side.incoming, Framing::Exactly(0)),
            Self::Http2(side) => side.receive.as_ref().is_none_or(RecvStream::is_end_stream),
        }
    }

    /// Whether what was given to it before has to leave first.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Http1(side) if side.pending.unused().len() >= PIECE_MAX)
    }

    /// Ready once what was given to it before has left, as far as that is not its connection's business.
    pub(super) fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(side) => side.poll_clear(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// How many bytes it takes, of `wanted`.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Http1(_) => Poll::Ready(Ok(wanted)),
            Self::Http2(side) => side.poll_room(cx, wanted),
        }
    }

    /// Gives it bytes for which it has room; maybe the last ones.
    pub(super) fn put(&mut self, bytes: Bytes, is_last: bool) -> Result<(), Broken> {
        match self {
            Self::Http1(side) => {
                side.put(&bytes)?;
                if is_last { side.finish(None) } else { Ok(()) }
            }
            Self::Http2(side) => side.sender()?.send_data(bytes, is_last).map_err(gone),
        }
    }

    /// Tells it that the body has ended.
    pub(super) fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match (self, trailers) {
            (Self::Http1(side), trailers) => side.finish(trailers.as_ref()),
            (Self::Http2(side), None) => side.sender()?.send_data(Bytes::new(), true).map_err(gone),
            (Self::Http2(side), Some(trailers)) => {
                side.sender()?.send_trailers(head::passing(&trailers)).map_err(gone)
            }
        }
    }

    /// Gives the stream up, so that nobody takes what it was sent for a whole.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        if let Self::Http2(Http2 { send: Some(send), .. }) = self {
            send.send_reset(reason);
        }
    }
}

impl<'a> Http1<'a> {
    /// Nothing comes from it or goes to it yet.
    pub(super) fn new(stream: &'a mut Stream, read: &'a mut Buffer, incoming: Framing) -> Self {
        Self {
            stream,
            read,
            incoming,
            outgoing: Outgoing::UntilClose,
            pending: Buffer::default(),
            has_written: false,
            trailers: Buffer::default(),
            ended: false,
        }
    }

    /// A body comes from it that ends as `incoming` says.
    pub(super) fn expect(&mut self, incoming: Framing) {
        self.ended = false;
        self.incoming = incoming;
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        loop {
            if self.ended || matches!(self.incoming, Framing::Exactly(0)) {
                self.ended = true;
                return Poll::Ready(Ok(Piece::End));
            }
            if !self.read.is_empty() {
                match self.take()? {
                    Some(piece) => return Poll::Ready(Ok(piece)),
                    None => continue,
                }
            }
            match ready!(self.read.poll_fill(cx, self.stream)) {
                Ok(1..) => {}
                Ok(0) if matches!(self.incoming, Framing::UntilClose) => self.ended = true,
                Ok(0) => return Poll::Ready(Err(Broken::Gone("it ended within the body".to_owned()))),
                Err(error) => return Poll::Ready(Err(Broken::Gone(error.to_string()))),
            }
        }
    }

    /// The next piece of what was read; nothing if that only frames others.
    fn take(&mut self) -> Result<Option<Piece>, Broken> {
        let unused = self.read.unused();
        let (length, kind) = match &mut self.incoming {
            Framing::UntilClose => (unused.len().min(PIECE_MAX), Kind::Data),
            Framing::Exactly(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(PIECE_MAX);
                let length = unused.len().min(most);
                *left = left.saturating_sub(length as u64);
                (length, Kind::Data)
            }
            Framing::Chunked(chunks) | Framing::Decoded(chunks) => {
                let bytes = unused.get(..unused.len().min(PIECE_MAX)).unwrap_or_default();
                let next = chunks.next(bytes).map_err(|_broken| Broken::Malformed)?;
                self.ended = chunks.is_end();
                next
            }
        };
        let piece = unused.get(..length).unwrap_or_default();
        let taken = match kind {
            Kind::Data => Some(Piece::Data(Bytes::copy_from_slice(piece))),
            Kind::Frame => None,
            Kind::Trailers => {
                self.trailers.extend(piece);
                None
            }
        };
        self.read.consume(length);
        if self.ended && !self.trailers.is_empty() {
            let fields = trailers::read(self.trailers.unused()).ok_or(Broken::Malformed)?;
            return Ok(Some(if fields.is_empty() { Piece::End } else { Piece::Trailers(fields) }));
        }
        Ok(taken)
    }

    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.pending.unused().len();
        let written = poll_write_all(cx, &mut self.pending, self.stream);
        self.has_written |= self.pending.unused().len() < before;
        Poll::Ready(ready!(written).map_err(|error| Broken::Gone(error.to_string())))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        match &mut self.outgoing {
            Outgoing::Exactly(left) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(Broken::Malformed)?;
                self.pending.extend(bytes);
            }
            Outgoing::UntilClose => self.pending.extend(bytes),
            // An empty one would be the last.
            Outgoing::Chunked if bytes.is_empty() => {}
            Outgoing::Chunked => {
                // Into memory, which takes everything.
                let _written = write!(self.pending.vec(), "{:x}\r\n", bytes.len());
                self.pending.extend(bytes);
                self.pending.extend(b"\r\n");
            }
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        match self.outgoing {
            Outgoing::Exactly(0) | Outgoing::UntilClose => Ok(()),
            Outgoing::Exactly(_) => Err(Broken::Malformed),
            Outgoing::Chunked => {
                let out = self.pending.vec();
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flat_map(|trailers| trailers.iter()) {
                    if trailers::may_pass(name.as_str()) {
                        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                            out.extend_from_slice(part);
                        }
                    }
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

impl Http2 {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let Some(receive) = &mut self.receive else { return Poll::Ready(Ok(Piece::End)) };
        if let Some(data) = ready!(receive.poll_data(cx)) {
            return Poll::Ready(data.map(Piece::Data).map_err(gone));
        }
        let trailers = ready!(Pin::new(receive).poll_trailers(cx)).map_err(gone)?;
        Poll::Ready(Ok(trailers.map_or(Piece::End, Piece::Trailers)))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Broken>> {
        let send = self.sender()?;
        send.reserve_capacity(wanted);
        loop {
            match send.capacity() {
                0 => {}
                room => return Poll::Ready(Ok(room)),
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(gone(error))),
                None => return Poll::Ready(Err(Broken::Gone("the stream has ended".to_owned()))),
            }
        }
    }

    fn sender(&mut self) -> Result<&mut SendStream<Bytes>, Broken> {
        self.send.as_mut().ok_or_else(|| Broken::Gone("the stream has ended".to_owned()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` gives")]
fn gone(error: h2::Error) -> Broken {
    Broken::Gone(error.to_string())
}
