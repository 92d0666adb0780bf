//! Join tokens: what a workload's first certificate costs.
//!
//! A token is 256 random bits, good once, for one SPIFFE ID and one instance, until it expires. Only its
//! SHA-256 is stored, in the ledger's file: so `tidegate ca token` can make one while the CA runs, and the
//! token is used up in the same transaction that records the certificate: never one without the other.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;
use model::{SpiffeId, TrustDomain};
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use crate::audit::hex;
use crate::ledger::{Ledger, LedgerError};

/// How long a token may be good for.
pub const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// The longest name of an instance, in bytes.
pub const INSTANCE_LENGTH_MAX: usize = 128;

/// Makes it plain, in a log or a mail, what a leaked token is.
const PREFIX: &str = "tidegate-join-";
/// How long an unused token is remembered after its end, to answer that it expired.
const EXPIRED_KEPT: Duration = Duration::from_secs(86_400);

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who its bearer is.
    pub id: SpiffeId,
    /// Which process of that identity.
    pub instance: String,
    /// The serial number of the certificate that it was used for.
    pub used_for: Option<String>,
}

/// Why a token can't be made, or is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No such token was made.
    #[error("the join token is not known")]
    Unknown,
    /// It was used before.
    #[error("the join token was used before")]
    Used,
    /// Its time is over.
    #[error("the join token expired at {0}")]
    Expired(Timestamp),
    /// It would be for somebody of another trust domain, or for the trust domain itself.
    #[error("`{id}` is not a workload of the trust domain `{trust_domain}`")]
    NotOurs {
        /// For whom it was asked.
        id: SpiffeId,
        /// The CA's.
        trust_domain: TrustDomain,
    },
    /// It would make its bearer the CA.
    #[error("`{0}` is the CA's own identity")]
    Reserved(SpiffeId),
    /// The name of the instance is not one.
    #[error(
        "`{0}` is not a name of an instance: use 1 to {INSTANCE_LENGTH_MAX} of a-z, A-Z, 0-9, `.`, `-`, `_`"
    )]
    Instance(String),
    /// The token would be good for too short or too long.
    #[error("a join token can be good for 1 second to 7 days, not for {0:?}")]
    Ttl(Duration),
    /// The ledger's file can't be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Makes a token for `id`, good for `ttl`. Whoever has it can become `id`, once.
///
/// # Errors
/// When the ID is not of this trust domain, name or time are out of range, or the ledger can't be written.
pub fn create(
    ledger: &mut Ledger,
    trust_domain: &TrustDomain,
    id: &SpiffeId,
    instance: &str,
    ttl: Duration,
    now: Timestamp,
) -> Result<String, TokenError> {
    if id.trust_domain() != trust_domain.as_str() || id.path().is_empty() {
        return Err(TokenError::NotOurs { id: id.clone(), trust_domain: trust_domain.clone() });
    }
    if identity::ca_id(trust_domain).is_ok_and(|ca_id| ca_id == *id) {
        return Err(TokenError::Reserved(id.clone()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if instance.is_empty() || instance.len() > INSTANCE_LENGTH_MAX || !instance.chars().all(allowed) {
        return Err(TokenError::Instance(instance.to_owned()));
    }
    let expires_at = now.checked_add(ttl).ok().filter(|_| TTL.contains(&ttl)).ok_or(TokenError::Ttl(ttl))?;
    let token = format!("{PREFIX}{}", hex(&rand::random::<[u8; 32]>()));
    let change = ledger.change()?;
    let forgotten = now.checked_sub(EXPIRED_KEPT).unwrap_or(Timestamp::MIN);
    let delete = "DELETE FROM tokens WHERE expires_at < ?1";
    change.execute(delete, [forgotten.as_millisecond()]).map_err(LedgerError::from)?;
    let insert = "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, NULL)";
    let row = (hash(&token), id.as_str(), instance, expires_at.as_millisecond());
    change.execute(insert, row).map_err(LedgerError::from)?;
    change.commit().map_err(LedgerError::from)?;
    Ok(token)
}

/// What `token` is good for. One that was used is told, not refused: see [`Grant::used_for`].
///
/// # Errors
/// When it is not known or has expired.
pub fn look_up(connection: &Connection, token: &str, now: Timestamp) -> Result<Grant, TokenError> {
    let select = "SELECT spiffe_id, instance, expires_at, used_for FROM tokens WHERE sha256 = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get::<_, Option<String>>(3)?))
    };
    let row = connection.query_row(select, [hash(token)], read).optional().map_err(LedgerError::from)?;
    let (id, instance, expires_at, used_for) = row.ok_or(TokenError::Unknown)?;
    // Out of range means that somebody else wrote it: no reason to let it pass.
    let expires_at = Timestamp::from_millisecond(expires_at).unwrap_or(Timestamp::MIN);
    if now >= expires_at {
        return Err(TokenError::Expired(expires_at));
    }
    let id = id.parse().map_err(|_error| TokenError::Unknown)?;
    Ok(Grant { id, instance, used_for })
}

/// Uses up `token`, for the certificate with this serial number.
///
/// # Errors
/// When it was used before, or the ledger can't be written.
pub fn use_up(connection: &Connection, token: &str, serial: &str) -> Result<(), TokenError> {
    let update = "UPDATE tokens SET used_for = ?2 WHERE sha256 = ?1 AND used_for IS NULL";
    match connection.execute(update, (hash(token), serial)).map_err(LedgerError::from)? {
        1 => Ok(()),
        _ => Err(TokenError::Used),
    }
}

/// How many tokens are good now.
///
/// # Errors
/// When the ledger can't be read.
pub fn outstanding(ledger: &Ledger, now: Timestamp) -> Result<u64, LedgerError> {
    let select = "SELECT count(*) FROM tokens WHERE used_for IS NULL AND expires_at > ?1";
    let count: i64 = ledger.connection().query_row(select, [now.as_millisecond()], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// A token has 256 random bits, so a plain hash is enough: there is nothing to guess.
fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
        (folder, ledger)
    }

    fn make(ledger: &mut Ledger, id: &str, instance: &str, ttl: Duration) -> Result<String, TokenError> {
        let domain = "a.example".parse().unwrap();
        create(ledger, &domain, &id.parse().unwrap(), instance, ttl, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_token_is_good_once_until_it_expires() {
        let (_folder, mut ledger) = ledger();
        let token = make(&mut ledger, "spiffe://a.example/x", "x-1", HOUR).unwrap();
        assert_eq!(token.len(), PREFIX.len() + 64);
        let connection = ledger.connection();
        let start = Timestamp::UNIX_EPOCH;
        let grant = look_up(connection, &token, start).unwrap();
        assert_eq!((grant.id.as_str(), grant.instance.as_str()), ("spiffe://a.example/x", "x-1"));
        assert!(matches!(look_up(connection, &token, start + HOUR), Err(TokenError::Expired(_))));
        assert!(matches!(look_up(connection, "guess", start), Err(TokenError::Unknown)));
        assert_eq!(outstanding(&ledger, start).unwrap(), 1);
        use_up(connection, &token, "01").unwrap();
        assert!(matches!(use_up(connection, &token, "02"), Err(TokenError::Used)));
        assert_eq!(look_up(connection, &token, start).unwrap().used_for.as_deref(), Some("01"));
        assert_eq!(outstanding(&ledger, start).unwrap(), 0);
    }

    #[test]
    fn tokens_for_others_and_out_of_range_are_refused() {
        let (_folder, mut ledger) = ledger();
        let long = "x".repeat(INSTANCE_LENGTH_MAX + 1);
        let table = [
            ("spiffe://b.example/x", "x", HOUR, "not a workload"),
            ("spiffe://a.example", "x", HOUR, "not a workload"),
            ("spiffe://a.example/ns/tidegate/sa/ca", "x", HOUR, "the CA's own"),
            ("spiffe://a.example/x", "", HOUR, "not a name"),
            ("spiffe://a.example/x", "a b", HOUR, "not a name"),
            ("spiffe://a.example/x", &long, HOUR, "not a name"),
            ("spiffe://a.example/x", "x", Duration::ZERO, "1 second to 7 days"),
            ("spiffe://a.example/x", "x", HOUR * 24 * 8, "1 second to 7 days"),
            ("spiffe://a.example/x", "x", Duration::MAX, "1 second to 7 days"),
        ];
        for (id, instance, ttl, expected) in table {
            let error = make(&mut ledger, id, instance, ttl).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_token_itself_is_stored_nowhere() {
        let (folder, mut ledger) = ledger();
        let token = make(&mut ledger, "spiffe://a.example/x", "x-1", HOUR).unwrap();
        drop(ledger);
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let secret = token.strip_prefix(PREFIX).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(secret));
        }
    }
}
