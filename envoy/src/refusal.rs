//! Why a request may not pass, and what its caller is told: what a sidecar would tell it.

use api::ext_authz::Answer;
use model::head::{HEAD_MAX, HEADERS_MAX, TARGET_MAX};
use model::path::PathError;
use model::refused::{POLICY, Refused};
use model::{Decision, TrustDomain};
use serde_json::Map;

use crate::token;

/// Why a request may not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Its route is for a service that is not there.
    #[error("no service of the mesh is called `{0}`")]
    NoSuchService(String),
    /// Nothing says which service it is for.
    #[error("nothing says which service of the mesh `{0}` is")]
    WhichService(String),
    /// The service takes raw connections alone.
    #[error("`{0}` takes raw connections, and no requests")]
    NoRequests(String),
    /// Its caller showed a certificate of somebody else's.
    #[error("the caller's certificate is none of a workload of `{0}`")]
    Caller(TrustDomain),
    /// Its caller has no IP address that is known.
    #[error("the caller has no IP address that is known")]
    NoAddress,
    /// Its path, or its query, has no single reading.
    #[error("{0}")]
    Path(#[from] PathError),
    /// Its path would go on in another form than policies see.
    #[error("the path is not in its normal form")]
    NotNormal,
    /// Its target is no URI, or has a fragment.
    #[error("the request target is not well-formed")]
    Target,
    /// Its target is too long.
    #[error("the request target is longer than {TARGET_MAX} bytes")]
    TargetTooLong,
    /// Its head is too large.
    #[error("the request's head is longer than {HEAD_MAX} bytes or has more than {HEADERS_MAX} headers")]
    HeadTooLarge,
    /// The method is CONNECT.
    #[error("CONNECT is not supported")]
    Connect,
    /// Its host is none.
    #[error("the `Host` is not a host name or address with an optional port")]
    Host,
    /// A header's value is no text.
    #[error("a header's value is neither visible ASCII nor UTF-8")]
    HeaderValue,
    /// It is a call of gRPC with more than one content type.
    #[error("the call has more than one `Content-Type`")]
    ContentTypes,
    /// Its cookies can't be told apart.
    #[error("there may be several lines of cookies, which were put together by commas")]
    Cookies,
    /// Its token is no good.
    #[error("{0}")]
    Token(#[from] token::Wrong),
    /// Policies deny it.
    #[error("{}", .0.denial())]
    Denied(Box<Decision>),
}

impl Refusal {
    /// The code that programs read.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NoSuchService(_) | Self::WhichService(_) => "no_such_service",
            Self::NoRequests(_) => "no_requests",
            Self::Caller(_) => "unknown_caller",
            Self::TargetTooLong => "uri_too_long",
            Self::HeadTooLarge => "headers_too_large",
            Self::Connect => "method_not_allowed",
            Self::Token(wrong) => wrong.code(),
            Self::Denied(_) => "denied",
            _ => "bad_request",
        }
    }

    /// The status of the answer.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::NoSuchService(_) | Self::WhichService(_) | Self::Caller(_) | Self::Denied(_) => 403,
            Self::NoRequests(_) => 421,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::Connect => 405,
            Self::Token(wrong) => wrong.status(),
            _ => 400,
        }
    }

    /// What an operator has to write so that such requests can be decided on, if it is the configuration that is wrong.
    pub(crate) const fn fix(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoSuchService(_) => {
                "declare the service in mesh.yaml, or correct the `service` that the route in Envoy names"
            }
            Self::WhichService(_) => {
                "name it by `context_extensions: {service: NAME}` of Envoy's route; or give Envoy the service's certificate; or set `envoy.service_by_host` if Envoy's routes go by the host"
            }
            Self::Caller(_) => "have Envoy verify its callers by the mesh's trust bundle alone",
            Self::NoAddress => {
                "by plain HTTP, set `use_remote_address` in Envoy, and `x-forwarded-for` among `allowed_headers`"
            }
            Self::NotNormal => {
                "set `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action` in Envoy"
            }
            Self::Cookies => "set `encode_raw_headers` of Envoy's ext_authz",
            Self::Token(token::Wrong::Unverified) => {
                "have Envoy's jwt_authn verify tokens, with `payload_in_metadata` as the bundle calls the issuer, and name `envoy.filters.http.jwt_authn` in `metadata_context_namespaces`"
            }
            _ => return None,
        })
    }

    /// What is answered. The policy is told if its caller may know; a call of gRPC gets the words alone, for these become
    /// its message.
    pub(crate) fn answer(&self, request_id: &str, tells_policy: bool, is_call: bool) -> Answer {
        let decision = match self {
            Self::Denied(decision) if tells_policy => Some(decision),
            _ => None,
        };
        let message = match self {
            // Whoever is not told the policy is not told its words either.
            Self::Denied(_) if !tells_policy => model::decision::UNEXPLAINED.to_owned(),
            refusal => refusal.to_string(),
        };
        let policy = decision.map(|decision| decision.reasons.as_slice());
        let body = if is_call {
            message
        } else {
            Refused { error: self.code(), message: &message, policy, request_id }.to_json()
        };
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let determined = decision.map(|decision| decision.determined_by());
        // What can't stand in a header is in the body.
        headers.extend(determined.filter(|names| is_field(names)).map(|names| (POLICY.to_owned(), names)));
        if let Self::Token(wrong) = self {
            headers.push(("www-authenticate".to_owned(), wrong.challenge()));
        }
        Answer { status: self.status(), headers, body, removed: Vec::new(), told: Map::new() }
    }
}

/// Whether `text` may be a header's value (RFC 9110 5.5).
fn is_field(text: &str) -> bool {
    text.bytes().all(|byte| byte >= 0x20 && byte != 0x7f)
}
