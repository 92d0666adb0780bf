//! What this proxy counts.

use std::fmt;

use identity::Svid;
use model::{Decision, Revision};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::check::Source;
use crate::pool::Security;
use crate::tcp;

/// Every metric of a proxy; clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    inbound: Family<SecurityLabels, Counter>,
    /// Two of these: requests by mutual TLS, and in the clear.
    mutual: Counter,
    in_the_clear: Counter,
    decisions: Family<DecisionLabels, Counter>,
    shadow_decisions: Family<ShadowLabels, Counter>,
    limit_outcomes: Family<LimitLabels, Counter>,
    ejections: Family<EndpointLabels, Counter>,
    renewals: Family<OutcomeLabels, Counter>,
    open_connections: Family<DirectionLabels, Gauge>,
    full: Family<DirectionLabels, Counter>,
    not_accepted: Family<DirectionLabels, Counter>,
    cache_entries: Gauge,
    certificate_expiry: Gauge,
    policyd_connected: Gauge,
    policy_stale: Gauge,
    config_revision: Gauge,
    dropped_log_lines: Family<LogLabels, Counter>,
    /// Of raw connections.
    pub tcp: tcp::Metrics,
}

/// Direction, service, operation and status of a request.
pub(crate) type Answered<'a> = (&'static str, &'a str, &'a str, u16);

/// Where the last request of a connection was counted: most are like the one before, so that nothing has to be looked
/// up, and no label written.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    answered: Option<(RequestLabels, Counter, Histogram)>,
    decided: Option<(DecisionLabels, Counter)>,
    charged: Option<(LimitLabels, Counter)>,
}

/// Keeps a connection counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: &'static str,
    service: String,
    operation: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    direction: &'static str,
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    verdict: &'static str,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabels {
    service: String,
    shadow: String,
    verdict: &'static str,
    differs: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    service: String,
    instance: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogLabels {
    log: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecurityLabels {
    tls: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

impl Metrics {
    /// Metrics that are shown by `shown`.
    pub(crate) fn new(shown: &daemon::metrics::Metrics) -> Self {
        let durations = Family::new_with_constructor(new_histogram as fn() -> Histogram);
        let inbound = Family::<SecurityLabels, Counter>::default();
        let metrics = Self {
            requests: Family::default(),
            durations,
            mutual: inbound.get_or_create_owned(&SecurityLabels { tls: Security::Mutual.as_str() }),
            in_the_clear: inbound.get_or_create_owned(&SecurityLabels { tls: Security::None.as_str() }),
            inbound,
            decisions: Family::default(),
            shadow_decisions: Family::default(),
            limit_outcomes: Family::default(),
            ejections: Family::default(),
            renewals: Family::default(),
            open_connections: Family::default(),
            full: Family::default(),
            not_accepted: Family::default(),
            cache_entries: Gauge::default(),
            certificate_expiry: Gauge::default(),
            policyd_connected: Gauge::default(),
            policy_stale: Gauge::default(),
            config_revision: Gauge::default(),
            dropped_log_lines: Family::default(),
            tcp: tcp::Metrics::default(),
        };
        metrics.register(shown);
        metrics
    }

    fn register(&self, shown: &daemon::metrics::Metrics) {
        shown.with_registry(|all| {
            let all = all.sub_registry_with_prefix("tidegate");
            all.register("requests", "Requests answered", self.requests.clone());
            all.register(
                "request_duration_seconds",
                "From a request's head to its response's end",
                self.durations.clone(),
            );
            all.register("inbound_requests", "Requests from other sidecars", self.inbound.clone());
            all.register("decisions", "Decisions made", self.decisions.clone());
            all.register(
                "shadow_decisions",
                "What other policies would have decided",
                self.shadow_decisions.clone(),
            );
            all.register("limit_outcomes", "Requests charged to a limit", self.limit_outcomes.clone());
            all.register("upstream_ejections", "Times an endpoint was left out", self.ejections.clone());
            all.register("certificate_renewals", "Tries to get the next certificate", self.renewals.clone());
            all.register("open_connections", "Connections accepted and open", self.open_connections.clone());
            all.register("connections_full", "Times a caller had to wait for room", self.full.clone());
            all.register(
                "accept_failures",
                "Connections that could not be accepted",
                self.not_accepted.clone(),
            );
            all.register("decision_cache_entries", "Cached decisions", self.cache_entries.clone());
            all.register(
                "certificate_expiry_timestamp_seconds",
                "When the certificate ends",
                self.certificate_expiry.clone(),
            );
            all.register(
                "policyd_connected",
                "1 while policyd's stream is open",
                self.policyd_connected.clone(),
            );
            all.register(
                "policy_stale",
                "1 while policyd is silent for too long to use decisions again",
                self.policy_stale.clone(),
            );
            all.register(
                "config_revision",
                "Number of the newest revision that this proxy is in step with",
                self.config_revision.clone(),
            );
            self.tcp.register(all);
            all.register("dropped_log_lines", "Lines of logs that were lost", self.dropped_log_lines.clone());
        });
    }

    /// A response has ended, to a request in a direction, to a service and its operation, with a status. The operation
    /// is one that the bundle declares, or empty.
    pub(crate) fn answered(&self, memo: &mut Memo, answered: Answered<'_>, seconds: f64) {
        let (direction, service, operation, code) = answered;
        let same = |(labels, ..): &&(RequestLabels, Counter, Histogram)| {
            (labels.direction, labels.service.as_str(), labels.operation.as_str(), labels.code) == answered
        };
        if memo.answered.as_ref().filter(same).is_none() {
            let (service, operation) = (service.to_owned(), operation.to_owned());
            let durations = DurationLabels { direction, service: service.clone() };
            let durations = self.durations.get_or_create(&durations).clone();
            let labels = RequestLabels { direction, service, operation, code };
            let requests = self.requests.get_or_create(&labels).clone();
            memo.answered = Some((labels, requests, durations));
        }
        if let Some((_, requests, durations)) = &memo.answered {
            requests.inc();
            durations.observe(seconds);
        }
    }

    /// A request has ended that came to the port for other sidecars, by mutual TLS or in the clear.
    pub(crate) fn came_in(&self, by_mutual_tls: bool) {
        if by_mutual_tls {
            self.mutual.inc()
        } else {
            self.in_the_clear.inc()
        };
    }

    /// A decision was enforced, or only observed.
    pub(crate) fn decided(&self, memo: &mut Memo, verdict: &'static str, source: Source) {
        let labels = DecisionLabels { verdict, source: source.as_str() };
        if memo.decided.as_ref().filter(|(last, _)| *last == labels).is_none() {
            let counter = self.decisions.get_or_create(&labels).clone();
            memo.decided = Some((labels, counter));
        }
        if let Some((_, counter)) = &memo.decided {
            counter.inc();
        }
    }

    /// So many decisions are cached.
    pub(crate) fn cached(&self, cached: usize) {
        self.cache_entries.set(i64::try_from(cached).unwrap_or(i64::MAX));
    }

    /// A decision on `service` was made, and this is what other policies would have said.
    pub(crate) fn shadowed(&self, service: &str, decision: &Decision) {
        for shadow in &decision.shadows {
            let labels = ShadowLabels {
                service: service.to_owned(),
                shadow: shadow.name.clone(),
                verdict: shadow.verdict.as_str(),
                differs: if shadow.verdict == decision.verdict { "no" } else { "yes" },
            };
            self.shadow_decisions.get_or_create(&labels).inc();
        }
    }

    /// A request was charged to `limit`: `allowed`, `limited`, `would_limit` or `unavailable`.
    pub(crate) fn charged(&self, memo: &mut Memo, limit: &str, outcome: &'static str) {
        let same = |(last, _): &&(LimitLabels, Counter)| last.limit == limit && last.outcome == outcome;
        if memo.charged.as_ref().filter(same).is_none() {
            let labels = LimitLabels { limit: limit.to_owned(), outcome };
            let counter = self.limit_outcomes.get_or_create(&labels).clone();
            memo.charged = Some((labels, counter));
        }
        if let Some((_, counter)) = &memo.charged {
            counter.inc();
        }
    }

    /// An endpoint is left out for a while.
    pub(crate) fn ejected(&self, service: &str, instance: &str) {
        let labels = EndpointLabels { service: service.to_owned(), instance: instance.to_owned() };
        self.ejections.get_or_create(&labels).inc();
    }

    /// A certificate came.
    pub(crate) fn certified(&self, svid: &Svid) {
        self.renewals.get_or_create(&OutcomeLabels { outcome: "ok" }).inc();
        self.certificate_expiry.set(svid.not_after.as_second());
    }

    /// A certificate did not come.
    pub(crate) fn certificate_failed(&self) {
        self.renewals.get_or_create(&OutcomeLabels { outcome: "failed" }).inc();
    }

    /// The stream from policyd was opened or has ended.
    pub(crate) fn policyd_connected(&self, connected: bool) {
        self.policyd_connected.set(connected.into());
    }

    /// policyd has been silent for too long, or speaks again.
    pub(crate) fn stale(&self, stale: bool) {
        self.policy_stale.set(stale.into());
    }

    /// All that policyd said up to a revision is in use.
    pub(crate) fn configured(&self, revision: Revision) {
        self.config_revision.set(i64::try_from(revision.number).unwrap_or(i64::MAX));
    }

    /// Counts the lines of the log called `log` that are lost.
    pub(crate) fn dropped_log_lines(&self, log: &'static str) -> Counter {
        self.dropped_log_lines.get_or_create(&LogLabels { log }).clone()
    }

    /// There was no room for another connection.
    pub(crate) fn full(&self, direction: &'static str) {
        self.full.get_or_create(&DirectionLabels { direction }).inc();
    }

    /// A connection could not be accepted.
    pub(crate) fn not_accepted(&self, direction: &'static str) {
        self.not_accepted.get_or_create(&DirectionLabels { direction }).inc();
    }

    /// A connection was accepted.
    pub(crate) fn connection_opened(&self, direction: &'static str) -> OpenConnection {
        let gauge = self.open_connections.get_or_create(&DirectionLabels { direction }).clone();
        gauge.inc();
        OpenConnection(gauge)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// From half a millisecond to 16 seconds.
fn new_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}
