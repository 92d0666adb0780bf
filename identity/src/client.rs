//! Gets a workload's first certificate from the CA, for a join token, then renews it for as long as the
//! daemon lives.
//!
//! Keys are made here, a new one for each certificate, and never leave the process: the CA sees a CSR. What
//! it answers is believed only after it was checked: the key is ours, the chain leads to a root that was
//! trusted before, the ID is what it was. While renewal fails the old certificate stays in use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::certificate::certificate_service_client::CertificateServiceClient;
use api::certificate::{AttestRequest, CertificateResponse, RenewRequest};
use daemon::{Clock, Lifecycle};
use jiff::Timestamp;
use model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::codegen::Bytes;
use tonic::transport::Channel;

use crate::bundle::{BundleError, TrustBundle};
use crate::path::{self, PeerError, Role};
use crate::succession::{Granted, Successor};
use crate::svid::{Identity, Source, Svid, SvidError};
use crate::{grpc, schedule, tls};

/// How long one call of the CA may take, connect included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer of the CA, in bytes.
pub const ANSWER_LENGTH_MAX: usize = 1024 * 1024;
/// The longest wait between two tries to get the first certificate: the daemon can do nothing without.
pub const ATTEST_RETRY_MAX: Duration = Duration::from_secs(5);

/// What is needed to get a certificate.
#[derive(Debug)]
pub struct Config {
    /// Where the CA listens.
    pub ca_address: SocketAddr,
    /// The SPIFFE ID that the CA must show; see [`crate::ca_id`].
    pub ca_id: SpiffeId,
    /// The roots trusted at first.
    pub bundle: TrustBundle,
    /// Says who the workload is. Good for one use.
    pub join_token: String,
}

/// What happened, for metrics. Logs are written anyway.
#[derive(Debug)]
pub enum Event<'a> {
    /// The first certificate came.
    Attested(&'a Identity),
    /// The next certificate came.
    Renewed(&'a Identity),
    /// A try failed; the next is after `retry_in`.
    Failed {
        /// What went wrong.
        error: &'a ClientError,
        /// The wait before the next try.
        retry_in: Duration,
    },
}

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA said no, and will again.
    #[error("the CA refused: {0}")]
    Refused(String),
    /// The CA can't be reached, or can't answer now.
    #[error("the CA is unavailable: {0}")]
    Unavailable(String),
    /// The CA took longer than [`CALL_TIMEOUT`].
    #[error("the CA did not answer within {CALL_TIMEOUT:?}")]
    Timeout,
    /// The CA's roots are none.
    #[error("the CA sent a bad trust bundle: {0}")]
    Bundle(#[from] BundleError),
    /// The CA's chain does not fit our key, or is none of a workload.
    #[error("the CA sent a bad certificate: {0}")]
    Svid(#[from] SvidError),
    /// The CA's chain does not lead to a trusted root.
    #[error("the CA sent a certificate that we would not accept of others: {0}")]
    Chain(#[from] PeerError),
    /// The CA's answer changes who we are.
    #[error("the CA sent a certificate of `{found}`, but this workload is `{expected}`")]
    OtherId {
        /// The one sent.
        found: SpiffeId,
        /// Ours.
        expected: SpiffeId,
    },
    /// No key or CSR could be made.
    #[error("can't make a key and its CSR: {0}")]
    Key(#[from] rcgen::Error),
    /// The daemon stops.
    #[error("stopped before the first certificate came")]
    Stopped,
}

/// Gets the first certificate, trying again while the CA is unavailable, and starts to renew it.
///
/// # Errors
/// When the CA refuses, when it sends something wrong, or when the daemon is told to stop.
pub async fn start(
    config: Config,
    clock: Clock,
    lifecycle: &Lifecycle,
    on_event: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> Result<Source, ClientError> {
    let client = Client { ca: Ca { address: config.ca_address, id: config.ca_id }, clock, on_event };
    let (identity, asked_at) = tokio::select! {
        () = lifecycle.stopping() => return Err(ClientError::Stopped),
        attested = client.attest(config.bundle, &config.join_token) => attested?,
    };
    Ok(client.keep_up(identity, asked_at, lifecycle))
}

/// The same for a workload that takes another's place, which has asked for its certificate: the join token was used by
/// the first of them. See [`crate::succession`].
///
/// # Errors
/// When what was granted is no good.
pub fn start_as_successor(
    config: Config,
    (successor, granted): (Successor, &Granted),
    clock: Clock,
    lifecycle: &Lifecycle,
    on_event: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> Result<Source, ClientError> {
    let Successor { request } = successor;
    let now = clock.now();
    let owned = |der: &Vec<Vec<u8>>| der.iter().cloned().map(Bytes::from).collect();
    let answer = CertificateResponse { chain: owned(&granted.chain), roots: owned(&granted.roots) };
    let identity = accept(&answer, &request.key, &config.bundle, None, now)?;
    let client = Client { ca: Ca { address: config.ca_address, id: config.ca_id }, clock, on_event };
    client.told_of_first(&identity);
    Ok(client.keep_up(identity, now, lifecycle))
}

/// What the CA answers when the workload of `source` asks for a certificate by `csr`, another's.
///
/// # Errors
/// When it refuses, or can't be reached.
pub(crate) async fn ask_for_other(
    ca: &Ca,
    clock: &Clock,
    source: &Source,
    csr: Vec<u8>,
) -> Result<Granted, ClientError> {
    let answer = ca.renew(clock, source, csr.into()).await?;
    let owned = |der: Vec<Bytes>| der.into_iter().map(Vec::from).collect();
    Ok(Granted { chain: owned(answer.chain), roots: owned(answer.roots) })
}

struct Client<F> {
    ca: Ca,
    clock: Clock,
    on_event: F,
}

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct Ca {
    /// Where it listens.
    pub address: SocketAddr,
    /// The SPIFFE ID that it must show; see [`crate::ca_id`].
    pub id: SpiffeId,
}

/// A private key with the CSR for it.
#[derive(Debug)]
pub(crate) struct Request {
    key: KeyPair,
    pub(crate) csr: Bytes,
}

impl Ca {
    /// One try. The connection is a new one, so that the certificate it shows is the current one.
    async fn renew(
        &self,
        clock: &Clock,
        source: &Source,
        csr: Bytes,
    ) -> Result<CertificateResponse, ClientError> {
        let config = tls::client_config(source, clock.clone(), vec![self.id.clone()], tls::H2);
        call(ca_client(grpc::channel(self.address, config)).renew(RenewRequest { csr })).await
    }
}

impl<F: Fn(Event<'_>) + Send + Sync + 'static> Client<F> {
    /// A source of `identity`, which was asked for at `asked_at`, and which is renewed from now on.
    fn keep_up(self, identity: Identity, asked_at: Timestamp, lifecycle: &Lifecycle) -> Source {
        let source = Source::fixed(identity);
        let (renewed, stopping) = (source.clone(), lifecycle.clone());
        let _task = lifecycle.spawn(async move {
            tokio::select! {
                () = stopping.stopping() => {}
                () = self.renew_for_ever(&renewed, asked_at) => {}
            }
        });
        source
    }

    fn told_of_first(&self, identity: &Identity) {
        let svid = &identity.svid;
        tracing::info!(id = %svid.id, serial = svid.serial, not_after = %svid.not_after, "got a certificate");
        (self.on_event)(Event::Attested(identity));
    }

    /// The first certificate, and when it was asked for.
    async fn attest(&self, bundle: TrustBundle, token: &str) -> Result<(Identity, Timestamp), ClientError> {
        // One key for all tries: the CA answers a repeated request for a used token only when the key is the
        // same, so an answer that was lost on its way does not cost the token.
        let request = Request::new()?;
        let (clock, allowed) = (self.clock.clone(), vec![self.ca.id.clone()]);
        let config = tls::anonymous_client_config(bundle.clone(), clock, allowed, tls::H2);
        let mut failures = 0;
        loop {
            let asked_at = self.clock.now();
            let message = AttestRequest { join_token: token.to_owned(), csr: request.csr.clone() };
            let mut ca = ca_client(grpc::channel(self.ca.address, Arc::clone(&config)));
            let answer = call(ca.attest(message)).await;
            match answer.and_then(|answer| accept(&answer, &request.key, &bundle, None, self.clock.now())) {
                Ok(identity) => {
                    self.told_of_first(&identity);
                    return Ok((identity, asked_at));
                }
                Err(error) if !error.may_pass() => return Err(error),
                Err(error) => {
                    failures += 1;
                    self.wait_to_retry(&error, failures, ATTEST_RETRY_MAX, token).await;
                }
            }
        }
    }

    /// `asked_at` is when the source's certificate was asked for. Its due time counts from then, not from
    /// when this task comes to look at it.
    async fn renew_for_ever(&self, source: &Source, mut asked_at: Timestamp) {
        loop {
            let current = source.current();
            let (not_after, serial) = (current.svid.not_after, &current.svid.serial);
            self.clock.sleep_until(schedule::due(asked_at, not_after, serial)).await;
            let retry_max = schedule::retry_cap(schedule::life(asked_at, not_after));
            let mut failures = 0;
            asked_at = loop {
                let asked_at = self.clock.now();
                match self.renew(source).await {
                    Ok(()) => break asked_at,
                    Err(error) => {
                        failures += 1;
                        self.wait_to_retry(&error, failures, retry_max, serial).await;
                    }
                }
            };
        }
    }

    /// One try.
    async fn renew(&self, source: &Source) -> Result<(), ClientError> {
        let _only = source.hold().await;
        let request = Request::new()?;
        let answer = self.ca.renew(&self.clock, source, request.csr).await?;
        let current = source.current();
        let own = Some(&current.svid.id);
        let identity = accept(&answer, &request.key, &current.bundle, own, self.clock.now())?;
        let svid = &identity.svid;
        tracing::info!(serial = svid.serial, not_after = %svid.not_after, "renewed the certificate");
        (self.on_event)(Event::Renewed(&identity));
        source.replace(identity);
        Ok(())
    }

    async fn wait_to_retry(&self, error: &ClientError, failures: u32, retry_max: Duration, seed: &str) {
        let retry_in = schedule::backoff(failures, retry_max, seed);
        tracing::warn!(%error, ca = %self.ca.address, ?retry_in, "got no certificate");
        (self.on_event)(Event::Failed { error, retry_in });
        self.clock.sleep(retry_in).await;
    }
}

impl Request {
    pub(crate) fn new() -> Result<Self, ClientError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.der().to_vec().into();
        Ok(Self { key, csr })
    }
}

impl ClientError {
    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout)
    }
}

/// Checks an answer and makes it an identity. It came over a connection verified with `trusted`, so its roots
/// may take the place of those; but the certificate itself must be good under the old roots as well as under
/// the new ones, and must not change who we are.
fn accept(
    answer: &CertificateResponse,
    key: &KeyPair,
    trusted: &TrustBundle,
    own: Option<&SpiffeId>,
    now: Timestamp,
) -> Result<Identity, ClientError> {
    let owned = |der: &Bytes| CertificateDer::from(der.to_vec());
    let bundle = TrustBundle::new(trusted.trust_domain().clone(), answer.roots.iter().map(owned))?;
    let chain = answer.chain.iter().map(owned).collect();
    let key = PrivateKeyDer::try_from(key.serialize_der());
    let key = key.map_err(|error| SvidError::Key(rustls::Error::General(error.to_owned())))?;
    let svid = Svid::new(chain, &key)?;
    let (leaf, intermediates) = svid.chain.split_first().ok_or(SvidError::EmptyChain)?;
    for roots in [trusted, &bundle] {
        for role in [Role::Server, Role::Client { grace: Duration::ZERO }] {
            path::verify(leaf, intermediates, roots, role, now)?;
        }
    }
    match own {
        Some(own) if *own != svid.id => Err(ClientError::OtherId { found: svid.id, expected: own.clone() }),
        _ => Ok(Identity { svid, bundle }),
    }
}

fn ca_client(channel: Channel) -> CertificateServiceClient<Channel> {
    CertificateServiceClient::new(channel).max_decoding_message_size(ANSWER_LENGTH_MAX)
}

async fn call(
    answer: impl Future<Output = Result<tonic::Response<CertificateResponse>, tonic::Status>>,
) -> Result<CertificateResponse, ClientError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused_or_unavailable(&status)),
        Err(_) => Err(ClientError::Timeout),
    }
}

fn refused_or_unavailable(status: &tonic::Status) -> ClientError {
    use tonic::Code::{
        Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown,
    };
    match status.code() {
        Aborted | Cancelled | DeadlineExceeded | Internal | ResourceExhausted | Unavailable | Unknown => {
            ClientError::Unavailable(with_causes(status))
        }
        _ => ClientError::Refused(status.message().to_owned()),
    }
}

/// A transport error says only `transport error`; what went wrong is among its causes.
fn with_causes(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
