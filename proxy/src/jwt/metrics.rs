//! What is counted of tokens and key sets.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    tokens: Family<ResultLabels, Counter>,
    fetches: Family<FetchLabels, Counter>,
    fetched_at: Family<IssuerLabels, Gauge>,
}

/// What came of looking for a token in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has none.
    None,
    /// It was verified.
    Valid,
    /// It had been verified before.
    Cached,
    /// It is no good.
    Invalid,
    /// There were no keys to verify it with.
    NoKeys,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

impl Metrics {
    /// Metrics that are shown by `shown`.
    pub(crate) fn new(shown: &daemon::Metrics) -> Self {
        let metrics = Self::default();
        shown.with_registry(|all| {
            let all = all.sub_registry_with_prefix("tidegate");
            all.register("jwt", "Requests to services that take tokens", metrics.tokens.clone());
            all.register("jwks_fetches", "Tries to fetch an issuer's keys", metrics.fetches.clone());
            all.register(
                "jwks_fetched_timestamp_seconds",
                "When an issuer's keys were last fetched",
                metrics.fetched_at.clone(),
            );
        });
        metrics
    }

    /// A token was looked for.
    pub(super) fn looked(&self, outcome: Outcome) {
        let result = match outcome {
            Outcome::None => "none",
            Outcome::Valid => "valid",
            Outcome::Cached => "cached",
            Outcome::Invalid => "invalid",
            Outcome::NoKeys => "no_keys",
        };
        self.tokens.get_or_create(&ResultLabels { result }).inc();
    }

    /// The keys of `issuer` were fetched.
    pub(super) fn fetched(&self, issuer: &str, at: Timestamp) {
        self.fetch(issuer, "ok");
        self.fetched_at.get_or_create(&IssuerLabels { issuer: issuer.to_owned() }).set(at.as_second());
    }

    /// They could not be fetched.
    pub(super) fn fetch_failed(&self, issuer: &str) {
        self.fetch(issuer, "failed");
    }

    fn fetch(&self, issuer: &str, outcome: &'static str) {
        self.fetches.get_or_create(&FetchLabels { issuer: issuer.to_owned(), outcome }).inc();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
