//! Certificates for tests: one root, and leaves for whoever is asked for.

use identity::{Identity, Source, Svid, TrustBundle};
use model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;

pub(crate) struct Pki {
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = params("spiffe://shop.example");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { root: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new("shop.example".parse().unwrap(), [self.root.der().clone()]).unwrap()
    }

    pub(crate) fn source(&self, id: &SpiffeId) -> Source {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf_params(id.as_str()).signed_by(&key, &self.root).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let svid = Svid::new(vec![leaf.into()], &key).unwrap();
        Source::fixed(Identity { svid, bundle: self.bundle() })
    }
}

pub(crate) fn leaf_params(id: &str) -> CertificateParams {
    let mut params = params(id);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params(id: &str) -> CertificateParams {
    let now = daemon::Clock::system().now();
    let time = |seconds: i64| {
        let shown = (now + jiff::SignedDuration::from_secs(seconds)).to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(
            shown.year().into(),
            u8::try_from(shown.month()).unwrap(),
            u8::try_from(shown.day()).unwrap(),
        )
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    const DAY: i64 = 86_400;
    (params.not_before, params.not_after) = (time(-DAY), time(2 * DAY));
    params
}
