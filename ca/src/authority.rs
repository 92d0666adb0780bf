//! Root and issuing authority, with their keys, and the files they are kept in.
//!
//! The root lives ten years and signs issuing authorities alone. An issuing authority lives a week and is
//! replaced at half of that, so a key that leaked is worth little for long. Neither has name constraints:
//! rustls-webpki refuses chains that constrain URIs, so a workload looks at the trust domain itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::state_dir;
use identity::TrustBundle;
use identity::bundle::BundleError;
use identity::leaf::{self, LeafError};
use jiff::Timestamp;
use model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::time::ASN1Time;

/// How long a root lives.
pub const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How far a certificate's start is set back, to allow for clocks that differ.
pub const BACKDATE: Duration = Duration::from_secs(30);

const ROOT_FILE: &str = "root.pem";
const ISSUING_FILE: &str = "issuing.pem";

/// What signs: a root, and an issuing authority under it. Never edited, only replaced whole.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    root: Signer,
    issuing: Signer,
}

/// A certificate that may sign, with its key.
#[derive(Debug)]
pub struct Signer {
    certificate: CertificateDer<'static>,
    serial: String,
    not_before: Timestamp,
    not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or the folder can't be read or written.
    #[error("can't {what} `{path}`: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// A file does not hold a private key and its certificate.
    #[error("`{path}` does not hold an authority's private key and certificate: {reason}")]
    BadFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The root is that of another trust domain.
    #[error("the root: {0}")]
    Root(#[from] BundleError),
    /// The root has ended.
    #[error(
        "the root ended at {0}; move the state folder away to start with a new root, which all workloads must be given"
    )]
    RootExpired(Timestamp),
    /// A certificate could not be made.
    #[error("can't make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate that was just made can't be read.
    #[error("can't read a certificate: {0}")]
    Read(#[from] LeafError),
}

impl Authority {
    /// Reads root and issuing authority from `folder`, and makes and writes what is missing or due to be
    /// replaced.
    ///
    /// # Errors
    /// When a file is unusable, belongs to another trust domain, or holds a root that has ended. Nothing is
    /// overwritten then.
    pub fn open(
        folder: &Path,
        trust_domain: &TrustDomain,
        issuing_ttl: Duration,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        state_dir::make(folder).map_err(|error| AuthorityError::File {
            what: "make the folder",
            path: folder.to_owned(),
            error,
        })?;
        let root = match read(&folder.join(ROOT_FILE))? {
            Some(root) => root,
            None => make_root(trust_domain, now)?.written(&folder.join(ROOT_FILE))?,
        };
        TrustBundle::new(trust_domain.clone(), [root.certificate.clone()])?;
        if now >= root.not_after {
            return Err(AuthorityError::RootExpired(root.not_after));
        }
        let issuing = match read(&folder.join(ISSUING_FILE))? {
            Some(issuing) if now < replace_at(&issuing) && issuing.is_signed_by(&root) => issuing,
            _ => make_issuing(trust_domain, &root, issuing_ttl, now)?.written(&folder.join(ISSUING_FILE))?,
        };
        Ok(Self { trust_domain: trust_domain.clone(), root, issuing })
    }

    /// The roots that workloads are to trust.
    ///
    /// # Errors
    /// Never for an authority that [`Authority::open`] gave.
    pub fn bundle(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.trust_domain.clone(), [self.root.certificate.clone()])
    }

    /// Whose authority this is.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What signs issuing authorities.
    pub const fn root(&self) -> &Signer {
        &self.root
    }

    /// What signs workloads' certificates.
    pub const fn issuing(&self) -> &Signer {
        &self.issuing
    }

    /// When the issuing authority is to be replaced, by another [`Authority::open`].
    pub fn replace_at(&self) -> Timestamp {
        replace_at(&self.issuing)
    }
}

impl Signer {
    /// Its certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its serial number, in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// From when it is valid.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when it is valid.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its public key: a DER SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }

    /// Its name and key, as rcgen wants them.
    pub(crate) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let parsed = leaf::parse(&certificate)?;
        let (serial, validity) = (leaf::serial(&parsed), parsed.validity());
        let (not_before, not_after) =
            (leaf::timestamp(validity.not_before)?, leaf::timestamp(validity.not_after)?);
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, serial, not_before, not_after, issuer })
    }

    fn is_signed_by(&self, root: &Self) -> bool {
        let (Ok(own), Ok(root)) = (leaf::parse(&self.certificate), leaf::parse(&root.certificate)) else {
            return false;
        };
        own.verify_signature(Some(root.public_key())).is_ok()
    }

    /// Key and certificate are one file, so that no crash leaves one without the other.
    fn written(self, path: &Path) -> Result<Self, AuthorityError> {
        let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", self.certificate.to_vec()));
        let text = format!("{}{certificate}", self.issuer.key().serialize_pem());
        state_dir::write_whole(path, text.as_bytes()).map_err(|error| AuthorityError::File {
            what: "write",
            path: path.to_owned(),
            error,
        })?;
        Ok(self)
    }
}

/// None when there is no such file.
fn read(path: &Path) -> Result<Option<Signer>, AuthorityError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AuthorityError::File { what: "read", path: path.to_owned(), error }),
    };
    let bad = |reason: String| AuthorityError::BadFile { path: path.to_owned(), reason };
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| bad(format!("the key: {error}")))?;
    let key = KeyPair::try_from(&key).map_err(|error| bad(format!("the key: {error}")))?;
    let certificate =
        CertificateDer::from_pem_slice(&text).map_err(|error| bad(format!("the certificate: {error}")))?;
    let parsed = leaf::parse(&certificate).map_err(|error| bad(error.to_string()))?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(bad("the key is not the certificate's".to_owned()));
    }
    drop(parsed);
    Signer::new(certificate, key).map(Some).map_err(|error| bad(error.to_string()))
}

fn make_root(trust_domain: &TrustDomain, now: Timestamp) -> Result<Signer, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = authority_params("Tidegate root CA", 1, trust_domain)?;
    set_validity(&mut params, now, now.checked_add(ROOT_TTL).unwrap_or(Timestamp::MAX))?;
    let certificate = params.self_signed(&key)?;
    Signer::new(certificate.into(), key)
}

fn make_issuing(
    trust_domain: &TrustDomain,
    root: &Signer,
    ttl: Duration,
    now: Timestamp,
) -> Result<Signer, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = authority_params("Tidegate issuing CA", 0, trust_domain)?;
    params.use_authority_key_identifier_extension = true;
    let not_after = now.checked_add(ttl).unwrap_or(Timestamp::MAX).min(root.not_after);
    set_validity(&mut params, now, not_after)?;
    let certificate = params.signed_by(&key, &root.issuer)?;
    Signer::new(certificate.into(), key)
}

fn authority_params(
    name: &str,
    path_length: u8,
    trust_domain: &TrustDomain,
) -> Result<CertificateParams, AuthorityError> {
    let (serial, serial_text) = random_serial();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // Two authorities with one name would have verifiers try each other's keys.
    params.distinguished_name.push(DnType::from_oid(DN_SERIAL_NUMBER), serial_text);
    params.serial_number = Some(serial);
    params.subject_alt_names = vec![SanType::URI(trust_domain.id().as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// X.520 `serialNumber`.
const DN_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// A serial number of 16 bytes, 126 bits of them random, and its text. Two bits are fixed, to keep it
/// positive and of always the same length.
pub(crate) fn random_serial() -> (SerialNumber, String) {
    let number = (rand::random::<u128>() & !(0b11 << 126)) | (0b01 << 126);
    (SerialNumber::from_slice(&number.to_be_bytes()), format!("{number:032x}"))
}

/// From [`BACKDATE`] before `from`, to `to`.
pub(crate) fn set_validity(
    params: &mut CertificateParams,
    from: Timestamp,
    to: Timestamp,
) -> Result<(), LeafError> {
    let time = |time: Timestamp| {
        let time = ASN1Time::from_timestamp(time.as_second());
        time.map(|time| time.to_datetime()).map_err(|error| LeafError::Malformed(error.to_string()))
    };
    params.not_before = time(from.checked_sub(BACKDATE).unwrap_or(from))?;
    params.not_after = time(to)?;
    Ok(())
}

fn replace_at(issuing: &Signer) -> Timestamp {
    let made_at = issuing.not_before.checked_add(BACKDATE).unwrap_or(issuing.not_before);
    let half = identity::schedule::life(made_at, issuing.not_after) / 2;
    made_at.checked_add(half).unwrap_or(issuing.not_after)
}

#[cfg(test)]
mod tests;
