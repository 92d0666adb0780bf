//! `envoy.service.auth.v3.Authorization`: parse, call, map.

use std::sync::Arc;

use api::envoy::auth::authorization_server::{Authorization, AuthorizationServer};
use api::envoy::auth::{CheckRequest, CheckResponse};
use api::ext_authz::Asked;
use tonic::{Request, Response, Status};

use crate::decide::Decider;
use crate::door::{Asks, MESSAGE_SIZE_MAX, Stranger};

/// The service at one door.
#[derive(Debug)]
pub(crate) struct ExtAuthz {
    decider: Arc<Decider>,
    asks: Asks,
}

/// The service where Envoys are known by `asks`.
pub(crate) fn service(decider: &Arc<Decider>, asks: Asks) -> AuthorizationServer<ExtAuthz> {
    let service = ExtAuthz { decider: Arc::clone(decider), asks };
    AuthorizationServer::new(service).max_decoding_message_size(MESSAGE_SIZE_MAX)
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let who = self.asks.who(request.extensions())?;
        let asked = Asked::try_from(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(self.decider.decide(&asked, &who).await?.into()))
    }
}

/// Not a denial: the question was not answered, and Envoy's `failure_mode_allow` says what that means.
impl From<Stranger> for Status {
    fn from(stranger: Stranger) -> Self {
        match stranger {
            Stranger::Unknown => Self::unauthenticated(stranger.to_string()),
            Stranger::NotItsOwn(..) => Self::permission_denied(stranger.to_string()),
        }
    }
}
