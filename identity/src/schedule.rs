//! When to renew, and when to try again. Pure: the CA's audit uses the same rules to say who is late.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// How far from half life a renewal may be due, as a share of half life. Certificates that were issued
/// together (a mesh that starts) are so not renewed together for ever.
pub const JITTER: f64 = 0.1;
/// The longest wait between two tries.
pub const RETRY_MAX: Duration = Duration::from_secs(30);
/// The shortest wait between two tries.
pub const RETRY_MIN: Duration = Duration::from_millis(100);

/// The wait after the first try that failed, if the cap is not lower.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Retries leave at least this many tries between half life and end.
const RETRIES_IN_LIFE: u32 = 20;

/// When a certificate is to be renewed: at half of its life, give or take [`JITTER`]. The same serial number
/// always gives the same time.
pub fn due(issued_at: Timestamp, not_after: Timestamp, serial: &str) -> Timestamp {
    let half = life(issued_at, not_after) / 2;
    let factor = 1.0 - JITTER + 2.0 * JITTER * fraction(serial, 0);
    issued_at.checked_add(half.mul_f64(factor)).unwrap_or(not_after)
}

/// How long a certificate lives. Not from `not_before`, which is set back to allow for clocks that differ.
pub fn life(issued_at: Timestamp, not_after: Timestamp) -> Duration {
    Duration::try_from(not_after.duration_since(issued_at)).unwrap_or_default()
}

/// The longest wait between two tries to renew a certificate that lives for `life`: well below what remains
/// of it.
pub fn retry_cap(life: Duration) -> Duration {
    (life / RETRIES_IN_LIFE).clamp(RETRY_MIN, RETRY_MAX)
}

/// How long to wait after `failures` tries (from 1) have failed: doubles up to `cap`, less up to half of it,
/// which `seed` decides.
pub fn backoff(failures: u32, cap: Duration, seed: &str) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(cap).mul_f64(0.5 + 0.5 * fraction(seed, failures))
}

/// A number from 0 to 1 that looks random, but is always the same for the same input.
fn fraction(seed: &str, round: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(seed.as_bytes());
    hash.update(round.to_be_bytes());
    let number = hash.finalize().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    f64::from(number) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn due_is_near_half_life_and_always_the_same(seconds in 1_i64..10_000_000, serial in "[0-9a-f]{32}") {
            let start = Timestamp::UNIX_EPOCH;
            let end = Timestamp::from_second(seconds).unwrap();
            let due_at = due(start, end, &serial);
            let share = due_at.duration_since(start).as_secs_f64() / end.duration_since(start).as_secs_f64();
            prop_assert!((0.449..=0.551).contains(&share), "{}", share);
            prop_assert_eq!(due_at, due(start, end, &serial));
        }

        #[test]
        fn backoff_stays_between_half_of_its_step_and_the_cap(failures in 1_u32..100, millis in 100_u64..30_000) {
            let cap = Duration::from_millis(millis);
            let wait = backoff(failures, cap, "seed");
            prop_assert!(wait <= cap && wait >= cap.min(RETRY_FIRST) / 2, "{:?}", wait);
        }
    }

    #[test]
    fn serials_spread_due_times_over_the_whole_range() {
        let end = Timestamp::from_second(1000).unwrap();
        let due_at = |n: i32| due(Timestamp::UNIX_EPOCH, end, &n.to_string()).as_second();
        let dues: Vec<_> = (0..100).map(due_at).collect();
        assert!(dues.iter().min() < Some(&465) && dues.iter().max() > Some(&535), "{dues:?}");
    }

    #[test]
    fn retries_fit_into_short_lives() {
        assert_eq!(retry_cap(Duration::from_secs(5)), Duration::from_millis(250));
        assert_eq!(retry_cap(Duration::from_secs(3600)), RETRY_MAX);
        assert_eq!(retry_cap(Duration::ZERO), RETRY_MIN);
    }

    #[test]
    fn a_certificate_that_ended_before_it_was_issued_is_due_at_once() {
        let issued = Timestamp::from_second(100).unwrap();
        assert_eq!(due(issued, Timestamp::UNIX_EPOCH, "1"), issued);
    }
}
