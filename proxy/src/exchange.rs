//! What is remembered of one request, for metrics, the access log and reports.
//!
//! When the response has ended, or was given up, the record is dropped, and what came of the request is told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use model::{Action, Attributes, Principal, ResponseFacts, Revision, Verdict};
use tokio::time::Instant;

use crate::access_log::{AccessLog, Line};
use crate::admission;
use crate::applied::Current;
use crate::attributes::Head;
use crate::check::Checked;
use crate::decision_log::{DecisionLog, Entry};
use crate::endpoints::Endpoint;
use crate::limits::Usage;
use crate::metrics::{Memo, Metrics};
use crate::pool::Security;
use crate::respond::Refusal;
use crate::standing::{REVOKED, Revoked};

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
pub(crate) struct Record<'a> {
    observers: &'a Observers,
    memo: &'a mut Memo,
    started: Instant,
    /// When its head was read.
    pub arrived: Timestamp,
    pub direction: Direction,
    /// Whether its caller came by mutual TLS.
    is_mutual: bool,
    /// The value of `x-request-id`.
    pub request_id: &'a str,
    /// The trace id within `traceparent`.
    pub trace_id: &'a str,
    pub principal: &'a Principal,
    /// Where the caller is, as policies see it.
    pub client: IpAddr,
    /// The service called; empty while it is not known to be one.
    pub service: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    /// The service's operation that it is for.
    pub operation: Option<&'a str>,
    /// For requests that are reported: what rules read.
    attributes: Option<Attributes>,
    checked: Option<Checked>,
    decision_time: Option<Duration>,
    /// Whether it is over a limit.
    pub limited: bool,
    /// What it uses of limits until it has ended.
    pub usages: Vec<Usage>,
    passed: Option<Passed>,
    pub upstream: Option<Arc<Endpoint>>,
    pub status: u16,
    pub error: Option<&'static str>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    complete: bool,
    /// Whether it is a raw connection, and no request.
    pub is_raw: bool,
}

/// When a request arrived, who sent it, and which way it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub started: Instant,
    pub at: Timestamp,
    pub direction: Direction,
    pub principal: &'a Principal,
    /// Who sits at the other end of the connection.
    pub client: IpAddr,
    /// Whether it came by mutual TLS.
    pub is_mutual: bool,
}

impl Observers {
    /// A decision was made again, on what was let in before.
    pub(crate) fn decided_again(
        &self,
        current: &Current,
        request_id: &str,
        head: &Head<'_>,
        checked: &Checked,
    ) {
        let applied = current.look();
        let settings = applied.enforced.as_ref().and_then(|enforced| enforced.decision_log.as_ref());
        let entry = Entry { request_id, whole: &|| head.to_attributes(), checked, enforced: true };
        self.decision_log.log(settings, &entry);
        self.metrics.decided(&mut Memo::default(), checked.decision.verdict.as_str(), checked.source);
    }
}

impl<'a> Record<'a> {
    /// A request that has arrived, with its ids.
    pub(crate) const fn begin(
        observers: &'a Observers,
        memo: &'a mut Memo,
        arrival: Arrival<'a>,
        (request_id, trace_id): (&'a str, &'a str),
    ) -> Self {
        Self {
            observers,
            memo,
            started: arrival.started,
            arrived: arrival.at,
            direction: arrival.direction,
            is_mutual: arrival.is_mutual,
            request_id,
            trace_id,
            principal: arrival.principal,
            client: arrival.client.to_canonical(),
            service: "",
            method: "",
            path: "",
            operation: None,
            attributes: None,
            checked: None,
            decision_time: None,
            limited: false,
            usages: Vec::new(),
            passed: None,
            upstream: None,
            status: CALLER_GONE,
            error: None,
            request_bytes: 0,
            response_bytes: 0,
            complete: false,
            is_raw: false,
        }
    }

    /// Who is told.
    pub(crate) const fn observers(&self) -> &'a Observers {
        self.observers
    }

    /// It was charged to `limit`, with this outcome.
    pub(crate) fn charged(&mut self, limit: &str, outcome: &'static str) {
        self.observers.metrics.charged(self.memo, limit, outcome);
    }

    /// A decision was had on the request with this `head`; `asked` is when it was asked for.
    /// A deny only counts as one if the service `enforces` it.
    pub(crate) fn decided(
        &mut self,
        current: &Current,
        head: &Head<'_>,
        checked: &Checked,
        (asked, enforces): (Instant, bool),
    ) {
        // Once the response has ended, the head is gone.
        self.attributes = (!checked.decision.rules.is_empty()).then(|| head.to_attributes());
        self.decision_time = Some(asked.elapsed());
        let applied = current.look();
        self.observers.decision_log.log(
            applied.enforced.as_ref().and_then(|enforced| enforced.decision_log.as_ref()),
            &Entry {
                request_id: self.request_id,
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
        self.observers.metrics.decided(self.memo, verdict, checked.source);
        self.observers.metrics.shadowed(self.service, &checked.decision);
    }

    /// The revision of the decision; the first one if none was made.
    pub(crate) fn revision(&self) -> Revision {
        self.checked.as_ref().map(|checked| checked.decision.revision).unwrap_or_default()
    }

    /// It was decided on again, if it came to that.
    pub(crate) fn decided_again(&mut self, checked: Option<Checked>) {
        (self.checked, self.passed) = (checked, None);
    }

    /// It has ended, for it would not be let in again.
    pub(crate) fn revoked(&mut self, revoked: Revoked) {
        self.error = Some(REVOKED);
        admission::tell_of(self, &revoked.refusal, "ended: it is denied now", "ended: it is refused now");
        self.decided_again(revoked.checked);
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

    /// How the connection between sidecars, or to the ingress, was secured; nothing if there was none.
    fn security(&self) -> Option<Security> {
        match self.direction {
            Direction::Inbound | Direction::Ingress => Some(Security::of_caller(self.is_mutual)),
            Direction::Outbound => self.upstream.as_ref().map(|endpoint| endpoint.pool.security()),
        }
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
        if self.observers.access_log.is_off() {
            return;
        }
        let decision = self.checked.as_ref().map(|checked| checked.decision.as_ref());
        let upstream = self.upstream.as_deref();
        self.observers.access_log.log(&Line {
            ts: self.arrived.to_string(),
            direction: self.direction.as_str(),
            tls: self.security().map(Security::as_str),
            action: self.is_raw.then_some(Action::Tcp.as_str()),
            trace_id: self.trace_id,
            request_id: self.request_id,
            principal: self.principal.as_str(),
            client: self.client,
            service: self.service,
            method: (!self.is_raw).then_some(self.method),
            path: (!self.is_raw).then_some(self.path),
            operation: self.operation,
            status: (!self.is_raw).then_some(self.status),
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
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
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
            code: if self.is_raw { 0 } else { self.status },
            duration_ms: micros(duration) / 1000,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            verdict,
        };
        self.observers.current.applied().reports.fire(&checked.decision.rules, attributes, &facts);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        // A stranger's words are no label: what is not known to be a service has none.
        let (direction, seconds) = (self.direction.as_str(), duration.as_secs_f64());
        let answered = (direction, self.service, self.operation.unwrap_or_default(), self.status);
        if self.direction == Direction::Inbound {
            self.observers.metrics.came_in(self.is_mutual);
        }
        if !self.is_raw {
            self.observers.metrics.answered(self.memo, answered, seconds);
        }
        let (request, response) = (self.request_bytes, self.response_bytes);
        self.usages.iter_mut().for_each(|usage| usage.passed(request, response));
        self.log(duration);
        self.report(duration);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
