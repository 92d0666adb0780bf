//! rustls configurations in which both sides know who the other is.
//!
//! TLS 1.3 alone, with X25519MLKEM768 preferred (rustls' own order). No resumption: a resumed session would
//! skip the check of the peer's certificate, and so outlive its end and a root's removal. Certificate and
//! trust bundle are looked up in the [`Source`] on each handshake, so a renewal needs no new configuration.

use std::sync::Arc;
use std::time::Duration;

use daemon::Clock;
use jiff::Timestamp;
use model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, HandshakeKind, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use crate::bundle::TrustBundle;
use crate::leaf;
use crate::path::{self, PeerError, Role};
use crate::svid::Source;

/// The ALPN of gRPC.
pub const H2: &[&[u8]] = &[b"h2"];

/// What a server asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A good certificate, or no connection.
    Required,
    /// A good certificate or none; a bad one means no connection.
    Optional,
    /// As `Optional`, and a certificate that ended at most so long ago is good too. Only for the CA's
    /// renewals, so that a workload recovers by itself when the CA was down for longer than a certificate
    /// lives. Whoever uses this has to look at [`Peer::not_after`].
    OptionalWithGrace(Duration),
}

/// Who is at the other end of a connection. Only verified peers are ever seen as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The end of its certificate: see [`Tenure`](crate::Tenure).
    pub not_after: Timestamp,
    /// The serial number of its certificate, in lower-case hexadecimal.
    pub serial: String,
}

/// For a server. `alpn` is in order of preference, and empty for none.
pub fn server_config(source: &Source, clock: Clock, auth: ClientAuth, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let verifier = Verifier::new(Trust::Current(source.clone()), Allowed::Any, auth);
    let provider = Arc::clone(&verifier.provider);
    #[expect(clippy::expect_used, reason = "the provider, a constant, has what TLS 1.3 needs")]
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(CurrentCertificate(source.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = owned(alpn);
    Arc::new(config)
}

/// For a client that shows its own certificate. The server's ID must be one of `allowed`; an empty list
/// allows none.
pub fn client_config(
    source: &Source,
    clock: Clock,
    allowed: Vec<SpiffeId>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    build_client(Trust::Current(source.clone()), Some(source.clone()), clock, allowed, alpn)
}

/// For a client that has no certificate yet: it trusts `bundle`, and shows nothing of itself.
pub fn anonymous_client_config(
    bundle: TrustBundle,
    clock: Clock,
    allowed: Vec<SpiffeId>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    build_client(Trust::Fixed(bundle), None, clock, allowed, alpn)
}

/// Who is at the other end, if it showed a certificate. For connections of this module's configurations
/// alone, whose handshake verified that certificate. A resumed session has verified nothing, and so has no peer: were
/// resumption ever on, its connections would be turned away rather than believed.
pub fn peer(connection: &CommonState) -> Option<Peer> {
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        return None;
    }
    let leaf = leaf::read(connection.peer_certificates()?.first()?).ok()?;
    Some(Peer { id: leaf.id, not_after: leaf.not_after, serial: leaf.serial })
}

fn build_client(
    trust: Trust,
    own: Option<Source>,
    clock: Clock,
    allowed: Vec<SpiffeId>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let verifier = Verifier::new(trust, Allowed::OneOf(allowed), ClientAuth::Required);
    let provider = Arc::clone(&verifier.provider);
    #[expect(clippy::expect_used, reason = "the provider, a constant, has what TLS 1.3 needs")]
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(source) => builder.with_client_cert_resolver(Arc::new(CurrentCertificate(source))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    // Servers are known by SPIFFE ID: a name would tell an onlooker who is called, and nobody reads it.
    config.enable_sni = false;
    config.alpn_protocols = owned(alpn);
    Arc::new(config)
}

pub(crate) fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

/// Verifies peers, of either side.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    allowed: Allowed,
    auth: ClientAuth,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    Fixed(TrustBundle),
    Current(Source),
}

/// Which SPIFFE IDs a peer may have. A server takes any of its trust domain: who may do what is policy's to
/// say.
#[derive(Debug)]
enum Allowed {
    Any,
    OneOf(Vec<SpiffeId>),
}

impl Verifier {
    fn new(trust: Trust, allowed: Allowed, auth: ClientAuth) -> Self {
        Self { trust, allowed, auth, provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()) }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let now = i64::try_from(now.as_secs()).ok().and_then(|now| Timestamp::from_second(now).ok());
        // A time beyond all calendars is after the end of every certificate.
        let now = now.unwrap_or(Timestamp::MAX);
        let leaf = match &self.trust {
            Trust::Fixed(bundle) => path::verify(end_entity, intermediates, bundle, role, now)?,
            Trust::Current(source) => {
                path::verify(end_entity, intermediates, &source.current().bundle, role, now)?
            }
        };
        match &self.allowed {
            Allowed::OneOf(ids) if !ids.contains(&leaf.id) => {
                let allowed = ids.iter().map(SpiffeId::as_str).collect::<Vec<_>>().join(", ");
                Err(PeerError::NotAllowed { found: leaf.id, allowed })
            }
            Allowed::OneOf(_) | Allowed::Any => Ok(()),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, Role::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let grace = match self.auth {
            ClientAuth::Required | ClientAuth::Optional => Duration::ZERO,
            ClientAuth::OptionalWithGrace(grace) => grace,
        };
        self.verify(end_entity, intermediates, Role::Client { grace }, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Shows the source's certificate of the moment. One that has ended too: the CA still takes it, others refuse
/// it.
#[derive(Debug)]
struct CurrentCertificate(Source);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().svid.certified_key))
    }
}

impl ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().svid.certified_key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The daemon's clock, as rustls wants it.
#[derive(Debug)]
pub(crate) struct ClockTime(pub(crate) Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests;
