//! Bytes both ways, as they come: a raw connection, one that leaves the mesh, or what follows a change of protocol
//! within HTTP, such as a WebSocket.
//!
//! What one side has sent is written to the other before more is read: that is the back-pressure. It is read into room
//! that each thread has once, so a tunnel that is silent holds no buffer, and one that speaks allocates none.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::http1::{Buffer, Deadline, Framing, Pipe};
use crate::stream::Stream;

/// One of the two sides.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub stream: &'a mut Stream,
    /// Read before, and not passed on yet.
    pub read: &'a mut Buffer,
}

/// How a tunnel has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended<C> {
    /// Each side has said its last, and all of it was passed on.
    Whole,
    /// One of the sides failed.
    Broken,
    /// Nothing was said for too long.
    Idle,
    /// It was not to go on, for this reason.
    Cut(C),
}

/// One direction. When its sender has said its last, its receiver is told so, and may go on speaking.
struct Way {
    pipe: Pipe,
    is_shut: bool,
}

/// Passes everything on until both sides have ended, or have been silent for `idle_timeout`, or `cut` is ready. `tell`
/// is told how many bytes have gone up, and how many have come down, each time that there are more.
pub(crate) async fn run<C>(
    mut down: End<'_>,
    mut up: End<'_>,
    idle_timeout: Duration,
    mut tell: impl FnMut((u64, u64)),
    cut: impl Future<Output = C>,
) -> Ended<C> {
    let (mut upward, mut downward) = (Way::new(), Way::new());
    let mut told = (0, 0);
    let mut deadline = Deadline::new(Instant::now(), idle_timeout);
    let mut cut = pin!(cut);
    poll_fn(|cx| {
        let upped = upward.poll(cx, &mut down, &mut up);
        let downed = downward.poll(cx, &mut up, &mut down);
        let passed = (upward.pipe.passed, downward.pipe.passed);
        if passed != told {
            told = passed;
            tell(passed);
            deadline.set(Instant::now(), idle_timeout);
        }
        match (upped, downed) {
            (Poll::Ready(Err(())), _) | (_, Poll::Ready(Err(()))) => return Poll::Ready(Ended::Broken),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Whole),
            _ => {}
        }
        if let Poll::Ready(why) = cut.as_mut().poll(cx) {
            return Poll::Ready(Ended::Cut(why));
        }
        deadline.poll(cx).map(|()| Ended::Idle)
    })
    .await
}

impl Way {
    fn new() -> Self {
        Self { pipe: Pipe::new(Buffer::default(), Framing::UntilClose), is_shut: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut End<'_>, to: &mut End<'_>) -> Poll<Result<(), ()>> {
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        ready!(self.pipe.poll(cx, from.stream, from.read, to.stream)).map_err(|_failed| ())?;
        ready!(Pin::new(&mut *to.stream).poll_shutdown(cx)).map_err(|_failed| ())?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
