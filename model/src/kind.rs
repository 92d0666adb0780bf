//! The types that a text of a request can be read as: a header, a query parameter, a cookie or a claim, for which
//! the author's schema says another type than `String`.
//!
//! This is the one place that reads them, for the proxy's atoms and for policyd's requests alike. It reads the
//! forms that Cedar's own functions read, such as `decimal("1.5")`.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::civil;
use serde::{Deserialize, Serialize};

use crate::value::{Fact, Texts};

/// A type, by its Cedar name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `String`: any text.
    #[default]
    Text,
    /// `Bool`: `true` or `false`.
    Bool,
    /// `Long`: `-12`.
    Long,
    /// `decimal`: `-1.5`, with one to four digits after the point.
    Decimal,
    /// `datetime`: `2026-01-31`, `2026-01-31T23:59:59Z`, `2026-01-31T23:59:59.123+0100`.
    Time,
    /// `duration`: `-1d2h3m4s5ms`, in this order, each part optional.
    Duration,
    /// `ipaddr`: `10.0.0.1`, `2001:db8::1`, or a range such as `10.0.0.0/8`.
    Ip,
    /// `Set<String>`: texts between commas.
    Texts,
}

/// The longest text that Cedar reads as an address.
const IP_LENGTH_MAX: usize = 43;
const MINUTE_MS: i64 = 60_000;

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Text,
        Self::Bool,
        Self::Long,
        Self::Decimal,
        Self::Time,
        Self::Duration,
        Self::Ip,
        Self::Texts,
    ];

    /// The type's name in a Cedar schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "String",
            Self::Bool => "Bool",
            Self::Long => "Long",
            Self::Decimal => "decimal",
            Self::Time => "datetime",
            Self::Duration => "duration",
            Self::Ip => "ipaddr",
            Self::Texts => "Set<String>",
        }
    }

    /// The value that `text` is, if it has the form of this type. O(length).
    pub fn read(self, text: &str) -> Option<Fact<'_>> {
        match self {
            Self::Text => Some(Fact::Text(text)),
            Self::Bool => text.parse().ok().map(Fact::Bool),
            Self::Long => long(text).map(Fact::Long),
            Self::Decimal => decimal(text).map(Fact::Decimal),
            Self::Time => time(text).map(Fact::Time),
            Self::Duration => duration(text).map(Fact::Duration),
            Self::Ip => network(text).map(|network| {
                if network.prefix_len() == network.max_prefix_len() {
                    Fact::Ip(network.addr())
                } else {
                    Fact::Range(network)
                }
            }),
            Self::Texts => Some(Fact::Texts(Texts::List(text))),
        }
    }
}

fn long(text: &str) -> Option<i64> {
    // The standard library would also read `+1`.
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn decimal(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.')?;
    let negative = whole.starts_with('-');
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if !is_number(digits) || !is_number(part) || part.len() > 4 {
        return None;
    }
    let padding = 10_i64.checked_pow(4_u32.checked_sub(u32::try_from(part.len()).ok()?)?)?;
    let part = part.parse::<i64>().ok()?.checked_mul(padding)?;
    let whole = whole.parse::<i64>().ok()?.checked_mul(10_000)?;
    if negative { whole.checked_sub(part) } else { whole.checked_add(part) }
}

fn time(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [year, month, day] = fields(date, ['-', '-'], [4, 2, 2])?;
    let small = |number: i64| i8::try_from(number).ok();
    let date = civil::Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()?;
    if rest.is_empty() {
        return millis(date.at(0, 0, 0, 0), 0, 0);
    }
    let (clock, zone) = rest.strip_prefix('T')?.split_at_checked(8)?;
    let [hour, minute, second] = fields(clock, [':', ':'], [2, 2, 2])?;
    let clock = civil::Time::new(small(hour)?, small(minute)?, small(second)?, 0).ok()?;
    let (milli, zone) = match zone.strip_prefix('.') {
        Some(rest) => {
            let (digits, zone) = rest.split_at_checked(3)?;
            (number(digits)?, zone)
        }
        None => (0, zone),
    };
    millis(date.to_datetime(clock), milli, offset_minutes(zone)?)
}

/// `Z`, `+hhmm` or `-hhmm`.
fn offset_minutes(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_at_checked(2)?;
    if minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

fn millis(time: civil::DateTime, milli: i64, offset_minutes: i64) -> Option<i64> {
    let since = time.duration_since(civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    since.as_secs().checked_mul(1000)?.checked_add(milli)?.checked_sub(offset_minutes.checked_mul(MINUTE_MS)?)
}

/// Three numbers of exactly so many digits, with `between` them.
fn fields(text: &str, between: [char; 2], lengths: [usize; 3]) -> Option<[i64; 3]> {
    let (first, rest) = text.split_once(between[0])?;
    let (second, third) = rest.split_once(between[1])?;
    let parts = [first, second, third];
    if parts.map(str::len) != lengths {
        return None;
    }
    Some([number(first)?, number(second)?, number(third)?])
}

fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1_i128, rest),
        None => (1, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, after) = rest.split_at_checked(digits)?;
        // Minutes are not milliseconds.
        let Some(after) = after.strip_prefix(unit).filter(|after| unit != "m" || !after.starts_with('s'))
        else {
            continue;
        };
        // Signed before it is summed up: the smallest duration has no positive counterpart.
        let count = i64::try_from(sign * i128::from(count.parse::<u64>().ok()?)).ok()?;
        total = total.checked_add(count.checked_mul(length)?)?;
        rest = after;
    }
    rest.is_empty().then_some(total)
}

/// `ip("…")`, as Cedar reads it: no IPv4 address within an IPv6 one, no leading zeros.
fn network(text: &str) -> Option<IpNet> {
    if text.len() > IP_LENGTH_MAX || (text.contains(':') && text.contains('.')) {
        return None;
    }
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(IpNet::from);
    };
    if !is_number(prefix) || (prefix.starts_with('0') && prefix != "0") {
        return None;
    }
    IpNet::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}

fn number(digits: &str) -> Option<i64> {
    if is_number(digits) { digits.parse().ok() } else { None }
}

fn is_number(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_cedar_reads_them() {
        let time = |ms| Some(Fact::Time(ms));
        let table = [
            (Kind::Text, "", Some(Fact::Text(""))),
            (Kind::Bool, "true", Some(Fact::Bool(true))),
            (Kind::Bool, "TRUE", None),
            (Kind::Long, "-12", Some(Fact::Long(-12))),
            (Kind::Long, "+12", None),
            (Kind::Long, " 12", None),
            (Kind::Long, "", None),
            (Kind::Long, "9223372036854775808", None),
            (Kind::Decimal, "-0.5", Some(Fact::Decimal(-5000))),
            (Kind::Decimal, "12.3401", Some(Fact::Decimal(123_401))),
            (Kind::Decimal, "-922337203685477.5808", Some(Fact::Decimal(i64::MIN))),
            (Kind::Decimal, "922337203685477.5808", None),
            (Kind::Decimal, "1", None),
            (Kind::Decimal, "1.", None),
            (Kind::Decimal, "1.00000", None),
            (Kind::Decimal, "--1.0", None),
            (Kind::Time, "1970-01-02", time(86_400_000)),
            (Kind::Time, "1970-01-01T00:00:01Z", time(1000)),
            (Kind::Time, "1970-01-01T00:00:00.007Z", time(7)),
            (Kind::Time, "1970-01-01T01:00:00+0100", time(0)),
            (Kind::Time, "1969-12-31T23:00:00.001-0100", time(1)),
            (Kind::Time, "0000-01-01", time(-62_167_219_200_000)),
            (Kind::Time, "2026-02-29", None),
            (Kind::Time, "1970-01-01T00:00:60Z", None),
            (Kind::Time, "1970-01-01T00:00:00", None),
            (Kind::Time, "1970-01-01T00:00:00.1Z", None),
            (Kind::Time, "1970-01-01T00:00:00+2400", None),
            (Kind::Time, "1970-01-01T00:00:00+01:00", None),
            (Kind::Duration, "1d2h3m4s5ms", Some(Fact::Duration(93_784_005))),
            (Kind::Duration, "-1m5ms", Some(Fact::Duration(-60_005))),
            (Kind::Duration, "-9223372036854775808ms", Some(Fact::Duration(i64::MIN))),
            (Kind::Duration, "9223372036854775808ms", None),
            (Kind::Duration, "5m1h", None),
            (Kind::Duration, "5", None),
            (Kind::Duration, "-", None),
            (Kind::Duration, "", None),
            (Kind::Ip, "10.0.0.1", Some(Fact::Ip("10.0.0.1".parse().unwrap()))),
            (Kind::Ip, "10.0.0.1/32", Some(Fact::Ip("10.0.0.1".parse().unwrap()))),
            (Kind::Ip, "10.0.0.1/8", Some(Fact::Range("10.0.0.1/8".parse().unwrap()))),
            (Kind::Ip, "10.0.0.1/08", None),
            (Kind::Ip, "10.0.0.1/33", None),
            (Kind::Ip, "::ffff:10.0.0.1", None),
            (Kind::Ip, "10.0.0.1:80", None),
            (Kind::Texts, "a, b", Some(Fact::Texts(Texts::List("b,a")))),
        ];
        for (kind, text, expected) in table {
            assert_eq!(kind.read(text), expected, "{text} as {}", kind.as_str());
        }
    }
}
