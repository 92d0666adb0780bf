//! What policyd counts.

use std::time::Duration;

use model::{Decision, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::delivery::history::Why;
use crate::proxies::State;

/// policyd's metrics.
#[derive(Debug)]
pub struct Metrics {
    checks: Family<CheckLabels, Counter>,
    check_seconds: Histogram,
    limit_outcomes: Family<LimitLabels, Counter>,
    limit_keys: Gauge,
    limit_loans: Histogram,
    proxies: Family<StateLabels, Gauge>,
    acknowledgements: Family<OutcomeLabels, Counter>,
    rollout_seconds: Histogram,
    config_bytes: Counter,
    reloads: Family<OutcomeLabels, Counter>,
    bundle_valid: Gauge,
    bundle_last_good: Gauge,
    bundle_pinned: Gauge,
    bundles_kept: Family<OutcomeLabels, Counter>,
    candidate_valid: Family<CandidateLabels, Gauge>,
    revision: Gauge,
    renewals: Family<OutcomeLabels, Counter>,
    certificate_expiry: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CandidateLabels {
    candidate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl OutcomeLabels {
    const fn of(ok: bool) -> Self {
        Self { outcome: if ok { "ok" } else { "failed" } }
    }
}

impl Metrics {
    /// Registers policyd's metrics.
    pub fn new(metrics: &daemon::Metrics) -> Self {
        // From 10 µs to about 0.3 s.
        let check_seconds = Histogram::new(exponential_buckets(10e-6, 2.0, 15));
        // From 1 ms to about 16 s.
        let rollout_seconds = Histogram::new(exponential_buckets(1e-3, 2.0, 15));
        let new = Self {
            checks: Family::default(),
            check_seconds,
            limit_outcomes: Family::default(),
            limit_keys: Gauge::default(),
            limit_loans: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            proxies: Family::default(),
            acknowledgements: Family::default(),
            rollout_seconds,
            config_bytes: Counter::default(),
            reloads: Family::default(),
            bundle_valid: Gauge::default(),
            bundle_last_good: Gauge::default(),
            bundle_pinned: Gauge::default(),
            bundles_kept: Family::default(),
            candidate_valid: Family::default(),
            revision: Gauge::default(),
            renewals: Family::default(),
            certificate_expiry: Gauge::default(),
        };
        new.register(metrics);
        new
    }

    fn register(&self, metrics: &daemon::Metrics) {
        metrics.with_registry(|registry| {
            let r = registry.sub_registry_with_prefix("tidegate_policyd");
            r.register("checks", "Decisions made, by verdict", self.checks.clone());
            r.register("check_seconds", "Time to make a decision", self.check_seconds.clone());
            r.register(
                "limit_charges",
                "Charges to mesh-wide limits, by outcome",
                self.limit_outcomes.clone(),
            );
            r.register("limit_loans", "How much proxies are lent at a time", self.limit_loans.clone());
            r.register("limit_keys", "Keys of mesh-wide limits in use", self.limit_keys.clone());
            r.register("proxies", "Proxies that watch, by how they stand", self.proxies.clone());
            r.register(
                "acknowledgements",
                "Revisions applied or refused by proxies",
                self.acknowledgements.clone(),
            );
            r.register(
                "rollout_seconds",
                "From publishing a change to the acknowledgement of the last proxy that it concerns",
                self.rollout_seconds.clone(),
            );
            r.register("config_bytes", "Configuration sent to proxies", self.config_bytes.clone());
            r.register("reloads", "Times the bundle was read again", self.reloads.clone());
            r.register("bundle_valid", "0 if the bundle on disk was refused", self.bundle_valid.clone());
            r.register(
                "bundle_last_good",
                "1 while the last good bundle serves because the source could not be used at the start",
                self.bundle_last_good.clone(),
            );
            r.register(
                "bundle_pinned",
                "1 while an operator holds a bundle in force",
                self.bundle_pinned.clone(),
            );
            r.register(
                "bundles_kept",
                "Bundles in force written to the state folder",
                self.bundles_kept.clone(),
            );
            r.register("candidate_valid", "1 if the candidate is tried", self.candidate_valid.clone());
            r.register("revision", "Number of the revision in force", self.revision.clone());
            r.register("certificate_renewals", "Tries to get a certificate", self.renewals.clone());
            r.register(
                "certificate_expiry_timestamp_seconds",
                "When the certificate ends",
                self.certificate_expiry.clone(),
            );
        });
    }

    pub(crate) fn checked(&self, decision: &Decision, took: Duration) {
        let verdict = match (decision.degraded, decision.verdict) {
            (true, _) => "degraded",
            (false, Verdict::Allow) => "allow",
            (false, Verdict::Deny) => "deny",
        };
        self.checks.get_or_create(&CheckLabels { verdict }).inc();
        self.check_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn took<'a>(&self, limits: impl Iterator<Item = &'a str>, allowed: bool) {
        let outcome = if allowed { "taken" } else { "refused" };
        for limit in limits {
            self.limit_outcomes.get_or_create(&LimitLabels { limit: limit.to_owned(), outcome }).inc();
        }
    }

    pub(crate) fn lent(&self, limit: &str, amount: u64) {
        let outcome = if amount > 0 { "lent" } else { "refused" };
        self.limit_outcomes.get_or_create(&LimitLabels { limit: limit.to_owned(), outcome }).inc();
        #[expect(clippy::cast_precision_loss, reason = "a histogram is not exact")]
        self.limit_loans.observe(amount as f64);
    }

    pub(crate) fn limit_keys(&self, count: usize) {
        self.limit_keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many proxies stand how.
    pub fn proxies(&self, counts: &[(State, usize)]) {
        for (state, count) in counts {
            let gauge = self.proxies.get_or_create(&StateLabels { state: state.as_str() }).clone();
            gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn rolled_out(&self, took: Duration) {
        self.rollout_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn config_sent(&self, bytes: usize) {
        self.config_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn acknowledged(&self, applied: bool) {
        self.acknowledgements.get_or_create(&OutcomeLabels::of(applied)).inc();
    }

    pub(crate) fn reloaded(&self, ok: bool) {
        self.reloads.get_or_create(&OutcomeLabels::of(ok)).inc();
        self.bundle_valid.set(i64::from(ok));
    }

    pub(crate) fn in_force(&self, why: Why) {
        self.bundle_last_good.set(i64::from(why == Why::LastGood));
        self.bundle_pinned.set(i64::from(why == Why::Pinned));
    }

    pub(crate) fn kept(&self, ok: bool) {
        self.bundles_kept.get_or_create(&OutcomeLabels::of(ok)).inc();
    }

    /// A candidate was read, and is tried or refused.
    pub fn candidate(&self, name: &str, tried: bool) {
        self.candidate_valid
            .get_or_create(&CandidateLabels { candidate: name.to_owned() })
            .set(i64::from(tried));
    }

    pub(crate) fn published(&self, number: u64) {
        self.revision.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn identity(&self, event: &identity::client::Event<'_>) {
        use identity::client::Event::{Attested, Failed, Renewed};
        if let Attested(identity) | Renewed(identity) = event {
            self.certificate_expiry.set(identity.svid.not_after.as_second());
        }
        self.renewals.get_or_create(&OutcomeLabels::of(!matches!(event, Failed { .. }))).inc();
    }
}
