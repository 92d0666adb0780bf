//! The time of day, as one value that is handed to whoever needs it.
//!
//! Nothing else in Tidegate reads the wall clock, so a test that owns the clock owns the time: it can move an
//! hour forward and see certificates renewed, without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

/// A clock, and a handle to it: all clones show the same time.
///
/// Production uses [`Clock::system`] and never calls [`Clock::advance`]: that is for tests and drills.
#[derive(Clone, Debug)]
pub struct Clock {
    base: Base,
    offset: Arc<Offset>,
}

/// How far a clock is ahead of its base. Read with every request, so without a lock.
#[derive(Debug, Default)]
struct Offset {
    micros: AtomicU64,
    /// Told after each change.
    changed: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
enum Base {
    System,
    Runtime { start: Timestamp, started_at: Instant },
}

impl Clock {
    /// The system's wall clock, which may be set forward or back while we run.
    pub fn system() -> Self {
        Self { base: Base::System, offset: Arc::default() }
    }

    /// A clock that shows `start` now and moves with the tokio runtime's time, which tests can pause.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { base: Base::Runtime { start, started_at: Instant::now() }, ..Self::system() }
    }

    /// The time on this clock.
    pub fn now(&self) -> Timestamp {
        let base = match self.base {
            Base::System => system_now(),
            Base::Runtime { start, started_at } => later(start, started_at.elapsed()),
        };
        later(base, Duration::from_micros(self.offset.micros.load(Ordering::Relaxed)))
    }

    /// Waits until `duration` has passed on this clock.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(later(self.now(), duration)).await;
    }

    /// Waits until this clock shows `deadline` or later; not at all if it already does.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        let mut offset = self.offset.changed.subscribe();
        loop {
            let Ok(remaining) = Duration::try_from(deadline.duration_since(self.now())) else { return };
            if remaining.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(remaining.min(NAP_MAX)) => {}
                // Never an error: `self` holds the sender.
                _ = offset.changed() => {}
            }
        }
    }

    /// Moves this clock and all its clones forward by `duration`, counted in microseconds, and wakes their sleepers
    /// as needed.
    pub fn advance(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let ahead = |offset: u64| Some(offset.saturating_add(micros));
        let _always = self.offset.micros.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ahead);
        self.offset.changed.send_replace(());
    }
}

/// The longest uninterrupted sleep. The runtime's time stands still while a machine is suspended, and knows
/// nothing of a wall clock that was set: after a nap the sleeper looks at the clock again.
const NAP_MAX: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn system_now() -> Timestamp {
    // The two ends of the representable range are the years -9999 and 9999: out of it, no answer is right.
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX)
}

fn later(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn advancing_wakes_the_sleepers_of_all_clones() {
        let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
        let before = Instant::now();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(2 * HOUR).await;
                clock.now()
            }
        });
        tokio::task::yield_now().await;
        clock.advance(HOUR);
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(HOUR);
        assert_eq!(sleeper.await.unwrap(), Timestamp::from_second(7200).unwrap());
        assert_eq!(Instant::now(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn time_passes_without_advancing() {
        let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
        clock.sleep(HOUR).await;
        assert_eq!(clock.now(), Timestamp::from_second(3600).unwrap());
        clock.sleep_until(Timestamp::UNIX_EPOCH).await;
        assert_eq!(clock.now(), Timestamp::from_second(3600).unwrap());
    }

    #[tokio::test]
    async fn the_system_clock_can_be_ahead() {
        let clock = Clock::system();
        let start = clock.now();
        clock.clone().advance(HOUR);
        assert!(clock.now().duration_since(start) >= HOUR.try_into().unwrap());
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Timestamp::MAX);
    }
}
