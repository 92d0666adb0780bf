//! The identity of a process that takes the place of one that runs, as at a restart without a gap.
//!
//! A join token is good for one use, and a private key stays where it was made; so the new process can use neither its
//! predecessor's token nor its key. It makes a key of its own, and the predecessor, whose certificate proves who it is,
//! asks the CA to certify it, as it would for its own next one. To the CA it is a renewal.

use daemon::Clock;
use serde::{Deserialize, Serialize};

use crate::client::{self, Ca, ClientError, Request};
use crate::svid::Source;

/// A process that is to take another's place: it has a key, and no certificate yet.
#[derive(Debug)]
pub struct Successor {
    pub(crate) request: Request,
}

/// What the CA has granted to a successor: its chain, leaf first, and the roots to trust, all as DER. Nothing of it is
/// secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) roots: Vec<Vec<u8>>,
}

impl Successor {
    /// Makes a key.
    ///
    /// # Errors
    /// When none can be made.
    pub fn new() -> Result<Self, ClientError> {
        Ok(Self { request: Request::new()? })
    }

    /// What is to be certified: the key, with the proof that its private half is here.
    pub fn csr(&self) -> &[u8] {
        &self.request.csr
    }
}

/// Asks for the certificate of a successor, whose CSR is `csr`, in the name of the workload of `source`. Whoever asks
/// has made sure that the successor is one; and holds `source` until it has taken over, or else its own next renewal would
/// put the successor's certificate out of use.
///
/// # Errors
/// When the CA refuses, or can't be reached.
pub async fn grant(ca: &Ca, clock: &Clock, source: &Source, csr: Vec<u8>) -> Result<Granted, ClientError> {
    client::ask_for_other(ca, clock, source, csr).await
}
