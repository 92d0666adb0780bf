//! What can be said of each entry: is it in its place in the chain, is it what the certificate says, does it
//! keep to what was allowed.

use std::collections::HashMap;
use std::time::Duration;

use identity::leaf;
use identity::schedule;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{AuditFinding, AuditSeverity, AuthorityState, Rule, subject};
use crate::authority::BACKDATE;
use crate::issue;
use crate::ledger::{Entry, FIRST_PREVIOUS, Kind, Record};

/// Certificates count in whole seconds, the ledger in milliseconds.
const ROUNDING: Duration = Duration::from_secs(1);
/// How much of an issuing authority's life may pass before it is replaced: half, and some for a CA that was
/// off.
const ISSUING_SHARE_MAX: f64 = 0.6;
/// How much of a root's life may pass before its end has to be planned for.
const ROOT_SHARE_MAX: f64 = 0.9;

/// All authorities, in order.
pub(super) fn authorities(entries: &[Entry]) -> Vec<AuthorityState> {
    let newest = |kind| entries.iter().rev().find(|entry| entry.record.kind == kind).map(|entry| entry.seq);
    let (root, issuing) = (newest(Kind::Root), newest(Kind::Issuing));
    let authorities = entries.iter().filter(|entry| entry.record.kind.is_authority());
    authorities
        .map(|entry| AuthorityState {
            kind: entry.record.kind,
            serial: entry.record.serial.clone(),
            issued_at: entry.record.issued_at,
            not_after: entry.record.not_after,
            is_current: Some(entry.seq) == root || Some(entry.seq) == issuing,
        })
        .collect()
}

/// What is wrong with single entries, or between them.
pub(super) fn findings(
    entries: &[Entry],
    authorities: &[AuthorityState],
    now: Timestamp,
) -> Vec<AuditFinding> {
    let mut findings = Vec::new();
    let by_serial: HashMap<_, _> = authorities.iter().map(|found| (found.serial.as_str(), found)).collect();
    let mut owner_of_key: HashMap<[u8; 32], &Entry> = HashMap::new();
    let mut previous = FIRST_PREVIOUS;
    for (entry, place) in entries.iter().zip(1_u64..) {
        findings.extend(out_of_chain(entry, place, &previous));
        previous = entry.hash;
        findings.extend(not_as_certified(entry));
        findings.extend(too_long(entry, &by_serial));
        match owner_of_key.get(&entry.record.key_sha256) {
            Some(first) => findings.push(key_reuse(first, entry)),
            None => drop(owner_of_key.insert(entry.record.key_sha256, entry)),
        }
    }
    findings.extend(authorities.iter().filter(|found| found.is_current).filter_map(|found| ends(found, now)));
    findings
}

fn out_of_chain(entry: &Entry, place: u64, previous: &[u8; 32]) -> Option<AuditFinding> {
    let message = if entry.seq != place {
        format!("entry {} stands where entry {place} is to be: entries are missing", entry.seq)
    } else if entry.hash != entry.record.hash(previous) {
        "its hash is not that of its content after the entry before: one of them was changed".to_owned()
    } else {
        return None;
    };
    Some(finding(
        Rule::LedgerIntegrity,
        entry,
        message,
        "compare with a copy of the ledger; suspect who can write it",
    ))
}

/// The columns repeat what the certificate says, and a workload's certificate keeps to the profile.
fn not_as_certified(entry: &Entry) -> Option<AuditFinding> {
    let record = &entry.record;
    let (Ok(certificate), Ok((not_before, not_after))) = (leaf::parse(&record.der), validity(&record.der))
    else {
        let message = "the certificate that it holds can't be read".to_owned();
        return Some(finding(Rule::LedgerIntegrity, entry, message, "compare with a copy of the ledger"));
    };
    let names = leaf::uri_names(&certificate).unwrap_or_default();
    let key: [u8; 32] = Sha256::digest(certificate.public_key().raw).into();
    let agrees = leaf::serial(&certificate) == record.serial
        && names == [record.spiffe_id.as_str()]
        && (not_before, not_after) == (record.not_before, record.not_after)
        && key == record.key_sha256;
    if !agrees {
        let message = "it says something else than the certificate that it holds".to_owned();
        return Some(finding(Rule::LedgerIntegrity, entry, message, "compare with a copy of the ledger"));
    }
    if record.kind.is_authority() {
        return None;
    }
    let error = issue::lint(&record.der, trust_domain(record)).err()?;
    Some(finding(
        Rule::Profile,
        entry,
        format!("its certificate: {error}"),
        "renew it, and report this as a bug",
    ))
}

fn too_long(entry: &Entry, authorities: &HashMap<&str, &AuthorityState>) -> Vec<AuditFinding> {
    let record = &entry.record;
    let mut found = Vec::new();
    let mut push = |rule, message| found.push(finding(rule, entry, message, "renew it"));
    let life = schedule::life(record.issued_at, record.not_after);
    if life > record.ttl_max.saturating_add(ROUNDING) {
        let allowed = record.ttl_max;
        push(Rule::TooLongLived, format!("its certificate lives for {life:?}, but {allowed:?} were allowed"));
    }
    let backdated = schedule::life(record.not_before, record.issued_at);
    if backdated > BACKDATE + ROUNDING && !record.kind.is_authority() {
        push(Rule::TooLongLived, format!("its certificate starts {backdated:?} before it was signed"));
    }
    match authorities.get(record.issuer_serial.as_str()) {
        None => {
            push(
                Rule::BadIssuer,
                format!("the authority that signed it, {}, is not recorded", record.issuer_serial),
            );
        }
        Some(issuer) if record.issued_at > issuer.not_after => {
            push(Rule::BadIssuer, format!("the authority that signed it had ended at {}", issuer.not_after));
        }
        Some(issuer) if record.not_after > issuer.not_after => {
            push(
                Rule::TooLongLived,
                format!("it outlives its authority, which ends at {}", issuer.not_after),
            );
        }
        Some(_) => {}
    }
    found
}

fn key_reuse(first: &Entry, again: &Entry) -> AuditFinding {
    let (one, two) = (&first.record, &again.record);
    let same_owner = (&one.spiffe_id, &one.instance, one.kind.is_authority())
        == (&two.spiffe_id, &two.instance, two.kind.is_authority());
    let message = if same_owner {
        format!("its key is the one of entry {} again: it renews without a new key", first.seq)
    } else {
        format!("its key is that of {}, entry {}", subject(first), first.seq)
    };
    let severity = if same_owner { AuditSeverity::Warning } else { AuditSeverity::Error };
    AuditFinding {
        severity,
        ..finding(Rule::KeyReuse, again, message, "make a new key for each certificate")
    }
}

fn ends(authority: &AuthorityState, now: Timestamp) -> Option<AuditFinding> {
    let life = schedule::life(authority.issued_at, authority.not_after).as_secs_f64();
    let share = now.duration_since(authority.issued_at).as_secs_f64() / life.max(1.0);
    let (share_max, remedy) = match authority.kind {
        Kind::Root => (ROOT_SHARE_MAX, "plan for a new root, which every workload has to be given"),
        _ => (ISSUING_SHARE_MAX, "see in the CA's log why it does not replace it, or start the CA"),
    };
    let (severity, message) = if now >= authority.not_after {
        (AuditSeverity::Error, format!("it ended at {}", authority.not_after))
    } else if share > share_max {
        (AuditSeverity::Warning, format!("it ends at {}", authority.not_after))
    } else {
        return None;
    };
    let subject = format!("{} authority {}", authority.kind.as_str(), authority.serial);
    Some(AuditFinding { rule: Rule::AuthorityExpiry, severity, subject, entry: None, message, remedy })
}

fn finding(rule: Rule, entry: &Entry, message: String, remedy: &'static str) -> AuditFinding {
    let (severity, entry_number) = (AuditSeverity::Error, Some(entry.seq));
    AuditFinding { rule, severity, subject: subject(entry), entry: entry_number, message, remedy }
}

fn validity(der: &[u8]) -> Result<(Timestamp, Timestamp), leaf::LeafError> {
    let certificate = leaf::parse(der)?;
    let validity = certificate.validity();
    Ok((leaf::timestamp(validity.not_before)?, leaf::timestamp(validity.not_after)?))
}

fn trust_domain(record: &Record) -> &str {
    let rest = record.spiffe_id.strip_prefix("spiffe://").unwrap_or_default();
    rest.split('/').next().unwrap_or_default()
}
