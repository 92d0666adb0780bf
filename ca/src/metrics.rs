//! What Prometheus is told.

use std::sync::atomic::{AtomicI64, AtomicU64};

use daemon::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::authority::Authority;

/// The CA's metrics.
#[derive(Debug)]
pub struct CaMetrics {
    /// Certificates given out, by [`crate::ledger::Kind`].
    pub issued: Family<KindLabel, Counter<u64, AtomicU64>>,
    /// Calls refused, by [`crate::registry::Refusal::reason`].
    pub refused: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    /// How long one certificate takes: check, sign, record on disk; in seconds.
    pub issue_seconds: Histogram,
    /// The end of the authorities, in seconds since 1970, by `root` and `issuing`.
    pub authority_expiry: Family<KindLabel, Gauge<i64, AtomicI64>>,
    /// Join tokens that are good and unused.
    pub tokens: Gauge<i64, AtomicI64>,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// What kind of certificate.
    pub kind: &'static str,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Why.
    pub reason: &'static str,
}

impl CaMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self {
            issued: Family::default(),
            refused: Family::default(),
            // 0.2 ms to 3 s: a disk that syncs in microseconds, to one that is in trouble.
            issue_seconds: Histogram::new(exponential_buckets(0.0002, 2.0, 15)),
            authority_expiry: Family::default(),
            tokens: Gauge::default(),
        };
        metrics.with_registry(|registry| {
            let registry = registry.sub_registry_with_prefix("tidegate_ca");
            registry.register("certificates_issued", "Certificates given out", new.issued.clone());
            registry.register("requests_refused", "Calls refused", new.refused.clone());
            let help = "Time to check, sign and record a certificate";
            registry.register("issue_duration_seconds", help, new.issue_seconds.clone());
            let help = "End of the authorities, in seconds since 1970";
            registry.register("authority_expiry_timestamp_seconds", help, new.authority_expiry.clone());
            registry.register("join_tokens_outstanding", "Join tokens good and unused", new.tokens.clone());
        });
        new
    }

    /// Shows when the authority that signs now ends.
    pub fn show_authority(&self, authority: &Authority) {
        for (kind, signer) in [("root", authority.root()), ("issuing", authority.issuing())] {
            self.authority_expiry.get_or_create(&KindLabel { kind }).set(signer.not_after().as_second());
        }
    }
}
