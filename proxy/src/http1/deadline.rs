//! A deadline that moves with every request, and rarely touches the runtime's timer.
//!
//! Setting a timer takes longer than reading the clock, and nearly every deadline is moved on before it passes. So
//! the timer is left as it is when the deadline moves on; when it goes off, it is set anew to where the deadline is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A point in time to be ready by.
#[derive(Debug)]
pub(crate) struct Deadline {
    at: Instant,
    /// Never set to later than `at`.
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// `patience` from `now`.
    pub(crate) fn new(now: Instant, patience: Duration) -> Self {
        let at = now + patience;
        Self { at, timer: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// From now on the deadline is `patience` from `now`.
    pub(crate) fn set(&mut self, now: Instant, patience: Duration) {
        self.at = now + patience;
        if self.at < self.timer.deadline() {
            self.timer.as_mut().reset(self.at);
        }
    }

    /// Ready once it has passed and there was no progress since it was set: what there is `now` is what there was at
    /// the `last` look. Else it is put off by `patience`.
    pub(crate) fn poll_stalled<T: PartialEq>(
        &mut self,
        cx: &mut Context<'_>,
        patience: impl Fn(Instant) -> Duration,
        last: &mut T,
        now: T,
    ) -> Poll<()> {
        ready!(self.poll(cx));
        if *last == now {
            return Poll::Ready(());
        }
        *last = now;
        let instant = Instant::now();
        self.set(instant, patience(instant));
        // Not ready, unless there is no patience left; so it wakes us.
        self.poll(cx)
    }

    /// Ready once it has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_passes_where_it_was_set_last() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start, 10 * SECOND);
        for seconds in [20, 5, 30] {
            deadline.set(start, seconds * SECOND);
        }
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), 30 * SECOND);
        deadline.set(Instant::now(), SECOND);
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), 31 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_puts_it_off_no_longer_than_there_is_patience() {
        let start = Instant::now();
        let end = start + 25 * SECOND;
        let patience = |now: Instant| end.saturating_duration_since(now).min(10 * SECOND);
        let mut deadline = Deadline::new(start, patience(start));
        let mut last = 1;
        let progress = || start.elapsed().as_secs();
        std::future::poll_fn(|cx| deadline.poll_stalled(cx, patience, &mut last, progress())).await;
        assert_eq!(start.elapsed(), 25 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_puts_it_off_and_a_stall_does_not() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start, 10 * SECOND);
        // Something happens until the twelfth second.
        let progress = || start.elapsed().as_secs().min(12);
        let mut last = progress();
        std::future::poll_fn(|cx| deadline.poll_stalled(cx, |_| 10 * SECOND, &mut last, progress())).await;
        assert_eq!(start.elapsed(), 30 * SECOND);
    }
}
