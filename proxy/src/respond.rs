//! Every answer that this proxy gives itself, instead of an upstream.
//!
//! A small JSON object with a stable `error` code, words for people, and the request's id to find it by.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use model::Decision;
use model::path::PathError;
use model::refused::{self, Refused};

use crate::framing::Malformed;
use crate::jwt;
use crate::limits::Balance;
use crate::upstream::UpstreamError;

/// draft-ietf-httpapi-ratelimit-headers
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Names the policies that determined a denial.
pub(crate) const POLICY: HeaderName = HeaderName::from_static(refused::POLICY);

/// Why a request gets no answer from its upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Its head is malformed.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Too many requests are under way.
    #[error("too many requests are under way here")]
    Overloaded,
    /// Its target has no single reading.
    #[error("{0}")]
    Path(#[from] PathError),
    /// It came in the clear, and its service takes such no more.
    #[error("callers of this service need a certificate")]
    InTheClear,
    /// Policies deny it.
    #[error("{}", .0.denial())]
    Denied(Arc<Decision>),
    /// No decision could be had, and the fail mode is closed.
    #[error("no policy decision can be had: {0}")]
    PolicyUnavailable(String),
    /// Its token is no good, or can't be verified.
    #[error("{0}")]
    Token(#[from] jwt::Refused),
    /// It is over a limit.
    #[error("over the limit `{}`: {}", .0.limit.name, .0.limit.allowance)]
    Limited(Balance),
    /// A limit could not be asked, and its fail mode is closed.
    #[error("the limit `{limit}` can't be checked: {why}")]
    LimitUnavailable {
        /// The limit.
        limit: String,
        /// Why.
        why: String,
    },
    /// No service has the host's name.
    #[error("no service of the mesh is called `{0}`")]
    NoSuchService(String),
    /// The service takes raw connections alone.
    #[error("`{0}` takes raw connections, and no requests: give it an address under `tcp`")]
    NoRequests(String),
    /// The service takes no raw connections.
    #[error("`{0}` does not have `protocol: tcp`, so it takes no raw connections")]
    NoConnections(String),
    /// The application listens at no such port.
    #[error("the application has no port {0} for the mesh")]
    NoSuchPort(u16),
    /// It would come back to this proxy.
    #[error("the connection was meant for `{0}`, and leads back to this proxy")]
    Loop(SocketAddr),
    /// policyd has not said yet which services there are.
    #[error("the services of the mesh are not known yet")]
    NoConfig,
    /// The upstream gave no answer.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
}

impl Refusal {
    /// The code that programs read.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Connect) => "method_not_allowed",
            Self::Malformed(Malformed::TargetTooLong) => "uri_too_long",
            Self::Malformed(Malformed::HeadTooLarge) => "headers_too_large",
            Self::Malformed(Malformed::HeadTimeout) => "request_timeout",
            Self::Malformed(_) | Self::Path(_) => "bad_request",
            Self::Overloaded => "overloaded",
            Self::InTheClear => "mtls_required",
            Self::Denied(_) => "denied",
            Self::Token(refused) => refused.code(),
            Self::PolicyUnavailable(_) => "policy_unavailable",
            Self::Limited(_) => "limited",
            Self::LimitUnavailable { .. } => "limit_unavailable",
            Self::NoSuchService(_) => "no_such_service",
            Self::NoSuchPort(_) => "no_such_port",
            Self::NoRequests(_) => "no_requests",
            Self::NoConnections(_) => "no_connections",
            Self::Loop(_) => "loop",
            Self::NoConfig => "not_ready",
            Self::Upstream(UpstreamError::NoneHealthy { .. }) => "no_healthy_upstream",
            Self::Upstream(UpstreamError::Timeout { .. }) => "upstream_timeout",
            Self::Upstream(UpstreamError::Failed { .. } | UpstreamError::Unexpected { .. }) => {
                "upstream_failed"
            }
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(malformed) => malformed.status(),
            Self::Path(_) => StatusCode::BAD_REQUEST,
            Self::Denied(_) | Self::InTheClear => StatusCode::FORBIDDEN,
            Self::Token(refused) => refused.status(),
            Self::Limited(over) => {
                let status = over.limit.refusal.status.and_then(|status| StatusCode::from_u16(status).ok());
                status.unwrap_or(StatusCode::TOO_MANY_REQUESTS)
            }
            Self::NoSuchService(_) | Self::NoSuchPort(_) => StatusCode::NOT_FOUND,
            Self::NoRequests(_) | Self::NoConnections(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Loop(_) => StatusCode::LOOP_DETECTED,
            Self::Overloaded
            | Self::PolicyUnavailable(_)
            | Self::LimitUnavailable { .. }
            | Self::NoConfig
            | Self::Upstream(UpstreamError::NoneHealthy { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(UpstreamError::Timeout { .. }) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(UpstreamError::Failed { .. } | UpstreamError::Unexpected { .. }) => {
                StatusCode::BAD_GATEWAY
            }
        }
    }
}

/// Why a request is refused, in words for its caller.
pub(crate) fn message(refusal: &Refusal, shows_policy: bool) -> String {
    match refusal {
        // Whoever is not told the policy is not told its words either.
        Refusal::Denied(_) if !shows_policy => model::decision::UNEXPLAINED.to_owned(),
        refusal => refusal.to_string(),
    }
}

/// The response to a request that is refused.
pub(crate) fn refuse(refusal: &Refusal, request_id: &str, shows_policy: bool) -> Response<Vec<u8>> {
    let decision = match refusal {
        Refusal::Denied(decision) if shows_policy => Some(decision),
        _ => None,
    };
    let reasons = decision.map(|decision| decision.reasons.as_slice());
    let message = message(refusal, shows_policy);
    let told = Refused { error: refusal.code(), message: &message, policy: reasons, request_id };
    let mut response = Response::new(told.to_json().into_bytes());
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(decision) = decision {
        set(headers, &POLICY, &decision.determined_by());
    }
    match refusal {
        Refusal::Limited(over) => {
            headers.insert(header::RETRY_AFTER, seconds(over.retry_after).into());
            tell_of_limits(headers, std::slice::from_ref(over));
            let model::limit::Refusal { headers: more, body, .. } = &over.limit.refusal;
            for (name, value) in more {
                if let Ok(name) = HeaderName::try_from(name) {
                    set(headers, &name, value);
                }
            }
            // Unless the author says otherwise.
            if body.is_some() && !more.iter().any(|(name, _)| name == "content-type") {
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                headers.insert(header::CONTENT_TYPE, text);
            }
        }
        Refusal::Overloaded => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if let Refusal::Token(refused) = refusal
        && let Some(challenge) = refused.challenge()
    {
        set(headers, &header::WWW_AUTHENTICATE, &challenge);
    }
    if let Refusal::Limited(over) = refusal
        && let Some(body) = &over.limit.refusal.body
    {
        *response.body_mut() = body.clone().into_bytes();
    }
    response
}

/// Tells the caller how much of its limits is left.
pub(crate) fn tell_of_limits(headers: &mut HeaderMap, balances: &[Balance]) {
    if let Some((policy, state)) = rate_limit(balances) {
        set(headers, &RATE_LIMIT_POLICY, &policy);
        set(headers, &RATE_LIMIT, &state);
    }
}

/// What tells the caller how much of its limits is left, `RateLimit-Policy` and `RateLimit`; nothing when it was
/// charged to none.
pub(crate) fn rate_limit(balances: &[Balance]) -> Option<(String, String)> {
    if balances.is_empty() {
        return None;
    }
    let (mut policy, mut state) = (String::with_capacity(64), String::with_capacity(64));
    for balance in balances {
        let limit = &balance.limit;
        let wait = if balance.remaining == 0 && !balance.retry_after.is_zero() {
            balance.retry_after
        } else {
            balance.reset
        };
        let wait = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        if !policy.is_empty() {
            policy.push_str(", ");
            state.push_str(", ");
        }
        quote(&limit.name, &mut policy);
        quote(&limit.name, &mut state);
        // Into memory, which takes everything.
        let _written =
            write!(policy, ";q={};w={}", limit.allowance.most(), seconds(limit.allowance.window()));
        let _written = write!(state, ";r={};t={wait}", balance.remaining);
    }
    Some((policy, state))
}

/// Sets `name` to `value`; not at all if `value` can't stand in a header.
fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whole seconds, rounded up, at least one.
fn seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

/// Writes a structured field's string (RFC 9651 3.3.3), which holds visible ASCII only.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests;
