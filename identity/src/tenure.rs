//! How long a connection may be used that a certificate has authenticated.
//!
//! A certificate proves who its holder is until it ends, and no longer; so no connection may outlive by much the
//! certificates that made it. To cut it at that moment would cost the requests on it. So it takes no new ones from a
//! little before, while its peer can get another connection, and is cut a little after.

use std::time::Duration;

use jiff::Timestamp;

/// How long before the certificate's end a connection takes nothing new, at most.
const LEAD_MAX: Duration = Duration::from_secs(30);
/// Or this part of what was left of the certificate when the connection was made, if that is less.
const LEAD_PART: u32 = 8;
/// How long after the certificate's end what is under way may still take.
const GRACE: Duration = Duration::from_secs(10);

/// The time that a connection has, by its peer's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// From now on it takes nothing new.
    pub drain_from: Timestamp,
    /// Whatever is still under way is cut.
    pub cut_at: Timestamp,
}

impl Tenure {
    /// That of a connection made `now`, whose peer's certificate is valid until `not_after`.
    pub fn new(now: Timestamp, not_after: Timestamp) -> Self {
        let left = Duration::try_from(not_after.duration_since(now)).unwrap_or_default();
        let lead = (left / LEAD_PART).min(LEAD_MAX);
        Self {
            drain_from: not_after.checked_sub(lead).unwrap_or(not_after),
            cut_at: not_after.checked_add(GRACE).unwrap_or(Timestamp::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_nothing_new_before_the_end_and_is_cut_after_it() {
        let second = |second| Timestamp::from_second(second).unwrap();
        // (what is left of the certificate, how long before its end nothing new is taken)
        for (left, lead) in [(3600, 30), (240, 30), (80, 10), (8, 1), (0, 0), (-5, 0)] {
            let tenure = Tenure::new(second(1000), second(1000 + left));
            let expected =
                Tenure { drain_from: second(1000 + left - lead), cut_at: second(1000 + left + 10) };
            assert_eq!(tenure, expected, "{left}");
        }
        assert_eq!(Tenure::new(second(0), Timestamp::MAX).cut_at, Timestamp::MAX);
    }
}
