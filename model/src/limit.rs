//! Limits: how much of what may be used, by whom, and who counts.

pub mod allowance;
pub mod amount;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use allowance::{Allowance, Period, Rate};
pub use amount::{AmountError, parse_duration};

use crate::operand::Operand;

/// A limit. Requests are charged to it when its `when:` holds; each key has an allowance of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limit {
    /// Its name in the bundle.
    pub name: String,
    /// How much may be used.
    pub allowance: Allowance,
    /// What sets callers apart; empty for one allowance for all.
    pub key: Vec<Operand>,
    /// Allowances of single keys, by the text of the key, in place of the limit's own.
    pub overrides: BTreeMap<String, Allowance>,
    /// What a request uses.
    pub cost: Cost,
    /// Who counts.
    pub mode: Mode,
    /// What happens to requests that can't be counted, because who counts can't be asked.
    pub on_store_failure: OnStoreFailure,
    /// Whether it is only told what would have been refused.
    pub shadow: bool,
    /// What a caller gets who is over the limit.
    pub refusal: Refusal,
}

impl Limit {
    /// A limit of a steady rate, whose count may come at once; everything else as where an author says nothing.
    pub fn of_rate(name: impl Into<String>, mode: Mode, rate: Rate, key: Vec<Operand>) -> Self {
        Self {
            name: name.into(),
            allowance: Allowance::Rate { rate, burst: rate.count },
            key,
            overrides: BTreeMap::new(),
            cost: Cost::default(),
            mode,
            on_store_failure: OnStoreFailure::Closed,
            shadow: false,
            refusal: Refusal::default(),
        }
    }

    /// The allowance of one key. O(log overrides).
    pub fn allowance_of(&self, key: &str) -> &Allowance {
        self.overrides.get(key).unwrap_or(&self.allowance)
    }
}

/// What a request uses of an allowance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Always so much.
    Fixed(u64),
    /// What an attribute says, at least 1. A request whose attribute can't be read as a count uses 1.
    Attribute(Operand),
    /// As many as the bytes of the request's body, known when it has ended.
    RequestBytes,
    /// As many as the bytes of the response's body, known when it has ended.
    ResponseBytes,
    /// As many as the bytes of both bodies.
    Bytes,
}

impl Cost {
    /// Whether it is known only once the response has ended. Such a request is let in while anything is left,
    /// and may leave a debt.
    pub fn is_known_after(&self) -> bool {
        matches!(self, Self::RequestBytes | Self::ResponseBytes | Self::Bytes)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

/// Who counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each proxy by itself: N proxies admit up to N times the allowance.
    Local,
    /// policyd, for all proxies together. It lends each a part of the allowance for a moment, which the proxy
    /// spends by itself.
    #[default]
    Leased,
    /// policyd, which is asked about each request.
    Exact,
}

/// What happens to requests while who counts can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// They are refused.
    Closed,
    /// They pass.
    Open,
    /// Each proxy admits its part of the allowance: that of one of as many as the service has instances.
    SafeShare,
}

/// What a caller gets who is over the limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refusal {
    /// The status, 429 unless the bundle says otherwise.
    pub status: Option<u16>,
    /// Header fields besides those that every refusal has.
    pub headers: Vec<(String, String)>,
    /// The body in place of Tidegate's own.
    pub body: Option<String>,
}
