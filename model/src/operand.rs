//! How a limit's key, or a field of an adapter's instance, is read from a request.
//!
//! Authors write Cedar expressions. policyd checks them and turns those that the proxy has to evaluate into
//! operands, because the proxy knows no Cedar.

use serde::{Deserialize, Serialize};

use crate::attributes::Name;
use crate::facts::Facts;
use crate::value::Value;

/// A value to be read from a request, or from its response.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operand {
    /// `principal`: the caller's id.
    Principal,
    /// `principal.namespace`, empty for a caller without one.
    PrincipalNamespace,
    /// `principal.service_account`, empty for a caller without one.
    PrincipalServiceAccount,
    /// `action`: the operation's name, else the kind of exchange.
    Action,
    /// `resource`: the service's name.
    Resource,
    /// A fact of the request.
    Context(Name),
    /// A fact of the response; only for reports.
    Response(ResponseName),
    /// A value written in the bundle.
    Literal(Value),
}

/// A fact of the response, `context.response.…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseName {
    /// `code`: the HTTP status.
    Code,
    /// `duration_ms`: from the request's head to the response's end.
    DurationMs,
    /// `request_bytes`: length of the request's body.
    RequestBytes,
    /// `response_bytes`: length of the response's body.
    ResponseBytes,
    /// `verdict`: `allow`, `deny` or `limited`; where a service only observes, also `would_deny` or `would_limit`.
    Verdict,
}

/// What came of a request, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseFacts {
    /// The HTTP status sent downstream.
    pub code: u16,
    /// Milliseconds from the request's head to the response's end.
    pub duration_ms: u64,
    /// Bytes of request body.
    pub request_bytes: u64,
    /// Bytes of response body.
    pub response_bytes: u64,
    /// `allow`, `deny` or `limited`; where a service only observes, also `would_deny` or `would_limit`.
    pub verdict: &'static str,
}

impl ResponseName {
    /// The name as it stands below `context.response`, and its variant.
    pub const ALL: [(&'static str, Self); 5] = [
        ("code", Self::Code),
        ("duration_ms", Self::DurationMs),
        ("request_bytes", Self::RequestBytes),
        ("response_bytes", Self::ResponseBytes),
        ("verdict", Self::Verdict),
    ];
}

impl Operand {
    /// The operand's value, or nothing if the request lacks it (a header not sent; a response not there yet).
    ///
    /// Of a fact that the author's schema types, the text is read as it was sent.
    pub fn read(&self, facts: &impl Facts, response: Option<&ResponseFacts>) -> Option<Value> {
        let id = facts.principal().spiffe_id();
        let text = |value: &str| Value::Text(value.to_owned());
        Some(match self {
            Self::Principal => text(facts.principal().as_str()),
            Self::PrincipalNamespace => text(id.and_then(|id| id.namespace()).unwrap_or_default()),
            Self::PrincipalServiceAccount => text(id.and_then(|id| id.service_account()).unwrap_or_default()),
            Self::Action => match facts.fact(&Name::Operation, &mut String::new()) {
                Some(operation) => operation.to_value(),
                None => text(facts.action().as_str()),
            },
            Self::Resource => text(facts.resource()),
            Self::Context(name) => facts.fact(name, &mut String::new())?.to_value(),
            Self::Response(name) => response?.read(*name),
            Self::Literal(value) => value.clone(),
        })
    }
}

impl ResponseFacts {
    fn read(&self, name: ResponseName) -> Value {
        let long = |value: u64| Value::Long(i64::try_from(value).unwrap_or(i64::MAX));
        match name {
            ResponseName::Code => Value::Long(self.code.into()),
            ResponseName::DurationMs => long(self.duration_ms),
            ResponseName::RequestBytes => long(self.request_bytes),
            ResponseName::ResponseBytes => long(self.response_bytes),
            ResponseName::Verdict => Value::Text(self.verdict.to_owned()),
        }
    }
}
