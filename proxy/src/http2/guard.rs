//! Frames that cost us something and bring nobody anything.
//!
//! A PING is answered, SETTINGS are acknowledged, a RST_STREAM is looked up: a peer that sends nothing else keeps a
//! core busy, at no cost of its own. So such frames are paid for from a credit, which heads and data fill up, in either
//! direction, and time does too.

use tokio::time::Instant;

/// How many such frames may come at once.
pub(super) const CREDIT: u32 = 1000;
/// How many more may come each second.
const PER_SECOND: u64 = 20;
/// How many more may come for each frame of a head or of data: what an eager peer answers it with.
const PER_USEFUL: u32 = 4;

const PREFACE_LENGTH: usize = 24;
const HEADER_LENGTH: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PADDED: u8 = 8;
const END_STREAM: u8 = 1;

/// A peer sent more of them than it had credit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many frames that carry nothing")]
pub(super) struct TooManyFrames;

/// Looks at the headers of frames as they go by.
#[derive(Debug)]
pub(super) struct Guard {
    received: Frames,
    sent: Frames,
    credit: u32,
    filled: Instant,
}

/// How far the frames of one direction have been read.
#[derive(Debug)]
struct Frames {
    /// Bytes that are of no interest, before the next header.
    skip: usize,
    /// What has come of a header, and how much that is.
    header: [u8; HEADER_LENGTH],
    length: usize,
}

/// What a frame is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// A head, or data.
    Useful,
    /// All others.
    Other,
}

impl Guard {
    /// For a connection whose peer speaks first, by a preface.
    pub(super) fn of_server(now: Instant) -> Self {
        Self { received: Frames::new(PREFACE_LENGTH), sent: Frames::new(0), credit: CREDIT, filled: now }
    }

    /// For a connection on which we speak first.
    pub(super) fn of_client(now: Instant) -> Self {
        Self { received: Frames::new(0), sent: Frames::new(PREFACE_LENGTH), credit: CREDIT, filled: now }
    }

    /// These bytes came.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Result<(), TooManyFrames> {
        let mut rest = bytes;
        while let Some(frame) = self.received.next(&mut rest) {
            match frame {
                Frame::Useful => self.fill(PER_USEFUL),
                Frame::Other => self.pay()?,
            }
        }
        Ok(())
    }

    /// These bytes were sent.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(frame) = self.sent.next(&mut rest) {
            if frame == Frame::Useful {
                self.fill(PER_USEFUL);
            }
        }
    }

    fn fill(&mut self, by: u32) {
        self.credit = self.credit.saturating_add(by).min(CREDIT);
    }

    fn pay(&mut self) -> Result<(), TooManyFrames> {
        if self.credit == 0 {
            let seconds = self.filled.elapsed().as_secs();
            if seconds > 0 {
                self.filled = Instant::now();
                self.fill(u32::try_from(seconds.saturating_mul(PER_SECOND)).unwrap_or(CREDIT));
            }
        }
        self.credit = self.credit.checked_sub(1).ok_or(TooManyFrames)?;
        Ok(())
    }
}

impl Frames {
    const fn new(skip: usize) -> Self {
        Self { skip, header: [0; HEADER_LENGTH], length: 0 }
    }

    /// The next frame whose header ends in `rest`, which is shortened by what was read.
    fn next(&mut self, rest: &mut &[u8]) -> Option<Frame> {
        let skipped = self.skip.min(rest.len());
        self.skip = self.skip.saturating_sub(skipped);
        *rest = rest.get(skipped..)?;
        let missing = HEADER_LENGTH.saturating_sub(self.length).min(rest.len());
        let (part, after) = rest.split_at_checked(missing)?;
        self.header.get_mut(self.length..)?.get_mut(..missing)?.copy_from_slice(part);
        self.length = self.length.saturating_add(missing);
        *rest = after;
        if self.length < HEADER_LENGTH {
            return None;
        }
        self.length = 0;
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        let is_empty = length == 0 || (flags & PADDED != 0 && length == 1);
        Some(match kind {
            HEADERS => Frame::Useful,
            DATA if !is_empty || flags & END_STREAM != 0 => Frame::Useful,
            _ => Frame::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn guard() -> Guard {
        let mut guard = Guard::of_server(Instant::now());
        guard.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        guard
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_nothing_is_paid_for() {
        for (kind, flags, payload) in
            [(PING, 0, [0; 8].as_slice()), (4, 0, &[]), (DATA, 0, &[]), (DATA, PADDED, &[0]), (200, 0, &[1])]
        {
            let mut guard = guard();
            let bytes = frame(kind, flags, payload).repeat(CREDIT as usize);
            // However the bytes are cut.
            for piece in bytes.chunks(7) {
                guard.received(piece).unwrap();
            }
            assert_eq!(guard.received(&frame(kind, flags, payload)), Err(TooManyFrames), "{kind}");
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            guard.received(&frame(kind, flags, payload)).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heads_and_data_pay_for_what_comes_with_them() {
        let mut guard = guard();
        for _ in 0..10 * CREDIT {
            guard.received(&frame(HEADERS, 4, b"head")).unwrap();
            guard.received(&frame(DATA, END_STREAM, &[])).unwrap();
            guard.received(&frame(PING, 0, &[0; 8]).repeat(8)).unwrap();
            guard.sent(&[frame(DATA, 0, b"data"), frame(8, 0, &[0; 4])].concat());
            guard.received(&frame(8, 0, &[0; 4]).repeat(4)).unwrap();
        }
        guard.sent(&frame(PING, 1, &[0; 8]).repeat(5000));
        let flood = guard.received(&frame(PING, 0, &[0; 8]).repeat(CREDIT as usize + 1));
        assert_eq!(flood, Err(TooManyFrames), "answers to it pay for nothing");
    }
}
