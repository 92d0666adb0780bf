//! Who may have which certificate: what happens on Attest and on Renew, without the wire.
//!
//! Everything that one certificate needs (look up, check, sign, record) is one transaction of the ledger, and
//! it is on disk before the certificate is returned.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use identity::tls::Peer;
use jiff::Timestamp;
use model::SpiffeId;
use rusqlite::Transaction;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::authority::{Authority, ROOT_TTL, Signer};
use crate::csr::{self, PublicKey};
use crate::issue;
use crate::ledger::{self, Entry, Kind, Ledger, LedgerError, Record};
use crate::token::{self, Grant, TokenError};

pub use refusal::Refusal;

mod refusal;

#[cfg(test)]
pub(crate) mod tests;

/// The instance name of the CA's own certificates.
pub const OWN_INSTANCE: &str = "ca";

/// Answers Attest and Renew.
#[derive(Debug)]
pub struct Registry {
    ledger: Mutex<Ledger>,
    authority: RwLock<Arc<Authority>>,
    limits: Limits,
}

/// What the operator allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long certificates live.
    pub certificate_ttl: Duration,
    /// For how long after its end a certificate may be renewed.
    pub expired_grace: Duration,
    /// How long issuing authorities live.
    pub issuing_ca_ttl: Duration,
}

/// What a caller gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// DER, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the trust domain, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Its place in the ledger.
    pub entry: Entry,
}

impl Registry {
    /// A registry that records in `ledger` and signs with `authority`, which is recorded first.
    ///
    /// # Errors
    /// When the ledger can't be written.
    pub fn new(
        ledger: Ledger,
        authority: Authority,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Self, LedgerError> {
        let authority = Arc::new(authority);
        let registry =
            Self { ledger: Mutex::new(ledger), authority: RwLock::new(Arc::clone(&authority)), limits };
        registry.record_authority(&authority, now)?;
        Ok(registry)
    }

    /// The first certificate of a workload, for a join token.
    ///
    /// # Errors
    /// When the token or CSR is bad, the key is another's, or nothing can be signed or recorded. The token is
    /// then as good as before.
    pub fn attest(&self, token: &str, csr: &[u8], now: Timestamp) -> Result<Answer, Refusal> {
        let key = csr::read(csr)?;
        let authority = self.authority();
        let mut ledger = self.ledger();
        let change = ledger.change()?;
        let grant = token::look_up(&change, token, now)?;
        if let Some(serial) = &grant.used_for {
            return Self::repeated(&change, &authority, &grant, serial, &key);
        }
        let wish =
            Wish { kind: Kind::Attest, id: &grant.id, instance: &grant.instance, renews: None, key: &key };
        let answer = self.issue(&change, &authority, &wish, now)?;
        token::use_up(&change, token, &answer.entry.record.serial)?;
        change.commit().map_err(LedgerError::from)?;
        Ok(answer)
    }

    /// The next certificate of the workload whose certificate `peer` is.
    ///
    /// Renewable are the last certificate of an instance, and the one before it: its holder may never have
    /// got the answer. Ended ones are too, within the grace: the holder proved to have its key, the ledger
    /// says that no later one is in use, and the only harm of an ended certificate is that it may have been
    /// forgotten about.
    ///
    /// # Errors
    /// When the peer's certificate is not renewable, the CSR is bad, the key is another's, or nothing can be
    /// signed or recorded.
    pub fn renew(&self, peer: &Peer, csr: &[u8], now: Timestamp) -> Result<Answer, Refusal> {
        // Again, because a connection can be older than this call.
        if now > peer.not_after.checked_add(self.limits.expired_grace).unwrap_or(Timestamp::MAX) {
            return Err(Refusal::GraceOver(peer.not_after));
        }
        let key = csr::read(csr)?;
        let authority = self.authority();
        let mut ledger = self.ledger();
        let change = ledger.change()?;
        let current = ledger::find(&change, &peer.serial)?.map(|entry| entry.record);
        let current = current.filter(|record| {
            matches!(record.kind, Kind::Attest | Kind::Renew) && record.spiffe_id == peer.id.as_str()
        });
        let Some(current) = current else { return Err(Refusal::NotInLedger(peer.serial.clone())) };
        let latest =
            ledger::latest(&change, &current.spiffe_id, &current.instance)?.map(|entry| entry.record);
        let is_renewable = latest.is_some_and(|latest| {
            latest.serial == current.serial || latest.renews.as_deref() == Some(&current.serial)
        });
        if !is_renewable {
            return Err(Refusal::Superseded { serial: peer.serial.clone() });
        }
        let renews = Some(current.serial.as_str());
        let wish = Wish { kind: Kind::Renew, id: &peer.id, instance: &current.instance, renews, key: &key };
        let answer = self.issue(&change, &authority, &wish, now)?;
        change.commit().map_err(LedgerError::from)?;
        Ok(answer)
    }

    /// A certificate for the CA itself, to serve with; `renews` is the serial number of the one before it.
    ///
    /// # Errors
    /// When nothing can be signed or recorded.
    pub fn issue_own(
        &self,
        key: &PublicKey,
        id: &SpiffeId,
        renews: Option<&str>,
        now: Timestamp,
    ) -> Result<Answer, Refusal> {
        let authority = self.authority();
        let mut ledger = self.ledger();
        let change = ledger.change()?;
        let wish = Wish { kind: Kind::Own, id, instance: OWN_INSTANCE, renews, key };
        let answer = self.issue(&change, &authority, &wish, now)?;
        change.commit().map_err(LedgerError::from)?;
        Ok(answer)
    }

    /// Makes a join token; see [`token::create`].
    ///
    /// # Errors
    /// As [`token::create`].
    pub fn create_token(
        &self,
        id: &SpiffeId,
        instance: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<String, TokenError> {
        let authority = self.authority();
        token::create(&mut self.ledger(), authority.trust_domain(), id, instance, ttl, now)
    }

    /// How many join tokens are good now.
    ///
    /// # Errors
    /// When the ledger can't be read.
    pub fn tokens_outstanding(&self, now: Timestamp) -> Result<u64, LedgerError> {
        token::outstanding(&self.ledger(), now)
    }

    /// What signs now.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs with `authority` from now on, after recording it.
    ///
    /// # Errors
    /// When the ledger can't be written; the old authority stays then.
    pub fn replace_authority(&self, authority: Authority, now: Timestamp) -> Result<(), LedgerError> {
        let authority = Arc::new(authority);
        self.record_authority(&authority, now)?;
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = authority;
        Ok(())
    }

    /// A transaction that was not committed is rolled back, so a panic elsewhere leaves the ledger whole.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(
        &self,
        change: &Transaction<'_>,
        authority: &Authority,
        wish: &Wish<'_>,
        now: Timestamp,
    ) -> Result<Answer, Refusal> {
        if ledger::is_key_of_other(change, wish.key.sha256(), wish.id.as_str(), wish.instance)? {
            return Err(Refusal::KeyOfOther);
        }
        let ttl = self.limits.certificate_ttl;
        let issued = issue::sign(authority, wish.key, wish.id, ttl, now)?;
        let entry = ledger::append(
            change,
            &Record {
                kind: wish.kind,
                serial: issued.leaf.serial,
                spiffe_id: wish.id.as_str().to_owned(),
                instance: wish.instance.to_owned(),
                renews: wish.renews.map(str::to_owned),
                key_sha256: *wish.key.sha256(),
                issuer_serial: issued.issuer_serial,
                not_before: issued.leaf.not_before,
                not_after: issued.leaf.not_after,
                issued_at: now,
                ttl_max: ttl,
                der: issued.chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default(),
            },
        )?;
        Ok(Answer { chain: issued.chain, roots: roots(authority), entry })
    }

    /// A token that was used is answered with the same certificate, when the key is the same: the answer was
    /// lost, and nobody but the holder of that key has any use for it.
    fn repeated(
        change: &Transaction<'_>,
        authority: &Authority,
        grant: &Grant,
        serial: &str,
        key: &PublicKey,
    ) -> Result<Answer, Refusal> {
        let latest = ledger::latest(change, grant.id.as_str(), &grant.instance)?;
        let same = latest.filter(|entry| {
            let record = &entry.record;
            let same_key = record.key_sha256 == *key.sha256();
            record.serial == serial && same_key && record.issuer_serial == authority.issuing().serial()
        });
        let entry = same.ok_or(TokenError::Used)?;
        let chain = vec![entry.record.der.clone().into(), authority.issuing().certificate().clone()];
        Ok(Answer { chain, roots: roots(authority), entry })
    }

    /// Records root and issuing authority, unless they are recorded.
    fn record_authority(&self, authority: &Authority, now: Timestamp) -> Result<(), LedgerError> {
        let mut ledger = self.ledger();
        let change = ledger.change()?;
        let root = (Kind::Root, authority.root(), ROOT_TTL);
        let issuing = (Kind::Issuing, authority.issuing(), self.limits.issuing_ca_ttl);
        for (kind, signer, ttl_max) in [root, issuing] {
            if ledger::find(&change, signer.serial())?.is_none() {
                let trust_domain = authority.trust_domain().id().as_str().to_owned();
                let issuer = authority.root().serial().to_owned();
                ledger::append(&change, &authority_record(kind, signer, trust_domain, issuer, ttl_max, now))?;
            }
        }
        Ok(change.commit()?)
    }
}

/// A certificate that somebody is to get.
struct Wish<'a> {
    kind: Kind,
    id: &'a SpiffeId,
    instance: &'a str,
    renews: Option<&'a str>,
    key: &'a PublicKey,
}

fn authority_record(
    kind: Kind,
    signer: &Signer,
    spiffe_id: String,
    issuer_serial: String,
    ttl_max: Duration,
    now: Timestamp,
) -> Record {
    Record {
        kind,
        serial: signer.serial().to_owned(),
        spiffe_id,
        instance: String::new(),
        renews: None,
        key_sha256: Sha256::digest(signer.public_key()).into(),
        issuer_serial,
        not_before: signer.not_before(),
        not_after: signer.not_after(),
        issued_at: now,
        ttl_max,
        der: signer.certificate().to_vec(),
    }
}

fn roots(authority: &Authority) -> Vec<CertificateDer<'static>> {
    vec![authority.root().certificate().clone()]
}
