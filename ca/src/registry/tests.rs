use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::issue::IssueError;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const ID: &str = "spiffe://a.example/ns/n/sa/x";

/// A registry in a folder of its own, and a time to start at.
pub(crate) struct Case {
    pub(crate) registry: Registry,
    folder: tempfile::TempDir,
    pub(crate) now: Timestamp,
}

impl Case {
    pub(crate) fn new() -> Self {
        Self::starting_at(Timestamp::from_millisecond(1_800_000_000_250).unwrap())
    }

    pub(crate) fn starting_at(now: Timestamp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits =
            Limits { certificate_ttl: HOUR, expired_grace: 24 * HOUR, issuing_ca_ttl: 7 * 24 * HOUR };
        let domain = "a.example".parse().unwrap();
        let authority = Authority::open(folder.path(), &domain, limits.issuing_ca_ttl, now).unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
        Self { registry: Registry::new(ledger, authority, limits, now).unwrap(), folder, now }
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.folder.path().join("ledger.sqlite")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn token(&self, id: &str, instance: &str) -> String {
        self.registry.create_token(&id.parse().unwrap(), instance, HOUR, self.now).unwrap()
    }

    /// A first certificate, with a key of its own.
    pub(crate) fn attest(&self, id: &str, instance: &str) -> Peer {
        peer(&self.registry.attest(&self.token(id, instance), &csr(), self.now).unwrap())
    }

    fn renew(&self, old: &Peer) -> Result<Peer, Refusal> {
        self.registry.renew(old, &csr(), self.now).map(|answer| peer(&answer))
    }
}

/// What the CA will see of whoever got this answer.
pub(crate) fn peer(answer: &Answer) -> Peer {
    let record = &answer.entry.record;
    Peer { id: record.spiffe_id.parse().unwrap(), not_after: record.not_after, serial: record.serial.clone() }
}

pub(crate) fn csr_of(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn csr() -> Vec<u8> {
    csr_of(&KeyPair::generate().unwrap())
}

#[test]
fn what_is_given_out_is_in_the_ledger() {
    let case = Case::new();
    let answer = case.registry.attest(&case.token(ID, "x-1"), &csr(), case.now).unwrap();
    let ledger = Ledger::open_read_only(&case.ledger_path()).unwrap();
    let entry = ledger::find(ledger.connection(), &answer.entry.record.serial).unwrap().unwrap();
    assert_eq!(entry, answer.entry);
    assert_eq!(entry.record.der, answer.chain[0].to_vec());
    assert_eq!((entry.record.spiffe_id.as_str(), entry.record.instance.as_str()), (ID, "x-1"));
    let mut kinds = Vec::new();
    ledger.for_each(|entry| kinds.push(entry.record.kind)).unwrap();
    assert_eq!(kinds, [Kind::Root, Kind::Issuing, Kind::Attest]);
}

#[test]
fn a_token_is_used_up_by_a_certificate_and_by_nothing_else() {
    let case = Case::new();
    let taken = KeyPair::generate().unwrap();
    case.registry.attest(&case.token(ID, "x-1"), &csr_of(&taken), case.now).unwrap();

    let token = case.token("spiffe://a.example/ns/n/sa/y", "y-1");
    let attest = |csr: &[u8], now| case.registry.attest(&token, csr, now);
    assert!(matches!(attest(b"garbage", case.now), Err(Refusal::Csr(_))));
    assert!(matches!(attest(&csr_of(&taken), case.now), Err(Refusal::KeyOfOther)));
    let unknown = case.registry.attest("tidegate-join-00", &csr(), case.now);
    assert!(matches!(unknown, Err(Refusal::Token(TokenError::Unknown))));
    assert!(matches!(attest(&csr(), case.now + HOUR), Err(Refusal::Token(TokenError::Expired(_)))));

    let key = KeyPair::generate().unwrap();
    let first = attest(&csr_of(&key), case.now).unwrap();
    assert!(matches!(attest(&csr(), case.now), Err(Refusal::Token(TokenError::Used))));
    // The same key again is the same caller, who did not get the answer.
    let again = attest(&csr_of(&key), case.now).unwrap();
    assert_eq!((again.chain, again.entry), (first.chain.clone(), first.entry.clone()));
    case.renew(&peer(&first)).unwrap();
    assert!(matches!(attest(&csr_of(&key), case.now), Err(Refusal::Token(TokenError::Used))));
}

#[test]
fn a_key_is_not_certified_for_two() {
    let case = Case::new();
    let key = KeyPair::generate().unwrap();
    case.registry.attest(&case.token(ID, "x-1"), &csr_of(&key), case.now).unwrap();
    for (id, instance) in [("spiffe://a.example/ns/n/sa/y", "x-1"), (ID, "x-2")] {
        let other = case.registry.attest(&case.token(id, instance), &csr_of(&key), case.now);
        assert!(matches!(other, Err(Refusal::KeyOfOther)), "{id} {instance}");
        let other = case.registry.renew(&case.attest(id, instance), &csr_of(&key), case.now);
        assert!(matches!(other, Err(Refusal::KeyOfOther)), "{id} {instance}");
    }
}

#[test]
fn the_last_certificate_and_the_one_before_it_can_be_renewed() {
    let case = Case::new();
    let first = case.attest(ID, "x-1");
    let lost = case.renew(&first).unwrap();
    let second = case.renew(&first).unwrap();
    assert!(matches!(case.renew(&lost), Err(Refusal::Superseded { .. })));
    let third = case.renew(&second).unwrap();
    assert!(matches!(case.renew(&first), Err(Refusal::Superseded { .. })));
    case.renew(&third).unwrap();

    // Whoever joins anew under the same name takes the place of the process before.
    let anew = case.attest(ID, "x-1");
    assert!(matches!(case.renew(&third), Err(Refusal::Superseded { .. })));
    case.renew(&anew).unwrap();
}

#[test]
fn only_workloads_in_the_ledger_can_renew() {
    let case = Case::new();
    let good = case.attest(ID, "x-1");
    let own_key = PublicKey::of_own(&KeyPair::generate().unwrap()).unwrap();
    let ca_id = "spiffe://a.example/ns/tidegate/sa/ca".parse().unwrap();
    let own = peer(&case.registry.issue_own(&own_key, &ca_id, None, case.now).unwrap());
    let table = [
        ("unknown serial", Peer { serial: "00".to_owned(), ..good.clone() }),
        ("another's serial", Peer { id: "spiffe://a.example/ns/n/sa/y".parse().unwrap(), ..good }),
        ("the CA itself", own),
    ];
    for (name, peer) in table {
        assert!(matches!(case.renew(&peer), Err(Refusal::NotInLedger(_))), "{name}");
    }
}

#[test]
fn an_ended_certificate_can_be_renewed_within_the_grace() {
    let case = Case::new();
    let first = case.attest(ID, "x-1");
    let too_late = case.now + 25 * HOUR;
    assert!(matches!(case.registry.renew(&first, &csr(), too_late), Err(Refusal::GraceOver(_))));
    let late = peer(&case.registry.renew(&first, &csr(), case.now + 24 * HOUR).unwrap());
    assert!(late.not_after > too_late - HOUR);
}

#[test]
fn a_new_authority_is_recorded_before_it_signs_and_an_ended_one_signs_nothing() {
    let case = Case::new();
    let first = case.attest(ID, "x-1");
    let later = case.now + 8 * 24 * HOUR;
    let late = Peer { not_after: later, ..first };
    assert!(matches!(
        case.registry.renew(&late, &csr(), later),
        Err(Refusal::Issue(IssueError::AuthorityEnds { .. }))
    ));
    let domain = "a.example".parse().unwrap();
    let next = Authority::open(case.folder(), &domain, 7 * 24 * HOUR, later).unwrap();
    case.registry.replace_authority(next, later).unwrap();
    let answer = case.registry.renew(&late, &csr(), later).unwrap();
    let ledger = Ledger::open_read_only(&case.ledger_path()).unwrap();
    let issuer = ledger::find(ledger.connection(), &answer.entry.record.issuer_serial).unwrap().unwrap();
    assert_eq!(issuer.record.kind, Kind::Issuing);
    assert!(issuer.seq < answer.entry.seq);
}

#[test]
fn concurrent_callers_share_a_token_in_vain() {
    let case = Case::new();
    let token = case.token(ID, "x-1");
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let attest = || case.registry.attest(&token, &csr(), case.now).is_ok();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(attest)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 1);
}
