//! Certificates of workloads, and the roots that are trusted.

use identity::{TrustBundle, leaf};
use model::{SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A certificate of a workload: it has one identity, and whoever validates its path reads the same one.
pub fn certificate(bytes: &[u8]) {
    let Ok(read) = leaf::read(bytes) else { return };
    assert!(bytes.len() <= leaf::CERTIFICATE_LENGTH_MAX);
    let id = read.id.to_string();
    assert_eq!(id.parse::<SpiffeId>().as_ref(), Ok(&read.id), "an ID is not its own text");
    assert!(!read.id.path().is_empty(), "an authority passes for a workload");
    let der = CertificateDer::from(bytes);
    if let Ok(other) = EndEntityCert::try_from(&der) {
        // Trust domains are compared without regard to case; and where the other one finds none, the path is refused.
        let same = other.valid_uri_names().all(|name| name.parse::<SpiffeId>().as_ref() == Ok(&read.id));
        assert!(same, "it is somebody else for whom validates its path");
    }
}

/// Roots as PEM: written again they are the same.
pub fn trust_bundle(bytes: &[u8]) {
    let Ok(domain) = "a.example".parse::<TrustDomain>() else { return };
    let Ok(bundle) = TrustBundle::from_pem(domain.clone(), bytes) else { return };
    assert!((1..=identity::bundle::ROOTS_MAX).contains(&bundle.roots().len()));
    let again = TrustBundle::from_pem(domain, bundle.to_pem().as_bytes());
    assert!(again.is_ok_and(|again| again.roots().eq(bundle.roots())), "it is not what it says");
}
