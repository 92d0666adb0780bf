//! The key that a caller wants a certificate for. A CSR carries the key and the proof that the caller has its
//! private half. Nothing else of it is used: names come from the join token, or from the certificate to be
//! renewed.

use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// The longest CSR accepted, in bytes. One of Tidegate's workloads has about 200.
pub const CSR_LENGTH_MAX: usize = 4096;

/// A public key whose private half the caller was shown to have. Always ECDSA P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    info: SubjectPublicKeyInfo,
    sha256: [u8; 32],
}

/// Why a CSR is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_LENGTH_MAX`].
    #[error("the CSR is longer than {CSR_LENGTH_MAX} bytes")]
    TooLong,
    /// Not a CSR.
    #[error("the CSR can't be read: it is not PKCS#10 in DER")]
    Malformed,
    /// The key is of another kind.
    #[error("the CSR's key is not ECDSA P-256")]
    NotP256,
    /// The signature is made with another algorithm.
    #[error("the CSR's signature is not ECDSA with SHA-256")]
    OtherSignature,
    /// The signature is wrong.
    #[error("the CSR's signature is not by its key, so the private key was not shown to be there")]
    NoProof,
}

/// Reads a CSR and verifies its proof.
///
/// # Errors
/// On the first rule broken.
pub fn read(der: &[u8]) -> Result<PublicKey, CsrError> {
    if der.len() > CSR_LENGTH_MAX {
        return Err(CsrError::TooLong);
    }
    let Ok((&[], csr)) = X509CertificationRequest::from_der(der) else { return Err(CsrError::Malformed) };
    if csr.certification_request_info.version != X509Version::V1 {
        return Err(CsrError::Malformed);
    }
    let public_key = &csr.certification_request_info.subject_pki;
    let curve = public_key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    if public_key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(CsrError::NotP256);
    }
    if csr.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(CsrError::OtherSignature);
    }
    csr.verify_signature().map_err(|_error| CsrError::NoProof)?;
    let info = SubjectPublicKeyInfo::from_der(public_key.raw).map_err(|_error| CsrError::NotP256)?;
    // The certificate will hold the key as written anew. Two ways to write one key would hide that it is
    // reused.
    if info.subject_public_key_info() != public_key.raw
        || public_key.subject_public_key.data.first() != Some(&4)
    {
        return Err(CsrError::Malformed);
    }
    let sha256 = Sha256::digest(public_key.raw).into();
    Ok(PublicKey { info, sha256 })
}

impl PublicKey {
    /// The key of this CA's own.
    pub(crate) fn of_own(key: &rcgen::KeyPair) -> Result<Self, rcgen::Error> {
        let der = key.subject_public_key_info();
        Ok(Self { sha256: Sha256::digest(&der).into(), info: SubjectPublicKeyInfo::from_der(&der)? })
    }

    /// The SHA-256 of the DER SubjectPublicKeyInfo: what tells keys apart.
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The key as rcgen wants it.
    pub(crate) const fn info(&self) -> &SubjectPublicKeyInfo {
        &self.info
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
    };

    use super::*;

    fn csr(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_good_csr_gives_its_key_and_names_in_it_do_not_matter() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://a/admin".try_into().unwrap())];
        let der = params.serialize_request(&key).unwrap().der().to_vec();
        let expected: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
        assert_eq!(read(&der).unwrap().sha256(), &expected);
    }

    #[test]
    fn garbage_is_told_apart() {
        let good = csr(&PKCS_ECDSA_P256_SHA256);
        let mut longer = good.clone();
        longer.push(0);
        let mut wrong_signature = good.clone();
        *wrong_signature.last_mut().unwrap() ^= 1;
        let table: &[(&str, &[u8], CsrError)] = &[
            ("nothing", b"", CsrError::Malformed),
            ("text", b"hello", CsrError::Malformed),
            ("cut off", &good[..good.len() - 1], CsrError::Malformed),
            ("followed by a byte", &longer, CsrError::Malformed),
            ("too long", &vec![0x30; CSR_LENGTH_MAX + 1], CsrError::TooLong),
            ("P-384", &csr(&PKCS_ECDSA_P384_SHA384), CsrError::NotP256),
            ("Ed25519", &csr(&PKCS_ED25519), CsrError::NotP256),
            ("wrong signature", &wrong_signature, CsrError::NoProof),
        ];
        for (case, der, expected) in table {
            assert_eq!(read(der).as_ref(), Err(expected), "{case}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_no_change_gets_another_key_in(at in any::<usize>(), bit in 0_u8..8) {
            let good = csr(&PKCS_ECDSA_P256_SHA256);
            let mut der = good.clone();
            let at = at % der.len();
            der[at] ^= 1 << bit;
            // Some bits around the signature mean nothing, and may change.
            prop_assert!(read(&der).is_err() || read(&der) == read(&good), "byte {} bit {}", at, bit);
        }
    }
}
