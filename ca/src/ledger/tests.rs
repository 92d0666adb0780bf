use super::*;

pub(crate) fn record(number: u8) -> Record {
    Record {
        kind: Kind::Attest,
        serial: format!("{number:032x}"),
        spiffe_id: "spiffe://a.example/x".to_owned(),
        instance: "x-1".to_owned(),
        renews: None,
        key_sha256: [number; 32],
        issuer_serial: "00".to_owned(),
        not_before: Timestamp::from_second(970).unwrap(),
        not_after: Timestamp::from_second(4600).unwrap(),
        issued_at: Timestamp::from_millisecond(1_000_500).unwrap(),
        ttl_max: Duration::from_secs(3600),
        der: vec![number; 3],
    }
}

fn appended(ledger: &mut Ledger, record: &Record) -> Entry {
    let change = ledger.change().unwrap();
    let entry = append(&change, record).unwrap();
    change.commit().unwrap();
    entry
}

#[test]
fn entries_are_chained_and_read_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut ledger = Ledger::open(&path).unwrap();
    let first = appended(&mut ledger, &record(1));
    let next = Record { renews: Some(record(1).serial), ..record(2) };
    let second = appended(&mut Ledger::open(&path).unwrap(), &next);
    assert_eq!((first.seq, second.seq), (1, 2));
    assert_eq!(second.hash, next.hash(&first.hash));
    let mut entries = Vec::new();
    Ledger::open_read_only(&path).unwrap().for_each(|entry| entries.push(entry)).unwrap();
    assert_eq!(entries, [first.clone(), second.clone()]);
    assert_eq!(find(ledger.connection(), &record(1).serial).unwrap(), Some(first));
    assert_eq!(latest(ledger.connection(), "spiffe://a.example/x", "x-1").unwrap(), Some(second));
    assert_eq!(latest(ledger.connection(), "spiffe://a.example/x", "x-2").unwrap(), None);
}

#[test]
fn a_change_that_is_not_committed_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
    append(&ledger.change().unwrap(), &record(1)).unwrap();
    assert_eq!(find(ledger.connection(), &record(1).serial).unwrap(), None);
}

#[test]
fn entries_can_be_neither_changed_nor_removed_nor_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
    appended(&mut ledger, &record(1));
    for statement in ["UPDATE entries SET instance = 'y'", "DELETE FROM entries"] {
        let error = ledger.connection().execute(statement, ()).unwrap_err().to_string();
        assert!(error.contains("append-only"), "{error}");
    }
    assert!(append(&ledger.change().unwrap(), &record(1)).is_err());
}

#[test]
fn a_key_belongs_to_one_instance_of_one_identity() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
    appended(&mut ledger, &record(1));
    let is_of_other =
        |key, id, instance| is_key_of_other(ledger.connection(), &[key; 32], id, instance).unwrap();
    assert!(!is_of_other(1, "spiffe://a.example/x", "x-1"));
    assert!(is_of_other(1, "spiffe://a.example/x", "x-2"));
    assert!(is_of_other(1, "spiffe://a.example/y", "x-1"));
    assert!(!is_of_other(2, "spiffe://a.example/y", "x-1"));
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    assert!(matches!(Ledger::open_read_only(&missing), Err(LedgerError::Open { .. })));
    let text = folder.path().join("text");
    std::fs::write(&text, "this is no SQLite file, but it is long enough to be looked at").unwrap();
    assert!(matches!(Ledger::open(&text), Err(LedgerError::Open { .. })));
    let foreign = folder.path().join("foreign");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    assert!(matches!(Ledger::open(&foreign), Err(LedgerError::Version { found: 0, .. })));
}

#[test]
fn every_field_changes_the_hash() {
    let base = record(1);
    let hash = base.hash(&FIRST_PREVIOUS);
    let changes: &[fn(&mut Record)] = &[
        |r| r.kind = Kind::Renew,
        |r| r.serial.push('0'),
        |r| r.spiffe_id.push('0'),
        |r| r.instance.push('0'),
        |r| r.renews = Some("1".to_owned()),
        |r| r.key_sha256 = [9; 32],
        |r| r.issuer_serial.push('0'),
        |r| r.not_before = Timestamp::UNIX_EPOCH,
        |r| r.not_after = Timestamp::UNIX_EPOCH,
        |r| r.issued_at = Timestamp::UNIX_EPOCH,
        |r| r.ttl_max = Duration::ZERO,
        |r| r.der.push(0),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut changed = base.clone();
        change(&mut changed);
        assert_ne!(changed.hash(&FIRST_PREVIOUS), hash, "change {number}");
    }
    assert_ne!(base.hash(&[1; 32]), hash);
}
