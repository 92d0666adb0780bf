//! Attest and Renew as gRPC: parse, call the registry, map the answer. The only file that knows tonic.

use std::sync::Arc;
use std::time::Duration;

use api::certificate::certificate_service_server::{CertificateService, CertificateServiceServer};
use api::certificate::{AttestRequest, CertificateResponse, RenewRequest};
use daemon::{Clock, Lifecycle};
use identity::Source;
use identity::grpc::Listener;
use identity::tls::{self, ClientAuth};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::codegen::Bytes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::audit::hex;
use crate::metrics::{CaMetrics, KindLabel, ReasonLabel};
use crate::registry::{Answer, Refusal, Registry};
use crate::token::TokenError;

/// The longest request, in bytes.
pub const REQUEST_LENGTH_MAX: usize = 64 * 1024;
/// The longest join token, in bytes.
pub const TOKEN_LENGTH_MAX: usize = 256;
/// The most calls of one connection at once. A workload makes one.
pub const STREAMS_MAX: u32 = 8;
/// The most calls at once that wait for a signature or for the disk. One more is told to come back.
pub const SIGNING_MAX: usize = 128;
/// How long a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last: callers make one call and go.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);

/// What the calls need.
#[derive(Debug)]
pub struct Service {
    registry: Arc<Registry>,
    metrics: Arc<CaMetrics>,
    clock: Clock,
    signing: Arc<Semaphore>,
}

impl Service {
    /// Calls of `registry`, counted in `metrics`.
    pub fn new(registry: Arc<Registry>, metrics: Arc<CaMetrics>, clock: Clock) -> Self {
        Self { registry, metrics, clock, signing: Arc::new(Semaphore::new(SIGNING_MAX)) }
    }

    /// Serves on `listener` until the lifecycle stops. Callers whose certificate ended at most `grace` ago
    /// are let in.
    pub fn serve(self, listener: Listener, source: &Source, grace: Duration, lifecycle: &Lifecycle) {
        let auth = ClientAuth::OptionalWithGrace(grace);
        let config = tls::server_config(source, self.clock.clone(), auth, tls::H2);
        let incoming = identity::grpc::incoming(listener, config, lifecycle);
        let service = CertificateServiceServer::new(self).max_decoding_message_size(REQUEST_LENGTH_MAX);
        let server = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .max_connection_age(CONNECTION_AGE_MAX)
            .timeout(CALL_TIMEOUT);
        let stopping = lifecycle.clone();
        let _task = lifecycle.spawn(async move {
            let stop = async move { stopping.stopping().await };
            if let Err(error) = server.serve_with_incoming_shutdown(service, incoming, stop).await {
                tracing::error!(%error, "the server ended");
            }
        });
    }

    /// Runs `work` where it may wait for the disk.
    async fn answer(
        &self,
        work: impl FnOnce(&Registry, Timestamp) -> Result<Answer, Refusal> + Send + 'static,
    ) -> Result<Response<CertificateResponse>, Status> {
        let Ok(permit) = Arc::clone(&self.signing).try_acquire_owned() else {
            self.metrics.refused.get_or_create(&ReasonLabel { reason: "busy" }).inc();
            return Err(Status::resource_exhausted("too many certificates are asked for at once, try again"));
        };
        let (registry, now, started) = (Arc::clone(&self.registry), self.clock.now(), Instant::now());
        let work = move || {
            let _permit = permit;
            work(&registry, now)
        };
        let answer = tokio::task::spawn_blocking(work).await;
        let answer = answer.map_err(|_error| Status::internal("the certificate could not be made"))?;
        self.metrics.issue_seconds.observe(started.elapsed().as_secs_f64());
        answer.map(|answer| self.given(&answer)).map_err(|refusal| self.refused(&refusal))
    }

    fn given(&self, answer: &Answer) -> Response<CertificateResponse> {
        let record = &answer.entry.record;
        let head = hex(&answer.entry.hash);
        self.metrics.issued.get_or_create(&KindLabel { kind: record.kind.as_str() }).inc();
        tracing::info!(
            kind = record.kind.as_str(),
            id = record.spiffe_id,
            instance = record.instance,
            serial = record.serial,
            renews = record.renews,
            not_after = %record.not_after,
            entry = answer.entry.seq,
            head,
            "gave out a certificate"
        );
        Response::new(CertificateResponse { chain: bytes(&answer.chain), roots: bytes(&answer.roots) })
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        self.metrics.refused.get_or_create(&ReasonLabel { reason: refusal.reason() }).inc();
        tracing::warn!(reason = refusal.reason(), error = %refusal, "refused a certificate");
        let message = refusal.to_string();
        match refusal {
            Refusal::Csr(_) => Status::invalid_argument(message),
            // Ours to mend: the caller is right to try again. What exactly is wrong is none of its business.
            Refusal::Ledger(_) | Refusal::Token(TokenError::Ledger(_)) => {
                Status::unavailable("the CA can't record certificates at the moment")
            }
            Refusal::Issue(_) => Status::unavailable("the CA can't sign certificates at the moment"),
            Refusal::Token(_)
            | Refusal::NotInLedger(_)
            | Refusal::Superseded { .. }
            | Refusal::GraceOver(_)
            | Refusal::KeyOfOther => Status::permission_denied(message),
        }
    }
}

#[tonic::async_trait]
impl CertificateService for Service {
    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<CertificateResponse>, Status> {
        let AttestRequest { join_token, csr } = request.into_inner();
        if join_token.len() > TOKEN_LENGTH_MAX {
            return Err(Status::invalid_argument("the join token is too long to be one"));
        }
        self.answer(move |registry, now| registry.attest(&join_token, &csr, now)).await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<CertificateResponse>, Status> {
        let Some(peer) = identity::grpc::peer(&request) else {
            return Err(Status::unauthenticated("show the certificate that is to be renewed"));
        };
        let csr = request.into_inner().csr;
        self.answer(move |registry, now| registry.renew(&peer, &csr, now)).await
    }
}

fn bytes(certificates: &[CertificateDer<'static>]) -> Vec<Bytes> {
    certificates.iter().map(|der| Bytes::copy_from_slice(der)).collect()
}

#[cfg(test)]
mod tests;
