//! Bytes both ways, once both sides have agreed to speak another protocol.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::buffer::Buffer;
use super::downstream::Downstream;
use super::pipe::{Framing, Pipe};
use crate::stream::Stream;

/// How long nothing may be said in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// One direction. When its sender has said its last, its receiver is told so, and may go on speaking.
struct Way {
    pipe: Pipe,
    is_shut: bool,
}

/// Passes everything on until both sides have ended; answers how many bytes went up, and how many came down.
/// `read` was read from the upstream before.
pub(crate) async fn run(down: &mut Downstream, up: &mut Stream, mut read: Buffer) -> (u64, u64) {
    let mut upward = Way::new();
    let mut downward = Way::new();
    let mut progress = (0, 0);
    down.deadline.set(Instant::now(), IDLE_TIMEOUT);
    poll_fn(|cx| {
        let upped = upward.poll(cx, &mut down.stream, &mut down.read, up);
        let downed = downward.poll(cx, up, &mut read, &mut down.stream);
        match (upped, downed) {
            (Poll::Ready(Err(())), _) | (_, Poll::Ready(Err(()))) | (Poll::Ready(_), Poll::Ready(_)) => {
                return Poll::Ready(());
            }
            _ => {}
        }
        let now = (upward.pipe.passed, downward.pipe.passed);
        down.deadline.poll_stalled(cx, IDLE_TIMEOUT, &mut progress, now)
    })
    .await;
    (upward.pipe.passed, downward.pipe.passed)
}

impl Way {
    fn new() -> Self {
        Self { pipe: Pipe::new(Buffer::default(), Framing::UntilClose), is_shut: false }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        read: &mut Buffer,
        to: &mut Stream,
    ) -> Poll<Result<(), ()>> {
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        ready!(self.pipe.poll(cx, from, read, to)).map_err(|_failed| ())?;
        ready!(Pin::new(to).poll_shutdown(cx)).map_err(|_failed| ())?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}
