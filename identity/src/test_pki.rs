//! Certificates for tests: a root, an issuing authority, and leaves that a test may spoil.

use std::sync::Arc;
use std::time::Duration;

use daemon::Clock;
use jiff::Timestamp;
use model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::time::ASN1Time;

use crate::{Identity, Source, Svid, TrustBundle};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DOMAIN: &str = "test.example";
pub(crate) const WORKLOAD: &str = "spiffe://test.example/ns/a/sa/b";

pub(crate) struct Pki {
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
    pub(crate) issuing: CertifiedIssuer<'static, KeyPair>,
    pub(crate) now: Timestamp,
}

impl Pki {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self::with_authorities(now, |_| {}, |_| {})
    }

    /// With authorities that `root` and `issuing` have changed.
    pub(crate) fn with_authorities(
        now: Timestamp,
        root: impl FnOnce(&mut CertificateParams),
        issuing: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut root_params = authority_params("root", now);
        root(&mut root_params);
        let root = CertifiedIssuer::self_signed(root_params, KeyPair::generate().unwrap()).unwrap();
        let mut issuing_params = authority_params("issuing", now);
        issuing(&mut issuing_params);
        let issuing =
            CertifiedIssuer::signed_by(issuing_params, KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, issuing, now }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(domain(), [self.root.der().clone()]).unwrap()
    }

    /// A source whose certificate is good but for what `spoil` does to it.
    pub(crate) fn source(&self, id: &str, spoil: impl FnOnce(&mut CertificateParams)) -> Source {
        let mut params = leaf_params(id, self.now);
        spoil(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuing).unwrap();
        self.source_of(vec![leaf.into(), self.issuing.der().clone()], &key)
    }

    /// A source that shows `chain`, whatever that is.
    pub(crate) fn source_of(&self, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Source {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let svid = Svid {
            id: WORKLOAD.parse().unwrap(),
            certified_key: Arc::new(CertifiedKey::new(chain.clone(), key)),
            chain,
            not_before: self.now,
            not_after: self.now + HOUR,
            serial: "00".to_owned(),
        };
        Source::fixed(Identity { svid, bundle: self.bundle() })
    }
}

/// Now, on a clock that tests may advance.
pub(crate) fn clock() -> (Clock, Timestamp) {
    let clock = Clock::system();
    let now = clock.now();
    (clock, now)
}

pub(crate) fn domain() -> TrustDomain {
    DOMAIN.parse().unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn set_validity(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    let time = |time: Timestamp| ASN1Time::from_timestamp(time.as_second()).unwrap().to_datetime();
    (params.not_before, params.not_after) = (time(from), time(to));
}

pub(crate) fn leaf_params(id: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
    set_validity(&mut params, now - Duration::from_secs(30), now + HOUR);
    params
}

fn authority_params(name: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri("spiffe://test.example")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now - HOUR, now + 24 * HOUR);
    params
}
