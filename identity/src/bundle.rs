//! The roots that a workload trusts for its trust domain.

use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use model::TrustDomain;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::leaf::{self, LeafError};

/// The most roots of a trust domain. Two are usual while one takes over from another.
pub const ROOTS_MAX: usize = 16;
/// The longest bundle file accepted, in bytes.
pub const FILE_LENGTH_MAX: u64 = 1024 * 1024;

/// The roots of one trust domain; at least one.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
}

/// A root, read once.
#[derive(Clone, Debug)]
struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why certificates are no trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is none.
    #[error("the trust bundle holds no certificate")]
    Empty,
    /// More than [`ROOTS_MAX`].
    #[error("the trust bundle holds {0} certificates; {ROOTS_MAX} are the most")]
    TooMany(usize),
    /// One can't be read.
    #[error("certificate {place} of the trust bundle: {error}")]
    Unreadable {
        /// Which, from 1.
        place: usize,
        /// What is wrong.
        error: LeafError,
    },
    /// One may not sign certificates.
    #[error("certificate {place} of the trust bundle is not that of an authority (CA:TRUE, keyCertSign)")]
    NotAuthority {
        /// Which, from 1.
        place: usize,
    },
    /// One is the root of another trust domain.
    #[error("certificate {place} of the trust bundle is of `{found}`, not of the trust domain `{expected}`")]
    Foreign {
        /// Which, from 1.
        place: usize,
        /// What it names.
        found: String,
        /// What the bundle is for.
        expected: TrustDomain,
    },
    /// The PEM text is broken.
    #[error("the trust bundle is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// The file can't be read.
    #[error("can't read the trust bundle `{path}`: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The file is longer than [`FILE_LENGTH_MAX`].
    #[error("the trust bundle `{0}` is longer than {FILE_LENGTH_MAX} bytes")]
    FileTooLong(PathBuf),
}

impl TrustBundle {
    /// A bundle of these roots.
    ///
    /// # Errors
    /// When there is none or too many, or one is not a root of this trust domain. Whether a root has expired
    /// does not matter here: that is looked at when a peer is verified.
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let roots: Vec<_> = roots.into_iter().collect();
        match roots.len() {
            0 => return Err(BundleError::Empty),
            1..=ROOTS_MAX => {}
            count => return Err(BundleError::TooMany(count)),
        }
        let read = |(index, der)| read_root(&trust_domain, index + 1, der);
        let roots = roots.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        Ok(Self { trust_domain, roots })
    }

    /// Reads a bundle from PEM text. What is no certificate is skipped.
    ///
    /// # Errors
    /// When the PEM is broken, and as [`TrustBundle::new`].
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        Self::new(trust_domain, roots.map_err(BundleError::Pem)?)
    }

    /// Reads a bundle from a PEM file.
    ///
    /// # Errors
    /// When the file can't be read or is too long, and as [`TrustBundle::from_pem`].
    pub fn load(trust_domain: TrustDomain, path: &Path) -> Result<Self, BundleError> {
        let failed = |error| BundleError::File { path: path.to_owned(), error };
        let mut pem = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_LENGTH_MAX + 1).read_to_end(&mut pem).map_err(failed)?;
        if pem.len() as u64 > FILE_LENGTH_MAX {
            return Err(BundleError::FileTooLong(path.to_owned()));
        }
        Self::from_pem(trust_domain, &pem)
    }

    /// The bundle as PEM text.
    pub fn to_pem(&self) -> String {
        self.roots().map(|root| pem::encode(&pem::Pem::new("CERTIFICATE", root.to_vec()))).collect()
    }

    /// Whose roots these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// The roots that are valid at `now`. webpki never looks at a root's dates, so an expired one must not
    /// reach it.
    pub(crate) fn anchors(&self, now: Timestamp) -> Vec<TrustAnchor<'static>> {
        let valid = |root: &&Root| root.not_before <= now && now <= root.not_after;
        self.roots.iter().filter(valid).map(|root| root.anchor.clone()).collect()
    }
}

fn read_root(domain: &TrustDomain, place: usize, der: CertificateDer<'static>) -> Result<Root, BundleError> {
    let unreadable = |error| BundleError::Unreadable { place, error };
    let malformed = |error: &dyn std::fmt::Display| unreadable(LeafError::Malformed(error.to_string()));
    let certificate = leaf::parse(&der).map_err(unreadable)?;
    let signs =
        certificate.key_usage().map_err(|error| malformed(&error))?.is_some_and(|u| u.value.key_cert_sign());
    if !signs || !certificate.is_ca() {
        return Err(BundleError::NotAuthority { place });
    }
    // A root need not have a SPIFFE ID (X509-SVID 3.2), but must not have another domain's.
    if let Some(uri) = leaf::uri_names(&certificate).map_err(unreadable)?.first()
        && *uri != domain.id().as_str()
    {
        return Err(BundleError::Foreign { place, found: (*uri).to_owned(), expected: domain.clone() });
    }
    let not_before = leaf::timestamp(certificate.validity().not_before).map_err(unreadable)?;
    let not_after = leaf::timestamp(certificate.validity().not_after).map_err(unreadable)?;
    let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| malformed(&error))?.to_owned();
    Ok(Root { anchor, not_before, not_after, der })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_pki::{self, HOUR, Pki};

    #[test]
    fn a_bundle_survives_pem() {
        let (_, now) = test_pki::clock();
        let (one, two) = (Pki::new(now), Pki::new(now));
        let roots = [one.root.der().clone(), two.root.der().clone()];
        let bundle = TrustBundle::new(test_pki::domain(), roots.clone()).unwrap();
        let read = TrustBundle::from_pem(test_pki::domain(), bundle.to_pem().as_bytes()).unwrap();
        assert!(read.roots().eq(&roots));
        assert_eq!((read.anchors(now).len(), read.anchors(now + 48 * HOUR).len()), (2, 0));
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_its_place() {
        let (_, now) = test_pki::clock();
        let pki = Pki::new(now);
        let root = pki.root.der().clone();
        let leaf = pki.source(test_pki::WORKLOAD, |_| {}).current().svid.chain[0].clone();
        let new = |domain: &str, roots: Vec<CertificateDer<'static>>| {
            TrustBundle::new(domain.parse().unwrap(), roots).unwrap_err().to_string()
        };
        let table = [
            (new("test.example", vec![]), "no certificate"),
            (new("test.example", vec![root.clone(); ROOTS_MAX + 1]), "holds 17"),
            (
                new("test.example", vec![root.clone(), leaf]),
                "certificate 2 of the trust bundle is not that of an",
            ),
            (new("test.example", vec![vec![1, 2, 3].into()]), "certificate 1 of the trust bundle: "),
            (
                new("other.example", vec![root]),
                "of `spiffe://test.example`, not of the trust domain `other.example`",
            ),
            (TrustBundle::from_pem(test_pki::domain(), b"hello").unwrap_err().to_string(), "no certificate"),
            (
                TrustBundle::load(test_pki::domain(), Path::new("/nowhere/roots.pem"))
                    .unwrap_err()
                    .to_string(),
                "can't read the trust bundle `/nowhere/roots.pem`",
            ),
        ];
        for (error, expected) in table {
            assert!(error.contains(expected), "{error}");
        }
    }
}
