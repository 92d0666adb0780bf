//! The server that Envoy asks about each request (`envoy.service.auth.v3.Authorization`): it permits everything,
//! without a look at what it is sent.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use anyhow::Result;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, Debug)]
struct Authorization;

/// What is asked. Unknown fields are skipped, which is all of them.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {}

/// No status is status 0, which means yes; `ok_response` must be there for Envoy to go on.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Nothing>,
    #[prost(message, optional, tag = "3")]
    ok_response: Option<Nothing>,
}

/// A message whose fields all have their defaults.
#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// Answers at `address` until the process is ended.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Server::builder().add_service(Authorization).serve(address))?)
}

impl NamedService for Authorization {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

impl tower::Service<http::Request<Body>> for Authorization {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let codec = ProstCodec::<CheckResponse, CheckRequest>::default();
        Box::pin(async move { Ok(Grpc::new(codec).unary(Self, request).await) })
    }
}

impl UnaryService<CheckRequest> for Authorization {
    type Response = CheckResponse;
    type Future = Ready<Result<Response<CheckResponse>, Status>>;

    fn call(&mut self, _request: Request<CheckRequest>) -> Self::Future {
        ready(Ok(Response::new(CheckResponse { status: Some(Nothing {}), ok_response: Some(Nothing {}) })))
    }
}
