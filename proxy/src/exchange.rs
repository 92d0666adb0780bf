//! What is remembered of one request, for metrics, the access log and reports.
//!
//! The record travels with the response's body: when the body has ended, or was given up, the record is
//! dropped, and what came of the request is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daemon::Clock;
use http::StatusCode;
use jiff::Timestamp;
use model::{Attributes, Principal, ResponseFacts, Verdict};
use tokio::time::Instant;

use crate::access_log::{AccessLog, Line};
use crate::applied::Current;
use crate::attributes::Head;
use crate::check::Checked;
use crate::decision_log::{DecisionLog, Entry};
use crate::endpoints::Endpoint;
use crate::headers::Ids;
use crate::metrics::Metrics;
use crate::respond::Refusal;

/// nginx's status for a caller that went away before the response: only in logs and metrics.
const CALLER_GONE: u16 = 499;

/// Verdicts on requests that passed because their service only observes.
const WOULD_DENY: &str = "would_deny";
const WOULD_LIMIT: &str = "would_limit";

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From another sidecar to the application.
    Inbound,
    /// From the application to a service of the mesh.
    Outbound,
    /// From outside the mesh to the application.
    Ingress,
}

impl Direction {
    /// The direction's name in logs and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Ingress => "ingress",
        }
    }
}

/// Who is told.
#[derive(Clone, Debug)]
pub(crate) struct Observers {
    pub clock: Clock,
    pub metrics: Metrics,
    pub access_log: AccessLog,
    pub decision_log: DecisionLog,
    pub current: Current,
}

/// Why a request passed for which nobody has said that it may.
#[derive(Debug)]
enum Passed {
    /// Its service is not protected: no decision was asked for.
    Off,
    /// Its service only observes, and would have refused it.
    Observed {
        /// What came of it.
        verdict: &'static str,
        /// Why it would have been refused.
        message: String,
    },
}

/// One request so far.
#[derive(Debug)]
pub(crate) struct Record {
    observers: Arc<Observers>,
    started: Instant,
    /// When its head was read.
    pub arrived: Timestamp,
    pub direction: Direction,
    pub ids: Ids,
    pub principal: Principal,
    /// The service called; empty while it is not known to be one.
    pub service: String,
    pub method: String,
    pub path: String,
    /// The service's operation that it is for.
    pub operation: Option<String>,
    /// For requests that are reported: what rules read.
    attributes: Option<Attributes>,
    checked: Option<Checked>,
    decision_time: Option<Duration>,
    /// Whether it is over a limit.
    pub limited: bool,
    passed: Option<Passed>,
    pub upstream: Option<Arc<Endpoint>>,
    pub status: u16,
    pub error: Option<&'static str>,
    pub request_bytes: Arc<AtomicU64>,
    pub response_bytes: Arc<AtomicU64>,
    complete: bool,
}

impl Record {
    /// A request that arrives now.
    pub(crate) fn begin(
        observers: &Arc<Observers>,
        direction: Direction,
        principal: Principal,
        ids: Ids,
    ) -> Self {
        Self {
            started: Instant::now(),
            arrived: observers.clock.now(),
            observers: Arc::clone(observers),
            direction,
            ids,
            principal,
            service: String::new(),
            method: String::new(),
            path: String::new(),
            operation: None,
            attributes: None,
            checked: None,
            decision_time: None,
            limited: false,
            passed: None,
            upstream: None,
            status: CALLER_GONE,
            error: None,
            request_bytes: Arc::default(),
            response_bytes: Arc::default(),
            complete: false,
        }
    }

    /// A decision was had on the request with this `head`; `asked` is when it was asked for.
    /// A deny only counts as one if the service `enforces` it.
    pub(crate) fn decided(&mut self, head: &Head<'_>, checked: &Checked, asked: Instant, enforces: bool) {
        // Once the response has ended, the head is gone.
        self.attributes = (!checked.decision.rules.is_empty()).then(|| head.to_attributes());
        self.decision_time = Some(asked.elapsed());
        let applied = self.observers.current.look();
        self.observers.decision_log.log(
            applied.enforced.as_ref().and_then(|enforced| enforced.decision_log.as_ref()),
            &Entry {
                request_id: &self.ids.request_id,
                whole: &|| head.to_attributes(),
                checked,
                enforced: enforces,
            },
        );
        self.checked = Some(checked.clone());
        let verdict = match checked.decision.verdict {
            Verdict::Deny if !enforces => WOULD_DENY,
            verdict => verdict.as_str(),
        };
        self.observers.metrics.decided(verdict, checked.source);
        self.observers.metrics.shadowed(&self.service, &checked.decision);
    }

    /// It passes without a decision.
    pub(crate) fn not_asked(&mut self) {
        self.passed = Some(Passed::Off);
    }

    /// It passes, though `refusal` would have been its answer if the service were protected.
    pub(crate) fn would_refuse(&mut self, refusal: &Refusal) {
        let verdict = match refusal {
            Refusal::Limited(_) | Refusal::LimitUnavailable { .. } => WOULD_LIMIT,
            _ => WOULD_DENY,
        };
        self.passed = Some(Passed::Observed { verdict, message: refusal.to_string() });
    }

    /// The response's head is ready.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// The response's body was passed on to its end.
    pub(crate) const fn completed(&mut self) {
        self.complete = true;
    }

    fn verdict(&self) -> Option<&'static str> {
        if let Some(Passed::Observed { verdict, .. }) = &self.passed {
            return Some(verdict);
        }
        let checked = self.checked.as_ref()?;
        Some(if self.limited { "limited" } else { checked.decision.verdict.as_str() })
    }

    fn decision_source(&self) -> Option<&'static str> {
        match (&self.checked, &self.passed) {
            (Some(checked), _) => Some(checked.source.as_str()),
            (None, Some(Passed::Off)) => Some("off"),
            (None, _) => None,
        }
    }

    fn message(&self) -> &str {
        match (&self.passed, &self.checked) {
            (Some(Passed::Observed { message, .. }), _) => message,
            (_, Some(checked)) => &checked.decision.message,
            (_, None) => "",
        }
    }

    fn log(&self, duration: Duration) {
        let decision = self.checked.as_ref().map(|checked| checked.decision.as_ref());
        let upstream = self.upstream.as_deref();
        self.observers.access_log.log(&Line {
            ts: self.arrived.to_string(),
            direction: self.direction.as_str(),
            trace_id: &self.ids.trace_id,
            request_id: &self.ids.request_id,
            principal: self.principal.as_str(),
            service: &self.service,
            method: &self.method,
            path: &self.path,
            operation: self.operation.as_deref(),
            status: self.status,
            complete: self.complete,
            error: self.error,
            verdict: self.verdict(),
            decision_source: self.decision_source(),
            reasons: decision.map_or(&[], |decision| &decision.reasons),
            message: self.message(),
            revision: decision.map(|decision| decision.revision.to_string()),
            limits: decision.map_or(&[], |decision| &decision.limits),
            shadows: decision.map_or(&[], |decision| &decision.shadows),
            upstream_instance: upstream.map(|endpoint| endpoint.instance.as_str()),
            upstream_address: upstream.map(|endpoint| endpoint.address.as_str()),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes.load(Ordering::Relaxed),
            duration_us: micros(duration),
            decision_us: self.decision_time.map(micros),
        });
    }

    fn report(&self, duration: Duration) {
        let (Some(attributes), Some(checked), Some(verdict)) =
            (&self.attributes, &self.checked, self.verdict())
        else {
            return;
        };
        let facts = ResponseFacts {
            code: self.status,
            duration_ms: micros(duration) / 1000,
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes.load(Ordering::Relaxed),
            verdict,
        };
        self.observers.current.applied().reports.fire(&checked.decision.rules, attributes, &facts);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        // A stranger's words are no label: what is not known to be a service has none.
        self.observers.metrics.answered(
            self.direction.as_str(),
            &self.service,
            self.operation.as_deref(),
            self.status,
            duration.as_secs_f64(),
        );
        self.log(duration);
        self.report(duration);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
