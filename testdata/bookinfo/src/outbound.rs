//! How one service calls another: plain HTTP to the own sidecar's outbound listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::forwarded::Forwarded;
use crate::service::Service;

/// The way to all other services.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    sidecar: Option<SocketAddr>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// Why a call brought nothing. Reads as what the called service did: "reviews could not be reached".
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// There was an answer, and it was no success.
    #[error("answered {status}{}", reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Refused {
        status: StatusCode,
        /// The body's `message`, or `error`.
        reason: Option<String>,
    },
    /// There was no answer.
    #[error("could not be reached")]
    Unreachable(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// There was no complete answer in time.
    #[error("did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The answer was longer than this service reads.
    #[error("answered with more than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The answer had another form than expected.
    #[error("answered with something unexpected")]
    Unexpected(#[from] serde_json::Error),
}

impl Outbound {
    /// The way through the sidecar whose outbound listener has this address; without one, no call succeeds.
    pub(crate) fn new(sidecar: Option<SocketAddr>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { sidecar, client }
    }

    /// The answer of `service` to a GET of `path`. A failure is logged here.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        service: Service,
        path: &str,
        forwarded: &Forwarded,
    ) -> Result<T, Failure> {
        let exchange = self.exchange(service, path, forwarded);
        let answer = tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(Failure::Timeout));
        let parsed = answer.and_then(|body| Ok(serde_json::from_slice(&body)?));
        parsed.inspect_err(|failure| {
            let error: &dyn std::error::Error = failure;
            tracing::warn!(%service, path, error, "a call failed");
        })
    }

    async fn exchange(&self, service: Service, path: &str, forwarded: &Forwarded) -> Result<Bytes, Failure> {
        let sidecar = self.sidecar.ok_or(Failure::Unreachable(None))?;
        let mut request = Request::get(format!("http://{sidecar}{path}"))
            .body(Empty::new())
            .map_err(|error| Failure::Unreachable(Some(error.into())))?;
        *request.headers_mut() = forwarded.to_headers();
        // The connection goes to the sidecar whatever the service: it is this header that names the service.
        request.headers_mut().insert(HOST, HeaderValue::from_static(service.as_str()));
        let response =
            self.client.request(request).await.map_err(|error| Failure::Unreachable(Some(error.into())))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes());
        if head.status != StatusCode::OK {
            let reason = body.ok().and_then(|body| reason_in(&body));
            return Err(Failure::Refused { status: head.status, reason });
        }
        body.map_err(|error| {
            if error.is::<LengthLimitError>() { Failure::TooLarge } else { Failure::Unreachable(Some(error)) }
        })
    }
}

impl Failure {
    /// The status for a caller who depends on this call.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Refused { status, .. } if status.is_client_error() || status.is_server_error() => *status,
            Self::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Refused { .. } | Self::TooLarge | Self::Unexpected(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

fn reason_in(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let reason = ["message", "error"].into_iter().find_map(|key| body.get(key)?.as_str())?;
    Some(reason.chars().take(REASON_CHARS_MAX).collect())
}

/// For connecting, sending and the whole answer together.
const TIMEOUT: Duration = Duration::from_secs(5);

const BODY_BYTES_MAX: usize = 64 * 1024;

const REASON_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use axum::Router;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn get(sidecar: Option<SocketAddr>) -> Result<serde_json::Value, Failure> {
        Outbound::new(sidecar).get(Service::Ratings, "/ratings/0", &Forwarded::default()).await
    }

    async fn get_answered_with(status: StatusCode, body: String) -> Result<serde_json::Value, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Router::new().fallback(async move || (status, body));
        let server = tokio::spawn(async { axum::serve(listener, answer).await });
        let answer = get(Some(address)).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn every_failure_has_its_words_and_its_status() {
        let forbidden = StatusCode::FORBIDDEN;
        let long = "x".repeat(REASON_CHARS_MAX + 1);
        let table = [
            (forbidden, r#"{"error":"e","message":"m"}"#.to_owned(), "answered 403 Forbidden: m", 403),
            (forbidden, r#"{"error":"e"}"#.to_owned(), "answered 403 Forbidden: e", 403),
            (forbidden, r#"{"error":7}"#.to_owned(), "answered 403 Forbidden", 403),
            (forbidden, "<html>".to_owned(), "answered 403 Forbidden", 403),
            (forbidden, "x".repeat(BODY_BYTES_MAX + 1), "answered 403 Forbidden", 403),
            (
                forbidden,
                format!(r#"{{"error":"{long}"}}"#),
                &format!("answered 403 Forbidden: {}", "x".repeat(REASON_CHARS_MAX)),
                403,
            ),
            (StatusCode::FOUND, String::new(), "answered 302 Found", 502),
            (StatusCode::OK, "<html>".to_owned(), "answered with something unexpected", 502),
            (StatusCode::OK, "1".repeat(BODY_BYTES_MAX + 1), "answered with more than 65536 bytes", 502),
        ];
        for (status, body, words, answered) in table {
            let failure = get_answered_with(status, body).await.unwrap_err();
            assert_eq!((failure.to_string().as_str(), failure.status().as_u16()), (words, answered));
        }
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        // A port that is taken, so nobody else gets it, but that nobody listens on.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        for sidecar in [None, Some(address)] {
            assert_eq!(get(sidecar).await.unwrap_err().to_string(), "could not be reached");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_timeout() {
        // Connections are accepted by the kernel, and nobody answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let failure = get(Some(listener.local_addr().unwrap())).await.unwrap_err();
        assert_eq!(failure.to_string(), "did not answer within 5 s");
        assert_eq!(failure.status(), StatusCode::GATEWAY_TIMEOUT);
    }
}
