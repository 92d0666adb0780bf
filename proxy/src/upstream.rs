//! Sends a request to an instance of a service, and says what became of it.
//!
//! What is tried again, and why it is safe:
//! - a connect or TLS handshake that failed, on the next endpoint: nothing of the request was sent;
//! - a request that hyper hands back unsent, on another connection: likewise;
//! - once, on a fresh connection, an idempotent request without a body whose reused connection ended before
//!   any byte of a response: most likely the peer closed the idle connection just then.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, request};
use hyper::body::Body as _;
use tokio::time::Instant;

use crate::body::{self, Body};
use crate::endpoints::{Endpoint, Service};
use crate::metrics::Metrics;
use crate::pool::SendError;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No instance could be reached.
    #[error("no instance of `{service}` can be reached")]
    NoneHealthy {
        /// The service's name.
        service: String,
    },
    /// The response's head took longer than the service's timeout.
    #[error("`{service}` did not answer within {timeout:?}")]
    Timeout {
        /// The service's name.
        service: String,
        /// Its timeout.
        timeout: Duration,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to `{service}` failed before it answered")]
    Failed {
        /// The service's name.
        service: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// A status that ends no exchange, though no upgrade was asked for.
    #[error("`{service}` answered with an unexpected status {status}")]
    Unexpected {
        /// The service's name.
        service: String,
        /// The status.
        status: http::StatusCode,
    },
}

/// A response, and who gave it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The response.
    pub response: Response<Body>,
    /// The instance.
    pub endpoint: Arc<Endpoint>,
}

/// Sends `request` to one instance of `service`, which has to answer within `timeout`.
pub(crate) async fn forward(
    service: &Service,
    timeout: Duration,
    request: Request<Body>,
    metrics: &Metrics,
) -> Result<Answer, UpstreamError> {
    let name = || service.name.clone();
    let answer = match tokio::time::timeout(timeout, attempt_all(service, request, metrics)).await {
        Ok(result) => result?,
        Err(_) => return Err(UpstreamError::Timeout { service: name(), timeout }),
    };
    match answer.response.status() {
        // hyper's client swallows other 1xx; and to 101 there is nothing to switch to.
        status if status.is_informational() => Err(UpstreamError::Unexpected { service: name(), status }),
        _ => Ok(answer),
    }
}

async fn attempt_all(
    service: &Service,
    mut request: Request<Body>,
    metrics: &Metrics,
) -> Result<Answer, UpstreamError> {
    let mut spare = Spare::of(&request);
    for endpoint in service.candidates(Instant::now()) {
        let failed = match attempt(service, &endpoint, request, metrics).await {
            Ok(response) => return Ok(Answer { response, endpoint }),
            Err(Failure::Unsent(unsent)) => {
                request = unsent;
                continue;
            }
            Err(Failure::Broken(failed)) => failed,
        };
        let again = if failed.reused { spare.take() } else { None };
        let Some(again) = again else {
            return Err(UpstreamError::Failed { service: service.name.clone(), source: failed.error });
        };
        match attempt_fresh(service, &endpoint, again.into_request(), metrics).await {
            Ok(response) => return Ok(Answer { response, endpoint }),
            Err(Failure::Unsent(unsent)) => request = unsent,
            Err(Failure::Broken(failed)) => {
                return Err(UpstreamError::Failed { service: service.name.clone(), source: failed.error });
            }
        }
    }
    Err(UpstreamError::NoneHealthy { service: service.name.clone() })
}

enum Failure {
    /// Nothing was sent.
    Unsent(Request<Body>),
    /// Some of it may have been sent.
    Broken(SendError),
}

async fn attempt(
    service: &Service,
    endpoint: &Endpoint,
    mut request: Request<Body>,
    metrics: &Metrics,
) -> Result<Response<Body>, Failure> {
    while let Some(connection) = endpoint.pool.reuse() {
        match endpoint.pool.send(connection, request).await {
            Ok(response) => return Ok(response),
            Err(SendError { unsent: Some(unsent), .. }) => request = unsent,
            Err(failed) => return Err(Failure::Broken(failed)),
        }
    }
    attempt_fresh(service, endpoint, request, metrics).await
}

async fn attempt_fresh(
    service: &Service,
    endpoint: &Endpoint,
    request: Request<Body>,
    metrics: &Metrics,
) -> Result<Response<Body>, Failure> {
    let connection = match endpoint.pool.connect().await {
        Ok(connection) => connection,
        Err(error) => {
            if endpoint.failed(Instant::now()) {
                metrics.ejected(&service.name, &endpoint.instance);
            }
            let (service, instance) = (&service.name, &endpoint.instance);
            tracing::warn!(%service, %instance, address = endpoint.address, %error, "an upstream can't be reached");
            return Err(Failure::Unsent(request));
        }
    };
    endpoint.succeeded();
    match endpoint.pool.send(connection, request).await {
        Ok(response) => Ok(response),
        Err(SendError { unsent: Some(unsent), .. }) => Err(Failure::Unsent(unsent)),
        Err(failed) => Err(Failure::Broken(failed)),
    }
}

/// A copy of a request that may be sent twice.
struct Spare(request::Parts);

impl Spare {
    fn of(request: &Request<Body>) -> Option<Self> {
        let repeatable = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        if !repeatable || !request.body().is_end_stream() {
            return None;
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.headers = request.headers().clone();
        Some(Self(parts))
    }

    fn into_request(self) -> Request<Body> {
        Request::from_parts(self.0, body::empty())
    }
}
