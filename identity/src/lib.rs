//! A workload's side of SPIFFE: its certificate, who it trusts, and TLS in which both sides know who the
//! other is.
//!
//! In reading order:
//! - [`svid`]: the certificate of a workload with its key, [`Svid`], and the [`Source`] that always has the
//!   current one;
//! - [`bundle`]: the roots that are trusted, [`TrustBundle`];
//! - [`leaf`]: the rules of SPIFFE for a workload's certificate;
//! - [`path`]: is this peer's chain good, under today's roots, now?
//! - [`tls`]: rustls configurations made of these;
//! - [`tenure`]: how long a connection may be used that they made;
//! - [`public`]: TLS to servers outside of the mesh;
//! - [`schedule`]: when to renew, when to try again;
//! - [`client`]: gets the first certificate from the CA, then renews it;
//! - [`succession`]: how the certificate of the process that takes another's place is asked for;
//! - [`grpc`]: gRPC servers and channels over such TLS.
//!
//! The default is no: a peer that is not shown to be good, by every rule, gets no connection.

pub mod bundle;
pub mod client;
pub mod grpc;
pub mod leaf;
pub mod path;
pub mod public;
pub mod schedule;
pub mod succession;
pub mod svid;
pub mod tenure;
pub mod tls;

#[cfg(test)]
mod test_pki;

pub use bundle::TrustBundle;
pub use svid::{Identity, Source, Svid};
pub use tenure::Tenure;

use model::{SpiffeId, TrustDomain, spiffe_id::SpiffeIdError};

/// The SPIFFE ID that the CA of a trust domain serves with: `spiffe://<trust domain>/ns/tidegate/sa/ca`.
///
/// # Errors
/// When the trust domain is so long that its IDs would be too long.
pub fn ca_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    trust_domain.workload("tidegate", "ca")
}

/// The SPIFFE ID that policyd serves with: `spiffe://<trust domain>/ns/tidegate/sa/policyd`.
///
/// # Errors
/// When the trust domain is so long that its IDs would be too long.
pub fn policyd_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    trust_domain.workload("tidegate", "policyd")
}
