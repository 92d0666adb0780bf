//! Certificates for callers and for Envoy, signed by the authority of Tidegate's CA: all chains are alike.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::load::Tls;

/// The trust domain of everything here.
pub(crate) const DOMAIN: &str = "bench.example";

/// A certificate's files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
    pub trust: PathBuf,
}

/// The SPIFFE ID of a service.
pub(crate) fn id(service: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/bench/sa/{service}")
}

/// Writes a certificate of `service` into `folder`, signed as the CA whose state is in `state` signs.
pub(crate) fn issue(state: &Path, service: &str, folder: &Path) -> Result<Files> {
    let signer = state.join("issuing.pem");
    let signer = fs::read_to_string(&signer).with_context(|| format!("`{}`", signer.display()))?;
    let start = signer.find("-----BEGIN CERTIFICATE").context("no certificate in `issuing.pem`")?;
    let (key, certificate) = signer.split_at(start);
    let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id(service).as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let leaf = params.signed_by(&pair, &issuer)?;
    let files = Files {
        chain: folder.join(format!("{service}.pem")),
        key: folder.join(format!("{service}.key")),
        trust: state.join("bundle.pem"),
    };
    fs::write(&files.chain, leaf.pem() + certificate)?;
    fs::write(&files.key, pair.serialize_pem())?;
    Ok(files)
}

impl Files {
    /// For a client that talks to `server`.
    pub(crate) fn to(&self, server: &str) -> Tls {
        let Self { chain, key, trust } = self.clone();
        Tls { chain, key, trust, server: id(server) }
    }
}

/// Writes what the CA keeps in its state folder, as far as it is read here.
#[cfg(test)]
pub(crate) fn make_authority(folder: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = params.self_signed(&pair).unwrap().pem();
    fs::write(folder.join("issuing.pem"), pair.serialize_pem() + &certificate).unwrap();
    fs::write(folder.join("bundle.pem"), certificate).unwrap();
}
