//! Is this peer's chain good, under today's roots, now?
//!
//! rustls-webpki builds and validates the path (RFC 5280). What it leaves out is added here: the dates of
//! roots, the key usage of authorities, the rules of SPIFFE for the leaf, and that the leaf is of the
//! bundle's own trust domain.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::TrustBundle;
use crate::leaf::{self, CERTIFICATE_LENGTH_MAX, Leaf, LeafError};

/// The most certificates that a peer may send besides its own. Tidegate's chains have one.
pub const INTERMEDIATES_MAX: usize = 3;

/// ECDSA alone: Tidegate's authorities sign with nothing else.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
];

/// What the peer is, to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It called us.
    Client {
        /// For how long after its end a certificate is still accepted. Zero but for renewals: see
        /// [`ClientAuth::OptionalWithGrace`](crate::tls::ClientAuth::OptionalWithGrace).
        grace: Duration,
    },
    /// We called it.
    Server,
}

/// Why a peer is not accepted.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer sent more certificates than [`INTERMEDIATES_MAX`], or longer ones than
    /// [`CERTIFICATE_LENGTH_MAX`].
    #[error(
        "the chain is too long: {INTERMEDIATES_MAX} intermediates of {CERTIFICATE_LENGTH_MAX} bytes are the most"
    )]
    TooLong,
    /// The leaf breaks a rule of SPIFFE.
    #[error("{0}")]
    Leaf(#[from] LeafError),
    /// The leaf is of another trust domain.
    #[error("the certificate's SPIFFE ID `{found}` is not of the trust domain `{expected}`")]
    Foreign {
        /// The peer's ID.
        found: model::SpiffeId,
        /// Our trust domain.
        expected: model::TrustDomain,
    },
    /// The path is not valid.
    #[error("the certificate chain is not valid: {0}")]
    Path(webpki::Error),
    /// An authority in the path may not sign certificates.
    #[error("an intermediate certificate has no key usage keyCertSign")]
    IssuerMayNotSign,
    /// The server's ID is not one that the caller allows.
    #[error("the server is `{found}`, which is not among the allowed: {allowed}")]
    NotAllowed {
        /// The server's ID.
        found: model::SpiffeId,
        /// The allowed ones.
        allowed: String,
    },
}

/// Verifies a peer's chain; says whose it is.
///
/// # Errors
/// On the first reason found not to accept it.
pub fn verify(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    role: Role,
    now: Timestamp,
) -> Result<Leaf, PeerError> {
    let too_long = |der: &CertificateDer<'_>| der.len() > CERTIFICATE_LENGTH_MAX;
    if intermediates.len() > INTERMEDIATES_MAX || intermediates.iter().any(too_long) {
        return Err(PeerError::TooLong);
    }
    let leaf = leaf::read(end_entity)?;
    if leaf.id.trust_domain() != bundle.trust_domain().as_str() {
        return Err(PeerError::Foreign { found: leaf.id, expected: bundle.trust_domain().clone() });
    }
    let usage = match role {
        Role::Client { .. } => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    let anchors = bundle.anchors(now);
    let end_entity = EndEntityCert::try_from(end_entity).map_err(PeerError::Path)?;
    let time = unix_time(path_time(&leaf, role, now));
    let path = end_entity
        .verify_for_usage(ALGORITHMS, &anchors, intermediates, time, usage, None, None)
        .map_err(PeerError::Path)?;
    // Names that are not DER, such as in parts, are none for others who read the certificate.
    match end_entity.valid_uri_names().map(str::parse::<model::SpiffeId>).collect::<Vec<_>>().as_slice() {
        [Ok(id)] if *id == leaf.id => {}
        names => return Err(LeafError::UriNames(names.len()).into()),
    }
    path.intermediate_certificates().try_for_each(|issuer| check_may_sign(&issuer.der()))?;
    Ok(leaf)
}

/// When the path has to be valid: now; or, for a client within its grace, at the last moment of its
/// certificate. Its issuer may have ended since, as a leaf and its issuer can end together.
fn path_time(leaf: &Leaf, role: Role, now: Timestamp) -> Timestamp {
    match role {
        Role::Client { grace } if now > leaf.not_after => {
            let late = Duration::try_from(now.duration_since(leaf.not_after)).unwrap_or(Duration::MAX);
            if late <= grace { leaf.not_after } else { now }
        }
        _ => now,
    }
}

fn check_may_sign(issuer: &CertificateDer<'_>) -> Result<(), PeerError> {
    let certificate = leaf::parse(issuer)?;
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        _ => Err(PeerError::IssuerMayNotSign),
    }
}

fn unix_time(time: Timestamp) -> UnixTime {
    // Before 1970 nothing is valid, and 1970 is as good a time at which nothing is.
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.as_second()).unwrap_or_default()))
}

impl fmt::Debug for PeerError {
    /// The message, because rustls shows the causes of its errors as `Debug` does, to operators too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<PeerError> for rustls::Error {
    /// Keeps the cause, and the TLS alert that the peer is sent.
    fn from(error: PeerError) -> Self {
        let certificate_error = match &error {
            PeerError::Path(webpki::Error::CertExpired { time, not_after }) => {
                CertificateError::ExpiredContext { time: *time, not_after: *not_after }
            }
            PeerError::Path(webpki::Error::CertNotValidYet { time, not_before }) => {
                CertificateError::NotValidYetContext { time: *time, not_before: *not_before }
            }
            PeerError::Path(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
            PeerError::Leaf(LeafError::Malformed(_)) => CertificateError::BadEncoding,
            _ => CertificateError::Other(rustls::OtherError(Arc::new(error))),
        };
        Self::InvalidCertificate(certificate_error)
    }
}
