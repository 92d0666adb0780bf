//! Rate limits.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::FailMode;
use crate::operand::Operand;

/// The longest window of a rate: thirty days.
pub const WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A rate limit. Requests are charged to it when its `when:` holds; each key has an allowance of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limit {
    /// Its name in the bundle.
    pub name: String,
    /// Who counts.
    pub scope: Scope,
    /// How many in which time.
    pub rate: Rate,
    /// How many may come at once after a pause; the rate's count unless the bundle says otherwise.
    pub burst: NonZeroU32,
    /// What sets callers apart; empty for one allowance for all.
    pub key: Vec<Operand>,
    /// What happens when policyd, which counts mesh-wide limits, can't be reached.
    pub fail_mode: FailMode,
}

/// Who counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Each proxy by itself: N proxies admit up to N times the rate.
    Local,
    /// policyd, for all proxies together: the mesh admits the rate.
    #[default]
    Mesh,
}

/// So many in such a time, such as `100/s` or `5 per 10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many; at least one.
    pub count: NonZeroU32,
    /// The time; from a millisecond to [`WINDOW_MAX`].
    pub window: Duration,
}

/// Why a text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The form is wrong.
    #[error("write a rate as `100/s`, `100/min` or `5 per 10s`")]
    Form,
    /// The count is not 1 to 4294967295.
    #[error("the count `{0}` is not a whole number from 1 to 4294967295")]
    Count(String),
    /// The window is no duration.
    #[error("`{0}` is not a duration such as `s`, `10s`, `min`, `1h` or `1d`")]
    Window(String),
    /// The window is shorter than a millisecond or longer than [`WINDOW_MAX`].
    #[error("the window `{0}` is not between 1ms and 30d")]
    WindowRange(String),
}

impl Rate {
    /// The time after which one more is allowed.
    pub fn interval(self) -> Duration {
        self.window / self.count.get()
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, window) =
            text.split_once('/').or_else(|| text.split_once(" per ")).ok_or(RateError::Form)?;
        let (count, window) = (count.trim(), window.trim());
        let number = count.parse().map_err(|_error| RateError::Count(count.to_owned()))?;
        let duration = parse_duration(window).ok_or_else(|| RateError::Window(window.to_owned()))?;
        if duration < Duration::from_millis(1) || duration > WINDOW_MAX {
            return Err(RateError::WindowRange(window.to_owned()));
        }
        Ok(Self { count: number, window: duration })
    }
}

/// Reads `10s`, `1.5h`, `1h 30m`, and, for rates, a unit alone (`s` is one second).
pub fn parse_duration(text: &str) -> Option<Duration> {
    let bare_unit = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let text = if bare_unit { format!("1{text}") } else { text.to_owned() };
    let span: jiff::SignedDuration = match text.parse::<jiff::Span>() {
        // A day is 24 hours here: a limit or a lifetime knows no time zone.
        Ok(span) => span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?,
        Err(_) => text.parse().ok()?,
    };
    Duration::try_from(span).ok()
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {:?}", self.count, self.window)
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        format!("{} per {}ms", rate.count, rate.window.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_the_forms_people_write() {
        let rate = |count, millis| Rate {
            count: NonZeroU32::new(count).unwrap(),
            window: Duration::from_millis(millis),
        };
        let table = [
            ("100/s", rate(100, 1000)),
            ("100 / min", rate(100, 60_000)),
            ("5 per 10s", rate(5, 10_000)),
            ("1/500ms", rate(1, 500)),
            ("7/d", rate(7, 86_400_000)),
            ("7/1h", rate(7, 3_600_000)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(String::from(expected).parse(), Ok(expected));
        }
    }

    #[test]
    fn bad_rates_say_what_is_wrong() {
        assert_eq!("100".parse::<Rate>(), Err(RateError::Form));
        assert_eq!("0/s".parse::<Rate>(), Err(RateError::Count("0".into())));
        assert_eq!("-1/s".parse::<Rate>(), Err(RateError::Count("-1".into())));
        assert_eq!("1/parsec".parse::<Rate>(), Err(RateError::Window("parsec".into())));
        assert_eq!("1/1us".parse::<Rate>(), Err(RateError::WindowRange("1us".into())));
        assert_eq!("1/31d".parse::<Rate>(), Err(RateError::WindowRange("31d".into())));
    }
}
