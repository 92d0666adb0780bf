//! Steps: what is done to a fact before it is tested, such as `.toTime()` in `context.time.toTime() < duration("8h")`.
//!
//! Pure functions of one fact and literals, with Cedar's own semantics: overflow and a fact of another type are
//! errors there, and [`Lack::Error`] here.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::value::Fact;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The text is read as a type. One that can't be counts as not sent.
    Read(Kind),
    /// `.toDate()`: midnight before.
    ToDate,
    /// `.toTime()`: the time since midnight.
    ToTime,
    /// `.offset(duration("…"))`, in milliseconds.
    Offset(i64),
    /// `.durationSince(datetime("…"))`, in milliseconds since 1970.
    Since(i64),
    /// `datetime("…").durationSince(fact)`, in milliseconds since 1970.
    Until(i64),
    /// `.toMilliseconds()`
    ToMilliseconds,
    /// `.toSeconds()`, rounded towards zero as all that follow.
    ToSeconds,
    /// `.toMinutes()`
    ToMinutes,
    /// `.toHours()`
    ToHours,
    /// `.toDays()`
    ToDays,
}

/// Why there is no fact to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The request lacks it.
    Absent,
    /// A step failed.
    Error,
}

const DAY_MS: i64 = 86_400_000;

impl Step {
    /// The fact after this step.
    ///
    /// # Errors
    /// When a text can't be read, the fact is not of the step's type, or a number overflows.
    pub fn on(self, fact: Fact<'_>) -> Result<Fact<'_>, Lack> {
        let done = match (self, fact) {
            (Self::Read(kind), Fact::Text(text)) => return kind.read(text).ok_or(Lack::Absent),
            (Self::ToDate, Fact::Time(ms)) => ms.checked_sub(ms.rem_euclid(DAY_MS)).map(Fact::Time),
            (Self::ToTime, Fact::Time(ms)) => Some(Fact::Duration(ms.rem_euclid(DAY_MS))),
            (Self::Offset(by), Fact::Time(ms)) => ms.checked_add(by).map(Fact::Time),
            (Self::Since(start), Fact::Time(ms)) => ms.checked_sub(start).map(Fact::Duration),
            (Self::Until(end), Fact::Time(ms)) => end.checked_sub(ms).map(Fact::Duration),
            (Self::ToMilliseconds, Fact::Duration(ms)) => Some(Fact::Long(ms)),
            (Self::ToSeconds, Fact::Duration(ms)) => Some(Fact::Long(ms / 1000)),
            (Self::ToMinutes, Fact::Duration(ms)) => Some(Fact::Long(ms / 60_000)),
            (Self::ToHours, Fact::Duration(ms)) => Some(Fact::Long(ms / 3_600_000)),
            (Self::ToDays, Fact::Duration(ms)) => Some(Fact::Long(ms / DAY_MS)),
            _ => None,
        };
        done.ok_or(Lack::Error)
    }

    /// All of `steps`, one after the other.
    ///
    /// # Errors
    /// As the first that fails.
    pub fn all<'a>(steps: &[Self], fact: Fact<'a>) -> Result<Fact<'a>, Lack> {
        steps.iter().try_fold(fact, |fact, step| step.on(fact))
    }

    /// Whether what this step makes of a time that passes stays the same for a minute or longer.
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::ToDate | Self::ToMinutes | Self::ToHours | Self::ToDays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_cedar() {
        use Fact::{Duration, Long, Time};
        let table = [
            (Step::ToDate, Time(DAY_MS + 5), Ok(Time(DAY_MS))),
            (Step::ToDate, Time(-1), Ok(Time(-DAY_MS))),
            (Step::ToDate, Time(i64::MIN), Err(Lack::Error)),
            (Step::ToTime, Time(-1), Ok(Duration(DAY_MS - 1))),
            (Step::ToTime, Time(-DAY_MS), Ok(Duration(0))),
            (Step::ToTime, Long(1), Err(Lack::Error)),
            (Step::Offset(-2), Time(1), Ok(Time(-1))),
            (Step::Offset(1), Time(i64::MAX), Err(Lack::Error)),
            (Step::Since(5), Time(7), Ok(Duration(2))),
            (Step::Since(1), Time(i64::MIN), Err(Lack::Error)),
            (Step::Until(5), Time(7), Ok(Duration(-2))),
            (Step::ToMilliseconds, Duration(-7), Ok(Long(-7))),
            (Step::ToSeconds, Duration(-1999), Ok(Long(-1))),
            (Step::ToMinutes, Duration(119_999), Ok(Long(1))),
            (Step::ToHours, Duration(3_600_000), Ok(Long(1))),
            (Step::ToDays, Duration(DAY_MS), Ok(Long(1))),
            (Step::ToDays, Time(DAY_MS), Err(Lack::Error)),
            (Step::Read(Kind::Long), Fact::Text("7"), Ok(Long(7))),
            (Step::Read(Kind::Long), Fact::Text("seven"), Err(Lack::Absent)),
        ];
        for (step, fact, expected) in table {
            assert_eq!(step.on(fact), expected, "{step:?} on {fact:?}");
        }
        let hours = [Step::Offset(3_600_000), Step::ToTime, Step::ToHours];
        assert_eq!(Step::all(&hours, Time(DAY_MS - 1)), Ok(Long(0)));
    }
}
