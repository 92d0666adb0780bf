use std::time::Duration;

use rcgen::KeyPair;
use rusqlite::Connection;

use super::*;
use crate::ledger::FIRST_PREVIOUS;
use crate::registry::tests::{Case, HOUR, ID, csr, csr_of, peer};

const MINUTE: Duration = Duration::from_secs(60);

fn entries(case: &Case) -> Vec<Entry> {
    let mut entries = Vec::new();
    Ledger::open_read_only(&case.ledger_path()).unwrap().for_each(|entry| entries.push(entry)).unwrap();
    entries
}

/// Makes the chain good again after entries were changed, so that only the other rules see the change.
fn chained(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut previous = FIRST_PREVIOUS;
    for entry in &mut entries {
        entry.hash = entry.record.hash(&previous);
        previous = entry.hash;
    }
    entries
}

fn rules(report: &RotationReport) -> Vec<(&'static str, AuditSeverity)> {
    report.findings.iter().map(|finding| (finding.rule.id(), finding.severity)).collect()
}

#[test]
fn a_workload_is_current_then_overdue_then_expired() {
    let case = Case::new();
    case.attest(ID, "x-1");
    let entries = entries(&case);
    // Due after 27 to 33 minutes, tolerated for 6 more.
    let table = [
        (0, RotationState::Current, None),
        (33, RotationState::Current, None),
        (40, RotationState::Overdue, Some(("A02", AuditSeverity::Warning))),
        (50, RotationState::Overdue, Some(("A02", AuditSeverity::Error))),
        (61, RotationState::Expired, Some(("A03", AuditSeverity::Error))),
    ];
    for (minutes, state, expected) in table {
        let report = report(&entries, case.now + minutes * MINUTE, Options::default());
        assert_eq!(report.workloads[0].state, state, "after {minutes} minutes");
        assert_eq!(rules(&report), Vec::from_iter(expected), "after {minutes} minutes");
        assert_eq!(report.is_clean(), expected.is_none());
    }
    let strict = report(&entries, case.now + 34 * MINUTE, Options { tolerance: 0.0 });
    assert_eq!(strict.workloads[0].state, RotationState::Overdue);
}

#[test]
fn the_lag_of_each_rotation_is_told() {
    let case = Case::new();
    let mut last = case.attest(ID, "x-1");
    let mut now = case.now;
    for _ in 0..4 {
        now += 35 * MINUTE;
        last = peer(&case.registry.renew(&last, &csr(), now).unwrap());
    }
    case.attest("spiffe://a.example/ns/n/sa/y", "y-1");
    let report = rotation(&case.ledger_path(), now, Options::default()).unwrap();
    let [x, y] = report.workloads.as_slice() else { panic!("{:?}", report.workloads) };
    assert_eq!((x.instance.as_str(), x.serial.as_str(), x.rotations.len()), ("x-1", last.serial.as_str(), 4));
    for rotation in &x.rotations {
        // Due after 27 to 33 minutes, less a little for whole seconds.
        assert!((119.0..=481.0).contains(&rotation.lag_seconds), "{rotation:?}");
    }
    let lag = x.lag.unwrap();
    assert!(lag.p50_seconds <= lag.p99_seconds && lag.p99_seconds <= lag.max_seconds);
    assert_eq!((lag.count, report.lag, y.lag), (4, Some(lag), None));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["workloads"][0]["state"], "current");
    assert_eq!(json["findings"][0]["rule"], "A03");
}

#[test]
fn percentiles_are_lags_that_occurred() {
    let lag = |lag_seconds| Rotation {
        serial: String::new(),
        due_at: Timestamp::UNIX_EPOCH,
        renewed_at: Timestamp::UNIX_EPOCH,
        lag_seconds,
    };
    let lags: Vec<_> = (1..=200).rev().map(|n| lag(f64::from(n))).collect();
    let summary = rotation::summary(&lags).unwrap();
    assert_eq!((summary.p50_seconds, summary.p99_seconds, summary.max_seconds), (100.0, 198.0, 200.0));
    assert_eq!(rotation::summary(&[]), None);
}

#[test]
fn keys_used_again_are_found() {
    let case = Case::new();
    let key = KeyPair::generate().unwrap();
    let first = case.registry.attest(&case.token(ID, "x-1"), &csr_of(&key), case.now).unwrap();
    case.registry.renew(&peer(&first), &csr_of(&key), case.now).unwrap();
    let same_owner = report(&entries(&case), case.now, Options::default());
    assert_eq!(rules(&same_owner), [("A06", AuditSeverity::Warning)]);

    // The CA refuses these two; a ledger that holds one was written by something else.
    let mut of_other = entries(&case);
    of_other[3].record.instance = "x-2".to_owned();
    let of_other = report(&chained(of_other), case.now, Options::default());
    assert!(rules(&of_other).contains(&("A06", AuditSeverity::Error)));
    let mut of_authority = entries(&case);
    of_authority[2].record.key_sha256 = of_authority[0].record.key_sha256;
    let of_authority = report(&chained(of_authority), case.now, Options::default());
    assert!(rules(&of_authority).contains(&("A06", AuditSeverity::Error)));
}

type Change = fn(&mut Entry);

#[test]
fn entries_that_break_a_rule_are_found() {
    let case = Case::new();
    case.attest(ID, "x-1");
    let table: &[(&str, &str, Change)] = &[
        ("lives too long", "A04", |e| e.record.ttl_max = 30 * MINUTE),
        ("starts too early", "A04", |e| e.record.issued_at += 5 * MINUTE),
        ("unknown issuer", "A05", |e| e.record.issuer_serial = "00".to_owned()),
        ("issuer had ended", "A05", |e| e.record.issued_at += 8 * 24 * HOUR),
        ("other name", "A16", |e| e.record.spiffe_id.push('y')),
        ("other serial", "A16", |e| e.record.serial = "00".to_owned()),
        ("other key", "A16", |e| e.record.key_sha256 = [0; 32]),
        ("other end", "A16", |e| e.record.not_after -= MINUTE),
        ("no certificate", "A16", |e| e.record.der.clear()),
    ];
    for (name, rule, change) in table {
        let mut entries = entries(&case);
        change(entries.last_mut().unwrap());
        let report = report(&chained(entries), case.now, Options::default());
        assert!(rules(&report).contains(&(rule, AuditSeverity::Error)), "{name}: {:?}", report.findings);
    }
}

#[test]
fn authorities_that_near_their_end_are_found() {
    let case = Case::new();
    let entries = entries(&case);
    let day = 24 * HOUR;
    let table: &[(u32, &[(&str, AuditSeverity)])] = &[
        (4, &[]),
        (5, &[("A01", AuditSeverity::Warning)]),
        (7, &[("A01", AuditSeverity::Error)]),
        (3300, &[("A01", AuditSeverity::Error), ("A01", AuditSeverity::Warning)]),
    ];
    for (days, expected) in table {
        let report = report(&entries, case.now + *days * day, Options::default());
        assert_eq!(rules(&report), *expected, "after {days} days");
        assert!(report.authorities.iter().all(|authority| authority.is_current));
    }
}

#[test]
fn tampering_shows() {
    let statements = [
        "UPDATE entries SET instance = 'z' WHERE seq = 3",
        "UPDATE entries SET not_after = not_after + 1 WHERE seq = 4",
        "UPDATE entries SET hash = zeroblob(32) WHERE seq = 3",
        "DELETE FROM entries WHERE seq = 3",
        "DELETE FROM entries WHERE seq = 1",
        "UPDATE entries SET seq = 99 WHERE seq = 4",
    ];
    for statement in statements {
        let case = Case::new();
        case.attest(ID, "x-1");
        case.attest(ID, "x-2");
        assert!(rotation(&case.ledger_path(), case.now, Options::default()).unwrap().is_clean());
        let raw = Connection::open(case.ledger_path()).unwrap();
        raw.execute_batch("DROP TRIGGER entries_refuse_update; DROP TRIGGER entries_refuse_delete").unwrap();
        assert_eq!(raw.execute(statement, ()).unwrap(), 1, "{statement}");
        let report = rotation(&case.ledger_path(), case.now, Options::default()).unwrap();
        assert!(rules(&report).contains(&("A16", AuditSeverity::Error)), "{statement}");
    }
}

#[test]
fn what_is_no_ledger_is_an_error() {
    let case = Case::new();
    let missing = case.folder().join("missing");
    assert!(matches!(rotation(&missing, case.now, Options::default()), Err(AuditError::Ledger(_))));
    let path = case.ledger_path();
    for tolerance in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(rotation(&path, case.now, Options { tolerance }), Err(AuditError::Tolerance(_))));
    }
}
