//! A workload's certificate with its key, and the [`Source`] that always has the current one.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use model::SpiffeId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::bundle::TrustBundle;
use crate::leaf::{self, LeafError};

/// A workload's certificate chain and private key. Made by [`Svid::new`] alone, so the parts fit together.
#[derive(Clone)]
#[non_exhaustive]
pub struct Svid {
    /// Who it says the workload is.
    pub id: SpiffeId,
    /// DER, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// The leaf's serial number, in lower-case hexadecimal.
    pub serial: String,
    /// Chain and key, as rustls wants them.
    pub certified_key: Arc<CertifiedKey>,
}

/// Who a workload is and whom it trusts. Never edited, only replaced whole.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who it is.
    pub svid: Svid,
    /// Whom it trusts.
    pub bundle: TrustBundle,
}

/// Where the current [`Identity`] is always found. Clones share it.
#[derive(Clone, Debug)]
pub struct Source {
    current: Arc<watch::Sender<Arc<Identity>>>,
    renewal: Arc<Mutex<()>>,
}

/// Why a chain and a key are no [`Svid`].
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate.
    #[error("the chain is empty")]
    EmptyChain,
    /// The first certificate is none of a workload.
    #[error("the first certificate of the chain: {0}")]
    Leaf(#[from] LeafError),
    /// The key can't be used, or is not the certificate's.
    #[error("the private key: {0}")]
    Key(rustls::Error),
}

impl Svid {
    /// Puts together a chain (leaf first, without the root) and the leaf's private key.
    ///
    /// # Errors
    /// When the leaf breaks a rule of SPIFFE, or the key is not the leaf's. Who signed the chain is not
    /// checked.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, SvidError> {
        let leaf = leaf::read(chain.first().ok_or(SvidError::EmptyChain)?)?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(SvidError::Key)?;
        let certified_key = CertifiedKey::new(chain.clone(), key);
        certified_key.keys_match().map_err(SvidError::Key)?;
        Ok(Self {
            id: leaf.id,
            chain,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
            certified_key: Arc::new(certified_key),
        })
    }
}

impl Source {
    /// A source that stays at `identity` until [`Source::replace`].
    pub fn fixed(identity: Identity) -> Self {
        Self { current: Arc::new(watch::Sender::new(Arc::new(identity))), renewal: Arc::default() }
    }

    /// The identity now. Ask again for each use, rather than keeping it.
    pub fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.current.borrow())
    }

    /// Sees each replacement. A slow receiver misses some, never the last.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Identity>> {
        self.current.subscribe()
    }

    /// Keeps the certificate from being renewed, until what it returns is dropped.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.renewal).lock_owned().await
    }

    /// Replaces the identity; handshakes that start after this use the new one.
    pub fn replace(&self, identity: Identity) {
        self.current.send_replace(Arc::new(identity));
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
