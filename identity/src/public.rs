//! TLS to servers outside of the mesh, known by a public name: as browsers do it.
//!
//! The chain has to lead to a root of the system, or of a file of one's own, and the certificate has to be for the name.
//! We show no certificate: to such a server our identity means nothing. No session is resumed, so that each connection
//! has its server verified.
//!
//! Nowhere else is TLS 1.2 spoken. Of that, rustls has only what is still held to be sound: ephemeral keys and AEAD, and
//! no renegotiation.

use std::sync::Arc;

use daemon::Clock;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use crate::tls::{ClockTime, owned};

/// The most roots of a file. Systems have about 150.
pub const ROOTS_MAX: usize = 1000;

/// Why a text holds no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// There is none.
    #[error("there is no certificate")]
    Empty,
    /// More than [`ROOTS_MAX`].
    #[error("there are more than {ROOTS_MAX} certificates")]
    TooMany,
    /// The PEM text is broken.
    #[error("it is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// A certificate is none.
    #[error("certificate {place} can't be read: {error}")]
    Unreadable {
        /// Which, from 1.
        place: usize,
        /// What is wrong.
        error: rustls::Error,
    },
}

/// The roots in a text of PEM. What is no certificate is skipped.
///
/// # Errors
/// When there is none, too many, or one that can't be read.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        if index >= ROOTS_MAX {
            return Err(RootsError::TooMany);
        }
        let der = der.map_err(RootsError::Pem)?;
        roots.add(der).map_err(|error| RootsError::Unreadable { place: index + 1, error })?;
    }
    if roots.is_empty() { Err(RootsError::Empty) } else { Ok(roots) }
}

/// For a client of a server that is believed by `roots`, by TLS 1.3, or 1.2 if it knows no better. `alpn` is in order of
/// preference, and empty for none.
pub fn client_config(roots: RootCertStore, clock: Clock, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[expect(clippy::expect_used, reason = "the provider, a constant, has what both versions need")]
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("aws-lc-rs has TLS 1.3 and 1.2");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = owned(alpn);
    Arc::new(config)
}
