//! How much may be used.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::amount::{AmountError, parse_amount, parse_window};

/// How much may be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowance {
    /// A steady rate, and how much of it may come at once after a pause: GCRA (the generic cell rate
    /// algorithm, ITU-T I.371), a token bucket that needs one number. In a time T no more than
    /// burst + rate × T is used.
    Rate {
        /// The rate.
        rate: Rate,
        /// How much may come at once after a pause.
        burst: NonZeroU64,
    },
    /// Never more than the count in any time as long as the window.
    Rolling(Rate),
    /// The count in each second, minute, …, month of the calendar.
    Calendar {
        /// How much.
        count: NonZeroU64,
        /// In what.
        period: Period,
        /// The time zone by whose calendar it begins: an IANA name such as `Europe/Berlin`, or `UTC`.
        zone: String,
    },
    /// So many at once.
    Concurrency(NonZeroU64),
}

/// So many in such a time, such as `100/s` or `5 per 10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many; at least one.
    pub count: NonZeroU64,
    /// The time; from a millisecond to [`WINDOW_MAX`](super::amount::WINDOW_MAX).
    pub window: Duration,
}

/// A period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, of 23 to 25 hours.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    Month,
}

impl Period {
    /// All, from the shortest.
    pub const ALL: [Self; 6] = [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

impl Allowance {
    /// The time that it is about: after it, what was used is as if it had not been. Zero for concurrency.
    pub fn window(&self) -> Duration {
        const DAY: u64 = 24 * 60 * 60;
        match self {
            Self::Rate { rate, burst } => rate.time_for(burst.get()),
            Self::Rolling(rate) => rate.window,
            Self::Calendar { period, .. } => Duration::from_secs(match period {
                Period::Second => 1,
                Period::Minute => 60,
                Period::Hour => 60 * 60,
                Period::Day => DAY,
                Period::Week => 7 * DAY,
                Period::Month => 31 * DAY,
            }),
            Self::Concurrency(_) => Duration::ZERO,
        }
    }

    /// The part of one of `parts` who count by themselves. Together they allow no more than the whole, unless it
    /// is less than one for each.
    pub fn share(&self, parts: NonZeroU64) -> Self {
        let part = |count: &NonZeroU64| NonZeroU64::new(count.get() / parts).unwrap_or(NonZeroU64::MIN);
        match self {
            Self::Rate { rate, burst } => {
                let window = rate.window.saturating_mul(u32::try_from(parts.get()).unwrap_or(u32::MAX));
                Self::Rate { rate: Rate { window, ..*rate }, burst: part(burst) }
            }
            Self::Rolling(rate) => Self::Rolling(Rate { count: part(&rate.count), ..*rate }),
            Self::Calendar { count, period, zone } => {
                Self::Calendar { count: part(count), period: *period, zone: zone.clone() }
            }
            Self::Concurrency(count) => Self::Concurrency(part(count)),
        }
    }

    /// The most that can be used at once.
    pub fn most(&self) -> u64 {
        match self {
            Self::Rate { burst, .. } => burst.get(),
            Self::Rolling(rate) => rate.count.get(),
            Self::Calendar { count, .. } | Self::Concurrency(count) => count.get(),
        }
    }
}

impl Rate {
    /// How long it takes for so much to be allowed, rounded up to nanoseconds.
    pub fn time_for(self, amount: u64) -> Duration {
        let nanos = self.window.as_nanos().saturating_mul(amount.into()).div_ceil(self.count.get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl FromStr for Rate {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, window) = parse_amount(text)?;
        Ok(Self { count, window: parse_window(window)? })
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate { rate, burst } if *burst == rate.count => write!(f, "{rate}"),
            Self::Rate { rate, burst } => write!(f, "{rate}, {burst} at once"),
            Self::Rolling(rate) => write!(f, "{} in any {:?}", rate.count, rate.window),
            Self::Calendar { count, period, zone } => write!(f, "{count} per {} ({zone})", period.as_str()),
            Self::Concurrency(count) => write!(f, "{count} at once"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {:?}", self.count, self.window)
    }
}

impl TryFrom<String> for Rate {
    type Error = AmountError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        format!("{} per {}ms", rate.count, rate.window.as_millis())
    }
}
