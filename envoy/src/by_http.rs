//! The question by plain HTTP: a request whose method, path and headers are those of the request to decide on.
//!
//! Its path begins with a prefix and the service's name, both of which Envoy's `path_prefix` puts before the stranger's own
//! path: `/ext_authz/reviews` makes `/ext_authz/reviews/products/1` of `/products/1`. Who calls, and from where, stands in
//! headers that Envoy sets.

use std::sync::Arc;

use api::ext_authz::{Answer, Asked};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::client_cert;
use crate::decide::Decider;
use crate::door::Asks;
use crate::refusal::Refusal;

const CLIENT_CERT: &str = "x-forwarded-client-cert";
const FORWARDED_FOR: &str = "x-forwarded-for";
/// By which Envoy is told what the service is not to get.
const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// What the filter says to policyd, not its caller.
const OF_THE_QUESTION: [&str; 3] = ["content-length", "x-envoy-expected-rq-timeout-ms", "x-envoy-internal"];

/// What answers such questions at one door.
#[derive(Debug)]
pub(crate) struct ByHttp {
    prefix: String,
    decider: Arc<Decider>,
    asks: Asks,
}

impl ByHttp {
    pub(crate) fn new(prefix: &str, decider: &Arc<Decider>, asks: Asks) -> Arc<Self> {
        Arc::new(Self { prefix: format!("{prefix}/"), decider: Arc::clone(decider), asks })
    }

    /// The answer: 200 lets the request pass, anything else is what its caller gets.
    pub(crate) async fn answer(&self, request: Request) -> Response {
        let (parts, _unread) = request.into_parts();
        let Some((service, target)) = self.take_apart(&parts) else {
            let told =
                format!("Envoy's `path_prefix` has to be `{}NAME`, with a service's name\n", self.prefix);
            return (StatusCode::NOT_FOUND, told).into_response();
        };
        let ours = self.decider.current.get().bundle.mesh.trust_domain.clone();
        let asked = asked(&parts, service, target);
        let principal = match values(&parts.headers, CLIENT_CERT).as_slice() {
            [] => Ok(String::new()),
            [line] => client_cert::uri(line, &ours).map(str::to_owned),
            _ => Err(Refusal::Caller(ours)),
        };
        // What can't be read is no workload's name, and refused for that.
        let principal = principal.unwrap_or_else(|refusal| refusal.to_string());
        let who = match self.asks.who(&parts.extensions) {
            Ok(who) => who,
            Err(stranger) => {
                return (StatusCode::INTERNAL_SERVER_ERROR, format!("{stranger}\n")).into_response();
            }
        };
        match self.decider.decide(&Asked { principal, ..asked }, &who).await {
            Ok(answer) => response(answer),
            // Of the statuses of 5xx Envoy says that the question was not answered.
            Err(stranger) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{stranger}\n")).into_response(),
        }
    }

    /// The service's name, and what the stranger asked for.
    fn take_apart<'p>(&self, parts: &'p Parts) -> Option<(&'p str, &'p str)> {
        let whole = parts.uri.path_and_query()?.as_str();
        let rest = whole.strip_prefix(self.prefix.as_str())?;
        let (service, target) = rest.split_at_checked(rest.find('/')?)?;
        (!service.is_empty()).then_some((service, target))
    }
}

fn asked(parts: &Parts, service: &str, target: &str) -> Asked {
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or_default();
    let fields = parts.headers.iter().filter(|(name, _)| !OF_THE_QUESTION.contains(&name.as_str()));
    let caller = values(&parts.headers, FORWARDED_FOR).last().and_then(|line| line.rsplit(',').next());
    Asked {
        principal: String::new(),
        destination: String::new(),
        source_ip: caller
            .and_then(|address| address.trim().parse().ok())
            .map(|ip: std::net::IpAddr| ip.to_canonical()),
        service: Some(service.to_owned()),
        method: parts.method.as_str().to_owned(),
        target: target.to_owned(),
        authority: authority.to_owned(),
        fields: fields
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec().into()))
            .collect(),
        is_joined: true,
        tokens: Default::default(),
    }
}

/// The lines called `name` that are text.
fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect()
}

/// An allowed question is answered with headers for Envoy alone; a denied one with what its caller gets.
fn response(answer: Answer) -> Response {
    let Answer { status, headers, body, removed, told } = answer;
    let passes = status == Answer::OK;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    for (name, value) in &headers {
        if let Ok(name) = HeaderName::try_from(name) {
            set(name, value);
        }
    }
    if passes {
        if !removed.is_empty() {
            set(REMOVE, &removed.join(","));
        }
        for (name, value) in &told {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Ok(name) = HeaderName::try_from(format!("{}{name}", model::refused::OWN)) {
                set(name, &value);
            }
        }
    }
    response
}
