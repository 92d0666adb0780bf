//! Signs a workload's certificate, then checks what was signed. Pure but for the random serial number.

use std::time::Duration;

use identity::leaf::{self, Leaf, LeafError};
use jiff::Timestamp;
use model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::authority::{self, Authority};
use crate::csr::PublicKey;

/// Nothing is signed when less than this is left of the issuing authority: the certificate would be of no
/// use.
pub const LIFE_MIN: Duration = Duration::from_secs(2);

/// A certificate that was signed, and passed its check.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What it says.
    pub leaf: Leaf,
    /// DER, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The serial number of the authority that signed it.
    pub issuer_serial: String,
}

/// Why nothing was signed, or what was signed is not given out.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The root or issuing authority has ended, or is about to.
    #[error("the authority `{serial}` ends at {not_after}: nothing can be signed")]
    AuthorityEnds {
        /// Its serial number.
        serial: String,
        /// Its end.
        not_after: Timestamp,
    },
    /// The identity is not of this authority's trust domain, or has no path.
    #[error("`{0}` is no workload of this trust domain")]
    NotOurs(SpiffeId),
    /// Signing failed.
    #[error("can't sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// The certificate signed can't be read, or breaks a rule of SPIFFE.
    #[error("the certificate that was signed: {0}")]
    Leaf(#[from] LeafError),
    /// The certificate signed is not what was meant.
    #[error("the certificate that was signed is not as meant: {0}")]
    Lint(&'static str),
}

/// Signs a certificate for `id`, whose key is `public_key`, to live for `ttl` but no longer than its
/// authority.
///
/// # Errors
/// When the authority has ended, the ID is not of its trust domain, or the result fails [`lint`].
pub fn sign(
    authority: &Authority,
    public_key: &PublicKey,
    id: &SpiffeId,
    ttl: Duration,
    now: Timestamp,
) -> Result<Issued, IssueError> {
    if id.trust_domain() != authority.trust_domain().as_str() || id.path().is_empty() {
        return Err(IssueError::NotOurs(id.clone()));
    }
    let issuing = authority.issuing();
    for signer in [authority.root(), issuing] {
        if identity::schedule::life(now, signer.not_after()) < LIFE_MIN {
            let serial = signer.serial().to_owned();
            return Err(IssueError::AuthorityEnds { serial, not_after: signer.not_after() });
        }
    }
    let not_after = now.checked_add(ttl).unwrap_or(Timestamp::MAX).min(issuing.not_after());
    let certificate: CertificateDer<'static> =
        params(id, now, not_after)?.signed_by(public_key.info(), issuing.issuer())?.into();
    let leaf = lint(&certificate, authority.trust_domain().as_str())?;
    let whole_second = |time: Timestamp| time.as_second();
    if leaf.id != *id || whole_second(leaf.not_after) != whole_second(not_after) || leaf.not_before > now {
        return Err(IssueError::Lint("its identity or time"));
    }
    Ok(Issued {
        leaf,
        chain: vec![certificate, issuing.certificate().clone()],
        issuer_serial: issuing.serial().to_owned(),
    })
}

/// Checks that a certificate is one that this CA means to give out: by the rules of SPIFFE, and by its own.
///
/// # Errors
/// On the first rule broken.
pub fn lint(der: &[u8], trust_domain: &str) -> Result<Leaf, IssueError> {
    let leaf = leaf::read(der)?;
    let certificate = leaf::parse(der)?;
    let rules = [
        (leaf.id.trust_domain() == trust_domain, "the trust domain"),
        (leaf.serial.len() == 32, "the length of the serial number"),
        (certificate.subject().iter().next().is_none(), "the subject, which is to be empty"),
        (names_are_one_critical(&certificate), "the name, which is to be one URI, critical"),
        (is_explicitly_no_authority(&certificate), "basic constraints, which are to be there, critical"),
        (signs_and_nothing_else(&certificate), "key usage, which is to be digitalSignature alone, critical"),
        (is_for_both_sides(&certificate), "extended key usage, which is to be serverAuth and clientAuth"),
        (certificate.name_constraints().is_ok_and(|found| found.is_none()), "name constraints"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(IssueError::Lint(rule)),
        None => Ok(leaf),
    }
}

fn params(id: &SpiffeId, now: Timestamp, not_after: Timestamp) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(authority::random_serial().0);
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    authority::set_validity(&mut params, now, not_after)?;
    Ok(params)
}

fn names_are_one_critical(certificate: &X509Certificate<'_>) -> bool {
    matches!(certificate.subject_alternative_name(),
        Ok(Some(names)) if names.critical && names.value.general_names.len() == 1)
}

fn is_explicitly_no_authority(certificate: &X509Certificate<'_>) -> bool {
    matches!(certificate.basic_constraints(), Ok(Some(found)) if found.critical && !found.value.ca)
}

fn signs_and_nothing_else(certificate: &X509Certificate<'_>) -> bool {
    matches!(certificate.key_usage(), Ok(Some(usage)) if usage.critical && usage.value.flags == 1)
}

fn is_for_both_sides(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => {
            let others = usage.value.any || usage.value.code_signing || !usage.value.other.is_empty();
            usage.value.server_auth && usage.value.client_auth && !others
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Case {
        _folder: tempfile::TempDir,
        authority: Authority,
        key: PublicKey,
        now: Timestamp,
    }

    fn case() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_millisecond(1_800_000_000_700).unwrap();
        let authority =
            Authority::open(folder.path(), &"a.example".parse().unwrap(), 24 * HOUR, now).unwrap();
        let key = PublicKey::of_own(&KeyPair::generate().unwrap()).unwrap();
        Case { _folder: folder, authority, key, now }
    }

    #[test]
    fn what_is_signed_says_what_was_meant() {
        let Case { authority, key, now, .. } = &case();
        let id: SpiffeId = "spiffe://a.example/ns/b/sa/c".parse().unwrap();
        let issued = sign(authority, key, &id, HOUR, *now).unwrap();
        assert_eq!((&issued.leaf.id, issued.chain.len()), (&id, 2));
        assert_eq!(issued.leaf.not_after.as_second(), now.as_second() + 3600);
        assert_eq!(issued.leaf.not_before.as_second(), now.as_second() - 30);
        let again = sign(authority, key, &id, HOUR, *now).unwrap();
        assert_ne!(again.leaf.serial, issued.leaf.serial);
        let long = sign(authority, key, &id, 100 * HOUR, *now).unwrap();
        assert_eq!(long.leaf.not_after, authority.issuing().not_after());
    }

    #[test]
    fn a_dying_authority_signs_nothing() {
        let Case { authority, key, .. } = &case();
        let id: SpiffeId = "spiffe://a.example/x".parse().unwrap();
        let end = authority.issuing().not_after();
        assert!(sign(authority, key, &id, HOUR, end - LIFE_MIN).is_ok());
        for now in [end - Duration::from_secs(1), end, end + HOUR] {
            assert!(matches!(sign(authority, key, &id, HOUR, now), Err(IssueError::AuthorityEnds { .. })));
        }
    }

    #[test]
    fn only_workloads_of_the_trust_domain_are_signed() {
        let Case { authority, key, now, .. } = &case();
        for id in ["spiffe://b.example/x", "spiffe://a.example"] {
            let id = id.parse().unwrap();
            assert!(matches!(sign(authority, key, &id, HOUR, *now), Err(IssueError::NotOurs(_))), "{id}");
        }
    }

    #[test]
    fn lint_finds_what_differs_from_the_profile() {
        let Case { authority, key, now, .. } = &case();
        type Spoil = fn(&mut CertificateParams);
        let table: &[(&str, Spoil)] = &[
            ("domain", |p| {
                p.subject_alt_names = vec![SanType::URI("spiffe://b.example/x".try_into().unwrap())]
            }),
            ("serial number", |p| p.serial_number = Some(rcgen::SerialNumber::from_slice(&[1]))),
            ("subject", |p| p.distinguished_name.push(rcgen::DnType::CommonName, "x")),
            ("name", |p| p.subject_alt_names.push(SanType::DnsName("x.example".try_into().unwrap()))),
            ("basic constraints", |p| p.is_ca = IsCa::NoCa),
            ("key usage", |p| p.key_usages.push(KeyUsagePurpose::KeyAgreement)),
            ("extended key usage", |p| p.extended_key_usages.truncate(1)),
            ("extended key usage", |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::Any)),
            ("2 URI names", |p| p.subject_alt_names.push(p.subject_alt_names[0].clone())),
        ];
        let id: SpiffeId = "spiffe://a.example/x".parse().unwrap();
        for (expected, spoil) in table {
            let mut params = params(&id, *now, *now + HOUR).unwrap();
            spoil(&mut params);
            let der = params.signed_by(key.info(), authority.issuing().issuer()).unwrap();
            let error = lint(der.der(), "a.example").unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
