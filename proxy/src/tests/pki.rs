//! Certificates.

use std::path::Path;
use std::time::Duration;

use daemon::Clock;
use identity::{Identity, Svid, TrustBundle};
use model::SpiffeId;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn id(account: &str) -> SpiffeId {
    format!("spiffe://test.example/ns/test/sa/{account}").parse().unwrap()
}

/// One certificate authority.
pub(super) struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    pub(super) clock: Clock,
}

impl Pki {
    pub(super) fn new(clock: &Clock) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names = vec![SanType::URI("spiffe://test.example".try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { root, clock: clock.clone() }
    }

    pub(super) fn bundle(&self) -> TrustBundle {
        TrustBundle::new("test.example".parse().unwrap(), [self.root.der().clone()]).unwrap()
    }

    /// A new certificate of `id` that is valid for `life` from now.
    pub(super) fn identity(&self, id: &SpiffeId, life: Duration) -> Identity {
        let (leaf, key) = self.leaf(id, life);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { svid: Svid::new(vec![leaf.into()], &key).unwrap(), bundle: self.bundle() }
    }

    /// Writes one that is valid for an hour into `folder`, for programs that nobody here wrote.
    pub(super) fn write(&self, id: &SpiffeId, folder: &Path) {
        let (leaf, key) = self.leaf(id, HOUR);
        let write = |file: &str, text: String| std::fs::write(folder.join(file), text).unwrap();
        write("cert.pem", leaf.pem());
        write("key.pem", key.serialize_pem());
        write("roots.pem", self.bundle().to_pem());
    }

    fn leaf(&self, id: &SpiffeId, life: Duration) -> (Certificate, KeyPair) {
        let now = self.clock.now();
        let time = |time: jiff::Timestamp| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_second().unsigned_abs())
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (time(now - Duration::from_secs(30)), time(now + life));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.root).unwrap(), key)
    }
}
