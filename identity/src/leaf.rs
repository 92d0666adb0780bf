//! The rules of SPIFFE for a workload's certificate (X509-SVID 2, 3.1, 4.1, 4.3 and 5.2).
//!
//! Path validation knows none of them: to webpki, two SPIFFE IDs in one certificate are as good as one.

use jiff::Timestamp;
use model::SpiffeId;
use model::spiffe_id::SpiffeIdError;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// The longest certificate accepted, in bytes. Tidegate's own have about 700; an ML-DSA one has about 6,000.
pub const CERTIFICATE_LENGTH_MAX: usize = 16 * 1024;

/// What a workload's certificate says. Who signed it is another question: see [`crate::path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Whose it is.
    pub id: SpiffeId,
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// The public key: a DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

/// Why a certificate is none of a workload. Each variant but the first two is one rule of the standard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Longer than [`CERTIFICATE_LENGTH_MAX`].
    #[error("the certificate is longer than {CERTIFICATE_LENGTH_MAX} bytes")]
    TooLong,
    /// Not a certificate.
    #[error("the certificate can't be read: {0}")]
    Malformed(String),
    /// Not exactly one URI name.
    #[error("the certificate has {0} URI names, not exactly one")]
    UriNames(usize),
    /// The URI name is no SPIFFE ID.
    #[error("the certificate's URI name is not a SPIFFE ID: {0}")]
    NotSpiffe(#[from] SpiffeIdError),
    /// The ID is that of a trust domain's authority.
    #[error("the certificate's SPIFFE ID `{0}` has no path: it is that of an authority")]
    NoPath(SpiffeId),
    /// It may sign certificates.
    #[error("the certificate is that of an authority (CA:TRUE)")]
    Authority,
    /// Without key usage `digitalSignature`.
    #[error("the certificate's key usage is missing, or does not include digitalSignature")]
    NoDigitalSignature,
    /// With key usage `keyCertSign` or `cRLSign`.
    #[error("the certificate's key usage includes keyCertSign or cRLSign")]
    MaySign,
}

/// Reads a workload's certificate and checks the rules that need nothing but the certificate.
///
/// # Errors
/// On the first rule broken.
pub fn read(der: &[u8]) -> Result<Leaf, LeafError> {
    let certificate = parse(der)?;
    let id = only_id(&certificate)?;
    if id.path().is_empty() {
        return Err(LeafError::NoPath(id));
    }
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(LeafError::Authority);
    }
    match certificate.key_usage().map_err(malformed)? {
        Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
            return Err(LeafError::MaySign);
        }
        Some(usage) if usage.value.digital_signature() => {}
        _ => return Err(LeafError::NoDigitalSignature),
    }
    Ok(Leaf {
        id,
        serial: serial(&certificate),
        not_before: timestamp(certificate.validity().not_before)?,
        not_after: timestamp(certificate.validity().not_after)?,
        public_key: certificate.public_key().raw.to_vec(),
    })
}

/// Reads one certificate of any kind, all of `der`.
///
/// # Errors
/// When it is longer than [`CERTIFICATE_LENGTH_MAX`], or no certificate.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, LeafError> {
    if der.len() > CERTIFICATE_LENGTH_MAX {
        return Err(LeafError::TooLong);
    }
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) => Ok(certificate),
        Ok(_) => Err(LeafError::Malformed("bytes follow its end".to_owned())),
        Err(error) => Err(malformed(error)),
    }
}

/// All URI names of a certificate.
///
/// # Errors
/// When its names can't be read.
pub fn uri_names<'a>(certificate: &'a X509Certificate<'a>) -> Result<Vec<&'a str>, LeafError> {
    let Some(names) = certificate.subject_alternative_name().map_err(malformed)? else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A name that can't be read might be a second URI.
            GeneralName::Invalid(..) => return Err(LeafError::Malformed("a name of it".to_owned())),
            _ => {}
        }
    }
    Ok(uris)
}

/// A point in time as certificates write it.
///
/// # Errors
/// When it is beyond the years that can be told.
pub fn timestamp(time: ASN1Time) -> Result<Timestamp, LeafError> {
    Timestamp::from_second(time.timestamp()).map_err(malformed)
}

/// A certificate's serial number, in lower-case hexadecimal.
pub fn serial(certificate: &X509Certificate<'_>) -> String {
    certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn only_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    match uri_names(certificate)?.as_slice() {
        [uri] => Ok(uri.parse()?),
        uris => Err(LeafError::UriNames(uris.len())),
    }
}

fn malformed(error: impl std::fmt::Display) -> LeafError {
    LeafError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(matches!(read(b""), Err(LeafError::Malformed(_))));
        assert!(matches!(read(b"hello"), Err(LeafError::Malformed(_))));
        assert_eq!(read(&vec![0x30; CERTIFICATE_LENGTH_MAX + 1]), Err(LeafError::TooLong));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes).is_err());
        }
    }
}
