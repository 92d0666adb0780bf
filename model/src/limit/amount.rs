//! Amounts and times, as people write them.

use std::num::NonZeroU64;
use std::time::Duration;

/// The longest window of a rate: thirty-one days.
pub const WINDOW_MAX: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// What bytes are counted in.
const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Why a text says no amount in a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The form is wrong.
    #[error("write it as `100/s`, `100/min` or `5 per 10s`")]
    Form,
    /// The count is not 1 to 2^53 - 1, the most that every store counts exactly.
    #[error("the count `{0}` is not a whole number from 1 to 9007199254740991")]
    Count(String),
    /// The window is no duration.
    #[error("`{0}` is not a duration such as `s`, `10s`, `min`, `1h` or `1d`")]
    Window(String),
    /// The window is shorter than a millisecond or longer than [`WINDOW_MAX`].
    #[error("the window `{0}` is not between 1ms and 31d")]
    WindowRange(String),
}

/// The most that can be counted: every store, Redis's Lua with its doubles too, is exact up to here.
pub const COUNT_MAX: u64 = (1 << 53) - 1;

/// Takes `100/s` or `100 per s` apart; the count may be one of bytes, such as `10MiB`.
///
/// # Errors
/// When it has another form.
pub fn parse_amount(text: &str) -> Result<(NonZeroU64, &str), AmountError> {
    let (count, rest) = text.split_once('/').or_else(|| text.split_once(" per ")).ok_or(AmountError::Form)?;
    Ok((parse_count(count.trim())?, rest.trim()))
}

/// Reads a count, which may be one of bytes: `100`, `10MiB`, `5 GB`.
///
/// # Errors
/// When it is none, or not from 1 to [`COUNT_MAX`].
pub fn parse_count(text: &str) -> Result<NonZeroU64, AmountError> {
    let wrong = || AmountError::Count(text.to_owned());
    let in_bytes = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?.trim_end(), *size)));
    let (digits, unit) = in_bytes.unwrap_or((text, 1));
    let count: u64 = digits.parse().map_err(|_error| wrong())?;
    let count = count.checked_mul(unit).filter(|count| *count <= COUNT_MAX).ok_or_else(wrong)?;
    NonZeroU64::new(count).ok_or_else(wrong)
}

/// Reads the time of a rate.
///
/// # Errors
/// When it is none, or out of range.
pub fn parse_window(text: &str) -> Result<Duration, AmountError> {
    let window = parse_duration(text).ok_or_else(|| AmountError::Window(text.to_owned()))?;
    if window < Duration::from_millis(1) || window > WINDOW_MAX {
        return Err(AmountError::WindowRange(text.to_owned()));
    }
    Ok(window)
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

#[cfg(test)]
mod tests {
    use super::super::Rate;
    use super::*;

    #[test]
    fn rates_are_read_in_the_forms_people_write() {
        let rate = |count, millis| Rate {
            count: NonZeroU64::new(count).unwrap(),
            window: Duration::from_millis(millis),
        };
        let table = [
            ("100/s", rate(100, 1000)),
            ("100 / min", rate(100, 60_000)),
            ("5 per 10s", rate(5, 10_000)),
            ("1/500ms", rate(1, 500)),
            ("7/d", rate(7, 86_400_000)),
            ("7/1h", rate(7, 3_600_000)),
            ("10MiB/s", rate(10 << 20, 1000)),
            ("5 GB per 1d", rate(5_000_000_000, 86_400_000)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(String::from(expected).parse(), Ok(expected));
        }
    }

    #[test]
    fn bad_rates_say_what_is_wrong() {
        let count = |text: &str| Err(AmountError::Count(text.into()));
        assert_eq!("100".parse::<Rate>(), Err(AmountError::Form));
        assert_eq!("0/s".parse::<Rate>(), count("0"));
        assert_eq!("-1/s".parse::<Rate>(), count("-1"));
        assert_eq!("9007199254740992/s".parse::<Rate>(), count("9007199254740992"));
        assert_eq!("1MiBKiB/s".parse::<Rate>(), count("1MiBKiB"));
        assert_eq!("1/parsec".parse::<Rate>(), Err(AmountError::Window("parsec".into())));
        assert_eq!("1/1us".parse::<Rate>(), Err(AmountError::WindowRange("1us".into())));
        assert_eq!("1/32d".parse::<Rate>(), Err(AmountError::WindowRange("32d".into())));
    }
}
