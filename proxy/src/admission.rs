//! Whether a request to this proxy's own service may pass: the decision, the limits, and what the service's
//! enforcement makes of them.
//!
//! Under `observe` everything goes its way as under `enforce`, up to the refusal: that is told, and the request
//! passes. The response says nothing of it, so that callers see no difference.

use std::sync::Arc;

use api::config::Enforcement;
use model::Verdict;
use tokio::time::Instant;

use crate::applied::{Applied, Current};
use crate::attributes::Head;
use crate::check::{Checked, Checker, Source};
use crate::exchange::Record;
use crate::http1::RequestHead;
use crate::jwt::Claims;
use crate::limits::{Balance, Outcome, Permit};
use crate::request::Proxy;
use crate::respond::Refusal;

impl Proxy {
    /// Lets a request pass, with the limits that its caller is told of, or refuses it: by what policyd said last of its
    /// service, and by what decides with that.
    pub(crate) async fn admit(
        &self,
        (current, checker): (&Current, &Checker),
        record: &mut Record<'_>,
        head: &Head<'_>,
    ) -> Result<Vec<Balance>, Refusal> {
        if current.enforcement() == Enforcement::Off {
            record.not_asked();
            return Ok(Vec::new());
        }
        let asked = Instant::now();
        let checked = checker.decide(head, head.time, Head::to_attributes).await;
        // Read after the decision: a request that waited for it meets the mode that came meanwhile.
        let enforces = current.enforcement() == Enforcement::Enforce;
        record.decided(current, head, &checked, (asked, enforces));
        if checked.source != Source::Hit {
            self.observers.metrics.cached(checker.cached());
        }
        let admitted = match refused(&checked) {
            None => self.charge(current, record, head, (&checked.decision.limits, enforces)).await,
            Some(refusal) => Err(refusal),
        };
        match admitted {
            admitted if enforces => admitted,
            Ok(_untold) => Ok(Vec::new()),
            Err(refusal) => {
                observe(record, &refusal);
                Ok(Vec::new())
            }
        }
    }

    /// Who the end user of a request is, by its token.
    pub(crate) async fn end_user(
        &self,
        record: &mut Record<'_>,
        applied: &Applied,
        request: &RequestHead,
    ) -> Result<Option<Arc<Claims>>, Refusal> {
        if applied.jwt.takes_none() || self.current.enforcement() == Enforcement::Off {
            return Ok(None);
        }
        let query = request.target()?.query.unwrap_or_default();
        match applied.jwt.identify(request.fields(), query, record.arrived).await {
            Ok(claims) => Ok(claims),
            Err(refused) if self.current.enforcement() == Enforcement::Enforce => Err(refused.into()),
            Err(refused) => {
                observe(record, &refused.into());
                Ok(None)
            }
        }
    }

    async fn charge(
        &self,
        current: &Current,
        record: &mut Record<'_>,
        head: &Head<'_>,
        (names, enforces): (&[String], bool),
    ) -> Result<Vec<Balance>, Refusal> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut applied = current.applied();
        if !applied.limits.know(names) {
            // The decision is newer than our configuration, which must be on its way.
            applied = current.when(|applied: &Applied| applied.limits.know(names)).await;
        }
        let outcome = applied.limits.charge(names, head, &self.policyd).await;
        match outcome {
            Outcome::Allowed(Permit { balances, usages, would_limit }) => {
                balances.iter().for_each(|balance| record.charged(&balance.limit.name, "allowed"));
                would_limit.iter().for_each(|counted| record.charged(&counted.limit().name, "would_limit"));
                record.usages = usages;
                Ok(balances)
            }
            Outcome::Limited(over) => {
                record.charged(&over.limit.name, if enforces { "limited" } else { "would_limit" });
                record.limited = true;
                Err(Refusal::Limited(over))
            }
            Outcome::Unavailable { limit, why } => {
                record.charged(&limit, "unavailable");
                Err(Refusal::LimitUnavailable { limit, why })
            }
        }
    }
}

/// Why a request is refused that was decided on so, if it is.
pub(crate) fn refused(checked: &Checked) -> Option<Refusal> {
    match (checked.decision.verdict, checked.source) {
        (Verdict::Allow, _) => None,
        (Verdict::Deny, Source::Degraded) => {
            Some(Refusal::PolicyUnavailable(checked.decision.message.clone()))
        }
        (Verdict::Deny, _) => Some(Refusal::Denied(checked.decision.clone())),
    }
}

/// Tells of a request that passes, though it would be refused.
fn observe(record: &mut Record<'_>, refusal: &Refusal) {
    tell_of(record, refusal, "would be denied", "would be refused");
    record.would_refuse(refusal);
}

/// Logs a refusal, as `denied` when policies denied the request, else as `refused`.
pub(crate) fn tell_of(record: &Record<'_>, refusal: &Refusal, denied: &str, refused: &str) {
    let (request_id, principal) = (record.request_id, record.principal.as_str());
    let (service, method, path) = (record.service, record.method, record.path);
    let error = refusal.code();
    match refusal {
        Refusal::Denied(decision) => tracing::info!(
            request_id, principal, service, method, path, policies = ?decision.reasons, revision = %decision.revision,
            degraded = decision.degraded, why = %refusal, "{denied}"
        ),
        Refusal::Upstream(upstream) => {
            let cause = upstream.cause();
            tracing::warn!(request_id, principal, service, method, path, error, cause, why = %refusal, "no answer from upstream");
        }
        _ => tracing::info!(request_id, principal, service, method, path, error, why = %refusal, "{refused}"),
    }
}
