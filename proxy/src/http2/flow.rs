//! One body on its way from one side to the other.
//!
//! A piece is taken only once the one before has been given on, and only then may the sender send more: that is the
//! back-pressure. Nothing is collected, but for the beginning of a request that may have to be sent again.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::side::{Broken, Piece, Side};

/// The most bytes of a request that are kept until its response begins, should it have to be sent again.
const KEPT_MAX: usize = 64 * 1024;

/// Why not all of a body got through.
#[derive(Debug)]
pub(super) enum FlowError {
    /// It does not come.
    Sender(Broken),
    /// It is not taken.
    Receiver(Broken),
}

/// One direction of an exchange.
#[derive(Debug)]
pub(super) struct Flow {
    /// Taken from the sender, and whether it waits to hear that.
    held: Option<(Bytes, bool)>,
    is_over: bool,
    /// How many bytes have passed.
    pub passed: u64,
    kept: Option<Kept>,
}

/// What passed so far.
#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Piece>,
    size: usize,
    /// The next one to be sent again.
    next: usize,
}

impl Flow {
    /// Of a body that is not sent again.
    pub(super) const fn new() -> Self {
        Self { held: None, is_over: false, passed: 0, kept: None }
    }

    /// Of a body whose beginning is kept.
    pub(super) fn repeatable() -> Self {
        Self { kept: Some(Kept::default()), ..Self::new() }
    }

    /// There is no body: its head said so.
    pub(super) const fn skip(&mut self) {
        self.is_over = true;
    }

    /// From now on nothing is kept.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Starts over, with another receiver. False if too much has passed for that.
    pub(super) fn restart(&mut self, from: &mut Side<'_>) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        kept.next = 0;
        if let Some((rest, true)) = &self.held {
            from.taken(rest.len());
        }
        (self.held, self.is_over, self.passed) = (None, false, 0);
        true
    }

    /// Passes on what there is; ready once all of it is.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<'_>,
        to: &mut Side<'_>,
    ) -> Poll<Result<(), FlowError>> {
        loop {
            if self.is_over || to.is_full() {
                ready!(to.poll_clear(cx)).map_err(FlowError::Receiver)?;
            }
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            if let Some((bytes, is_new)) = &mut self.held {
                let room = ready!(to.poll_room(cx, bytes.len())).map_err(FlowError::Receiver)?;
                let piece = bytes.split_to(room.min(bytes.len()));
                let (count, is_new, is_whole) = (piece.len(), *is_new, bytes.is_empty());
                let is_last =
                    is_whole && from.has_ended() && self.kept.as_ref().is_none_or(Kept::is_exhausted);
                to.put(piece, is_last).map_err(FlowError::Receiver)?;
                self.passed = self.passed.saturating_add(count as u64);
                if is_new {
                    from.taken(count);
                }
                if is_whole {
                    self.held = None;
                    self.is_over = is_last;
                }
                continue;
            }
            let Poll::Ready(next) = self.poll_next(cx, from) else {
                ready!(to.poll_clear(cx)).map_err(FlowError::Receiver)?;
                return Poll::Pending;
            };
            match next? {
                (Piece::Data(bytes), _) if bytes.is_empty() => {}
                (Piece::Data(bytes), is_new) => self.held = Some((bytes, is_new)),
                (Piece::Trailers(trailers), _) => {
                    to.finish(Some(trailers)).map_err(FlowError::Receiver)?;
                    self.is_over = true;
                }
                (Piece::End, _) => {
                    to.finish(None).map_err(FlowError::Receiver)?;
                    self.is_over = true;
                }
            }
        }
    }

    /// The next piece, and whether it is new from the sender.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<'_>,
    ) -> Poll<Result<(Piece, bool), FlowError>> {
        if let Some(kept) = &mut self.kept
            && let Some(piece) = kept.pieces.get(kept.next)
        {
            kept.next = kept.next.saturating_add(1);
            return Poll::Ready(Ok((piece.clone(), false)));
        }
        let piece = ready!(from.poll_piece(cx)).map_err(FlowError::Sender)?;
        if self.kept.as_mut().is_some_and(|kept| !kept.keep(&piece)) {
            self.kept = None;
        }
        Poll::Ready(Ok((piece, true)))
    }
}

impl Kept {
    /// False if it would be too much.
    fn keep(&mut self, piece: &Piece) -> bool {
        if let Piece::Data(bytes) = piece {
            self.size = self.size.saturating_add(bytes.len());
        }
        self.pieces.push(piece.clone());
        self.next = self.pieces.len();
        self.size <= KEPT_MAX && self.pieces.len() <= KEPT_MAX / 64
    }

    const fn is_exhausted(&self) -> bool {
        self.next >= self.pieces.len()
    }
}
