//! Periods of the calendar: days, weeks and months of a time zone, and the hours, minutes and seconds of UTC.
//!
//! An hour of a time zone is none of these where clocks are changed: one is left out, another comes twice. So
//! periods shorter than a day are those of UTC, which every zone of whole hours shares.

use std::sync::{Mutex, PoisonError};

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use model::limit::Period;

use crate::Nanos;

/// The periods of a time zone's calendar.
#[derive(Debug)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
    /// The one asked for last: finding one costs a microsecond, and nearly all ask for the same.
    last: Mutex<Option<Span>>,
}

/// From when until when, which is when the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first nanosecond.
    pub start: Nanos,
    /// The first after it.
    pub end: Nanos,
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        self.period == other.period && self.zone == other.zone
    }
}

impl Calendar {
    /// The periods of a time zone, by its IANA name; none if there is no such zone.
    pub fn new(period: Period, zone: &str) -> Option<Self> {
        let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::get(zone).ok()? };
        Some(Self { period, zone, last: Mutex::new(None) })
    }

    /// The period that a time is in.
    pub fn at(&self, now: Nanos) -> Span {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some(span) if (span.start..span.end).contains(&now) => span,
            _ => *last.insert(self.find(now)),
        }
    }

    fn find(&self, now: Nanos) -> Span {
        const SECOND: Nanos = 1_000_000_000;
        let short = match self.period {
            Period::Second => SECOND,
            Period::Minute => 60 * SECOND,
            Period::Hour => 60 * 60 * SECOND,
            Period::Day | Period::Week | Period::Month => return self.find_days(now),
        };
        let start = now.div_euclid(short).saturating_mul(short);
        Span { start, end: start.saturating_add(short) }
    }

    fn find_days(&self, now: Nanos) -> Span {
        let time = Timestamp::from_nanosecond(now.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        let today = time.to_zoned(self.zone.clone());
        let begin = |day: Result<Zoned, jiff::Error>| day.and_then(|day| day.start_of_day()).ok();
        let (start, length) = match self.period {
            Period::Week => (begin(today.checked_sub(since_monday(&today).days())), 7.days()),
            Period::Month => (begin(today.first_of_month()), 1.month()),
            _ => (begin(Ok(today)), 1.day()),
        };
        let end = start.as_ref().and_then(|start| begin(start.checked_add(length)));
        // Where the calendar ends, a period does not: nothing comes back.
        let nanos = |time: Zoned| Nanos::try_from(time.timestamp().as_nanosecond()).ok();
        Span {
            start: start.and_then(nanos).unwrap_or(Nanos::MIN),
            end: end.and_then(nanos).unwrap_or(Nanos::MAX),
        }
    }
}

fn since_monday(day: &Zoned) -> i8 {
    day.weekday().to_monday_zero_offset()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Nanos {
        text.parse::<Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
    }

    #[test]
    fn periods_are_those_of_the_zone_also_where_clocks_change() {
        let table = [
            (Period::Second, "UTC", "2026-11-24T10:20:30.5Z", "2026-11-24T10:20:30Z", "2026-11-24T10:20:31Z"),
            (
                Period::Hour,
                "Europe/Berlin",
                "2026-10-25T01:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
            ),
            (Period::Day, "UTC", "2026-11-24T10:20:30Z", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
            // 25 hours, and 23.
            (
                Period::Day,
                "Europe/Berlin",
                "2026-10-25T12:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            (
                Period::Day,
                "Europe/Berlin",
                "2026-03-29T12:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            // A day that begins at one o'clock.
            (
                Period::Day,
                "Africa/Cairo",
                "2026-04-24T12:00:00Z",
                "2026-04-23T22:00:00Z",
                "2026-04-24T21:00:00Z",
            ),
            (Period::Week, "UTC", "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (
                Period::Month,
                "America/New_York",
                "2026-11-24T10:00:00Z",
                "2026-11-01T04:00:00Z",
                "2026-12-01T05:00:00Z",
            ),
        ];
        for (period, zone, now, start, end) in table {
            let calendar = Calendar::new(period, zone).unwrap();
            let span = calendar.at(nanos(now));
            assert_eq!(span, Span { start: nanos(start), end: nanos(end) }, "{period:?} {zone} {now}");
            assert_eq!(calendar.at(span.start), span);
            assert_eq!(calendar.at(span.end).start, span.end);
        }
        assert!(Calendar::new(Period::Day, "Europe/Atlantis").is_none());
    }
}
