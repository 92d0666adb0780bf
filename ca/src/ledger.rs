//! The append-only record of every certificate that this CA made, its own included, in one SQLite file.
//!
//! Entries are chained: each holds the SHA-256 of the one before it together with its own fields, so a
//! change, a removal or an insertion in the middle shows. (A cut-off end does not: compare with the `head` in
//! the CA's log.) Triggers refuse changes by mistake. A transaction is on disk when it commits
//! (`synchronous=FULL`), and only then is the certificate given out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, named_params,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// How long to wait for another process that writes, such as `tidegate ca token`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The form of the file, as SQLite's `user_version`.
const VERSION: i64 = 1;
/// Starts each hash, so that it can be mistaken for no other.
const HASH_PREFIX: &[u8] = b"tidegate ledger entry 1";

/// What the hash of the first entry continues.
pub const FIRST_PREVIOUS: [u8; 32] = [0; 32];

const SCHEMA: &str = "
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    serial TEXT NOT NULL UNIQUE,
    spiffe_id TEXT NOT NULL,
    instance TEXT NOT NULL,
    renews TEXT,
    key_sha256 BLOB NOT NULL,
    issuer_serial TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    ttl_max INTEGER NOT NULL,
    der BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX entries_by_instance ON entries (spiffe_id, instance, seq);
CREATE INDEX entries_by_key ON entries (key_sha256);
CREATE TRIGGER entries_refuse_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_refuse_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TABLE tokens (
    sha256 BLOB PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    instance TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_for TEXT
) STRICT;
PRAGMA user_version = 1;
";

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
}

/// Why a certificate was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A root.
    Root,
    /// An issuing authority.
    Issuing,
    /// The CA's own, to serve with.
    Own,
    /// A workload's first, for a join token.
    Attest,
    /// A workload's next.
    Renew,
}

/// A certificate to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Why it was made.
    pub kind: Kind,
    /// Its serial number, in lower-case hexadecimal.
    pub serial: String,
    /// Whose it is.
    pub spiffe_id: String,
    /// Which process of that identity; empty for authorities.
    pub instance: String,
    /// The serial number of the certificate that it takes the place of.
    pub renews: Option<String>,
    /// SHA-256 of its public key (DER SubjectPublicKeyInfo).
    pub key_sha256: [u8; 32],
    /// The serial number of the authority that signed it; its own for a root.
    pub issuer_serial: String,
    /// From when it is valid, in whole seconds.
    pub not_before: Timestamp,
    /// Until when it is valid, in whole seconds.
    pub not_after: Timestamp,
    /// When it was signed, in milliseconds.
    pub issued_at: Timestamp,
    /// How long it was allowed to live, in whole seconds.
    pub ttl_max: Duration,
    /// The certificate.
    pub der: Vec<u8>,
}

/// A record with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 1, without gaps.
    pub seq: u64,
    /// What is recorded.
    pub record: Record,
    /// As stored; compare with [`Record::hash`].
    pub hash: [u8; 32],
}

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file can't be opened.
    #[error("can't open the ledger `{path}`: {error}")]
    Open {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: rusqlite::Error,
    },
    /// The file is of another version, or of another program.
    #[error("`{path}` is not a ledger that this version reads (its version is {found}, not {VERSION})")]
    Version {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// Reading or writing failed.
    #[error("the ledger can't be read or written: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl Ledger {
    /// Opens the ledger at `path`, and makes it when it is missing.
    ///
    /// # Errors
    /// When it can't be opened, or is of another version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |error| LedgerError::Open { path: path.to_owned(), error };
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let is_new = change.query_row("SELECT count(*) = 0 FROM sqlite_schema", (), |row| row.get(0))?;
        if is_new {
            change.execute_batch(SCHEMA)?;
        }
        change.commit()?;
        check_version(&connection, path)?;
        Ok(Self { connection })
    }

    /// Opens the ledger at `path` only to read it, also while the CA writes it.
    ///
    /// # Errors
    /// When there is none, it can't be opened, or is of another version.
    pub fn open_read_only(path: &Path) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |error| LedgerError::Open { path: path.to_owned(), error };
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        check_version(&connection, path)?;
        Ok(Self { connection })
    }

    /// Starts a change. Nothing of it is kept unless it is committed; no other process changes anything
    /// meanwhile.
    ///
    /// # Errors
    /// When another process writes for too long.
    pub fn change(&mut self) -> Result<Transaction<'_>, LedgerError> {
        Ok(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }

    /// Calls `each` with every entry, in order.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn for_each(&self, mut each: impl FnMut(Entry)) -> Result<(), LedgerError> {
        let mut statement = self.connection.prepare("SELECT * FROM entries ORDER BY seq")?;
        for entry in statement.query_map((), read_entry)? {
            each(entry?);
        }
        Ok(())
    }

    /// The connection, for reading.
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Adds an entry at the end.
///
/// # Errors
/// When the serial number is there already, or the file can't be written.
pub fn append(change: &Transaction<'_>, record: &Record) -> Result<Entry, LedgerError> {
    let end = "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1";
    let end = change.query_row(end, (), |row| Ok((row.get::<_, i64>(0)?, row.get(1)?))).optional()?;
    let (last_seq, previous) = end.unwrap_or((0, FIRST_PREVIOUS));
    let hash = record.hash(&previous);
    let mut statement = change.prepare_cached(
        "INSERT INTO entries VALUES (:seq, :kind, :serial, :spiffe_id, :instance, :renews, :key_sha256,
            :issuer_serial, :not_before, :not_after, :issued_at, :ttl_max, :der, :hash)",
    )?;
    statement.execute(named_params! {
        ":seq": last_seq + 1,
        ":kind": record.kind.as_str(),
        ":serial": record.serial,
        ":spiffe_id": record.spiffe_id,
        ":instance": record.instance,
        ":renews": record.renews,
        ":key_sha256": record.key_sha256,
        ":issuer_serial": record.issuer_serial,
        ":not_before": record.not_before.as_second(),
        ":not_after": record.not_after.as_second(),
        ":issued_at": record.issued_at.as_millisecond(),
        ":ttl_max": i64::try_from(record.ttl_max.as_secs()).unwrap_or(i64::MAX),
        ":der": record.der,
        ":hash": hash,
    })?;
    Ok(Entry { seq: u64::try_from(last_seq + 1).unwrap_or_default(), record: record.clone(), hash })
}

/// The entry of a certificate.
///
/// # Errors
/// When the file can't be read.
pub fn find(connection: &Connection, serial: &str) -> Result<Option<Entry>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT * FROM entries WHERE serial = ?1")?;
    Ok(statement.query_row([serial], read_entry).optional()?)
}

/// The last certificate of an instance.
///
/// # Errors
/// When the file can't be read.
pub fn latest(
    connection: &Connection,
    spiffe_id: &str,
    instance: &str,
) -> Result<Option<Entry>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM entries WHERE spiffe_id = ?1 AND instance = ?2 ORDER BY seq DESC LIMIT 1",
    )?;
    Ok(statement.query_row([spiffe_id, instance], read_entry).optional()?)
}

/// Whether a key was certified for anyone but this instance of this identity.
///
/// # Errors
/// When the file can't be read.
pub fn is_key_of_other(
    connection: &Connection,
    key_sha256: &[u8; 32],
    spiffe_id: &str,
    instance: &str,
) -> Result<bool, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM entries WHERE key_sha256 = ?1 AND (spiffe_id <> ?2 OR instance <> ?3))",
    )?;
    Ok(statement.query_row((key_sha256, spiffe_id, instance), |row| row.get(0))?)
}

impl Record {
    /// What the entry's hash has to be, when the one before it has `previous`.
    pub fn hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let (not_before, not_after) = (self.not_before.as_second(), self.not_after.as_second());
        let (issued_at, ttl_max) = (self.issued_at.as_millisecond(), self.ttl_max.as_secs());
        let renews = self.renews.as_deref().unwrap_or_default();
        let fields: [&[u8]; 13] = [
            previous,
            self.kind.as_str().as_bytes(),
            self.serial.as_bytes(),
            self.spiffe_id.as_bytes(),
            self.instance.as_bytes(),
            renews.as_bytes(),
            &self.key_sha256,
            self.issuer_serial.as_bytes(),
            &not_before.to_be_bytes(),
            &not_after.to_be_bytes(),
            &issued_at.to_be_bytes(),
            &ttl_max.to_be_bytes(),
            &self.der,
        ];
        let mut hash = Sha256::new();
        hash.update(HASH_PREFIX);
        for field in fields {
            // With its length, so that no byte can move from one field to the next.
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        hash.finalize().into()
    }
}

impl Kind {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
            Self::Own => "own",
            Self::Attest => "attest",
            Self::Renew => "renew",
        }
    }

    /// Whether the certificate may sign others.
    pub const fn is_authority(self) -> bool {
        matches!(self, Self::Root | Self::Issuing)
    }
}

fn check_version(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error| LedgerError::Open { path: path.to_owned(), error };
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if found == VERSION { Ok(()) } else { Err(LedgerError::Version { path: path.to_owned(), found }) }
}

fn read_entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let kind = row.get_ref("kind")?.as_str()?;
    let kinds = [Kind::Root, Kind::Issuing, Kind::Own, Kind::Attest, Kind::Renew];
    let kind = kinds.into_iter().find(|known| known.as_str() == kind).ok_or(rusqlite::Error::InvalidQuery)?;
    let record = Record {
        kind,
        serial: row.get("serial")?,
        spiffe_id: row.get("spiffe_id")?,
        instance: row.get("instance")?,
        renews: row.get("renews")?,
        key_sha256: row.get("key_sha256")?,
        issuer_serial: row.get("issuer_serial")?,
        not_before: time(row.get("not_before")?, Timestamp::from_second)?,
        not_after: time(row.get("not_after")?, Timestamp::from_second)?,
        issued_at: time(row.get("issued_at")?, Timestamp::from_millisecond)?,
        ttl_max: Duration::from_secs(u64::try_from(row.get::<_, i64>("ttl_max")?).unwrap_or_default()),
        der: row.get("der")?,
    };
    let seq = u64::try_from(row.get::<_, i64>("seq")?).unwrap_or_default();
    Ok(Entry { seq, record, hash: row.get("hash")? })
}

fn time(number: i64, read: fn(i64) -> Result<Timestamp, jiff::Error>) -> rusqlite::Result<Timestamp> {
    read(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

#[cfg(test)]
pub(crate) mod tests;
