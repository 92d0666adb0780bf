//! One port for all that Envoys ask: gRPC by HTTP/2, and questions by plain HTTP.
//!
//! What is asked by plain HTTP has the path of a stranger's request in it. So it begins with a prefix that only Envoy's
//! configuration chooses, nothing but calls of gRPC gets to where those are answered, and whatever is unknown gets a
//! status that Envoy takes for a denial: an answer of gRPC has the status 200, whatever it says.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use daemon::Clock;
use http::{StatusCode, Version, header};
use identity::grpc::{ConnectionInfo, Listener};
use identity::tls::{self, ClientAuth, H2};
use model::SpiffeId;
use model::head::is_grpc;
use policyd::config::Door;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::by_http;
use crate::decide::Decider;
use crate::ext_authz;

/// The largest message, in bytes: a request's head, and what other filters say of it.
pub(crate) const MESSAGE_SIZE_MAX: usize = 256 * 1024;
/// The most streams of one connection: each is one question.
const STREAMS_MAX: u32 = 1000;
/// The largest head of a question, in bytes: that of a request, and some more.
const HEAD_SIZE_MAX: u32 = 128 * 1024;
/// How often an idle connection is pinged.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// By which an Envoy chooses between both forms.
const HTTP1: &[u8] = b"http/1.1";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Envoy {
    /// Somebody on this host, who may ask anything.
    Local,
    /// An Envoy with a certificate.
    Known(SpiffeId),
}

/// Why somebody may not ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stranger {
    /// It has shown no certificate, or one that has ended since.
    #[error("no certificate that is valid now")]
    Unknown,
    /// It has another service's certificate.
    #[error("`{0}` may not ask about `{1}`: name it among `gateways`, or give it that service's identity")]
    NotItsOwn(SpiffeId, String),
}

/// Serves what comes to `listener`, until `policyd` stops. Returns at once.
pub(crate) fn open(
    listener: Listener,
    door: Door,
    decider: &Arc<Decider>,
    path_prefix: Option<&str>,
    policyd: &policyd::app::Bound,
) {
    let asks = Asks { door, clock: decider.clock.clone() };
    let service = ext_authz::service(decider, asks.clone());
    let by_http = path_prefix.map(|prefix| by_http::ByHttp::new(prefix, decider, asks));
    let router = Routes::new(service)
        .into_axum_router()
        .route_layer(middleware::from_fn(only_calls))
        .fallback(move |request: Request| answer(by_http.clone(), request));
    let lifecycle = &policyd.lifecycle;
    let stopping = lifecycle.clone();
    let serving = Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEAD_SIZE_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_routes(Routes::from(router));
    let stopped = async move { stopping.stopping().await };
    let told = |result: Result<(), tonic::transport::Error>| {
        if let Err(error) = result {
            tracing::error!(error = &error as &dyn std::error::Error, "the server for Envoys ended");
        }
    };
    match door {
        Door::Open => {
            let incoming = identity::grpc::incoming_in_the_clear(listener, lifecycle);
            lifecycle
                .spawn(async move { told(serving.serve_with_incoming_shutdown(incoming, stopped).await) });
        }
        Door::Mutual => {
            let alpn: Vec<&[u8]> = H2.iter().copied().chain([HTTP1]).collect();
            let config =
                tls::server_config(&policyd.identity, decider.clock.clone(), ClientAuth::Required, &alpn);
            let incoming = identity::grpc::incoming(listener, config, lifecycle);
            lifecycle
                .spawn(async move { told(serving.serve_with_incoming_shutdown(incoming, stopped).await) });
        }
    }
}

/// Who asks at a door.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    door: Door,
    clock: Clock,
}

impl Asks {
    /// Who sent a request with these extensions. A connection may be older than its caller's certificate, so the end of
    /// that is looked at again.
    pub(crate) fn who(&self, extensions: &http::Extensions) -> Result<Envoy, Stranger> {
        if self.door == Door::Open {
            return Ok(Envoy::Local);
        }
        let peer = extensions.get::<ConnectionInfo>().and_then(|info| info.peer.clone());
        let valid = peer.filter(|peer| self.clock.now() <= peer.not_after);
        valid.map(|peer| Envoy::Known(peer.id)).ok_or(Stranger::Unknown)
    }
}

/// Keeps from gRPC what is no call of it.
async fn only_calls(request: Request, next: Next) -> Response {
    let mut kinds = request.headers().get_all(header::CONTENT_TYPE).iter();
    let is_call = kinds.any(|kind| kind.to_str().is_ok_and(is_grpc));
    if request.version() != Version::HTTP_2 || !is_call {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "this takes calls of gRPC\n").into_response();
    }
    next.run(request).await
}

async fn answer(by_http: Option<Arc<by_http::ByHttp>>, request: Request) -> Response {
    match &by_http {
        Some(by_http) => by_http.answer(request).await,
        None => (StatusCode::NOT_FOUND, "policyd is asked by gRPC: `envoy.http` is not configured\n")
            .into_response(),
    }
}
