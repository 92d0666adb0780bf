//! One issuer: its keys, and the tokens of it that were verified.

use std::sync::Arc;

use api::config::TokenIssuer;
use jiff::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Claims;
use super::Refused;
use super::metrics::{Metrics, Outcome};
use super::store::{Environment, Keys, Numbered};
use super::token::{self, Wrong};

/// The most that is kept of one issuer's tokens, in bytes, and how many these are likely to be.
const KNOWN_SIZE_MAX: u64 = 16 * 1024 * 1024;
const KNOWN_COUNT: usize = 10_000;
/// What a token costs besides its claims, in bytes.
const KNOWN_SIZE: u64 = 256;

/// An issuer whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    pub config: TokenIssuer,
    keys: Keys,
    /// By the SHA-256 of the token: who could find another token with it could forge certificates, too.
    known: Cache<[u8; 32], Known, BySize>,
    metrics: Metrics,
}

/// Makes room by size: who may have tokens made could fill memory with long ones.
#[derive(Clone, Debug)]
struct BySize;

impl Weighter<[u8; 32], Known> for BySize {
    fn weight(&self, _digest: &[u8; 32], known: &Known) -> u64 {
        KNOWN_SIZE + known.claims.size()
    }
}

/// What is known of a good token.
#[derive(Clone, Debug)]
struct Known {
    claims: Arc<Claims>,
    until: Timestamp,
    /// The number of the keys that it was verified with.
    keys: u64,
}

impl Issuer {
    /// As `config` says it.
    pub(super) fn new(config: TokenIssuer, environment: &Environment) -> Self {
        let keys = Keys::of(&config, environment);
        let metrics = environment.metrics.clone();
        Self { config, keys, known: Cache::with_weighter(KNOWN_COUNT, KNOWN_SIZE_MAX, BySize), metrics }
    }

    /// What `token` says, if it is good at `now`. Waits only for keys that are not there yet.
    pub(super) async fn claims(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, Refused> {
        let digest = Sha256::digest(token).into();
        let keys = self.keys.now();
        let tried = keys.as_ref().map(|keys| self.claims_by(keys, token, digest, now));
        match tried {
            // The key may be new, unless it is somebody else's.
            Some(Err(Wrong::UnknownKey)) if token::alleged_issuer(token)? != self.config.issuer => {
                return Err(Wrong::Issuer.into());
            }
            None | Some(Err(Wrong::UnknownKey)) => {}
            Some(result) => return result.map_err(Refused::Token),
        }
        let number = keys.map(|keys| keys.number);
        match self.keys.other_than(number, now).await {
            Some(keys) => self.claims_by(&keys, token, digest, now).map_err(Refused::Token),
            None if number.is_some() => Err(Refused::Token(Wrong::UnknownKey)),
            None => Err(Refused::NoKeys(self.config.name.clone())),
        }
    }

    fn claims_by(
        &self,
        keys: &Numbered,
        token: &str,
        digest: [u8; 32],
        now: Timestamp,
    ) -> Result<Arc<Claims>, Wrong> {
        if let Some(known) = self.known.get(&digest)
            && known.keys == keys.number
            && now < known.until
        {
            self.metrics.looked(Outcome::Cached);
            return Ok(known.claims);
        }
        let verified = token::verify(token, &keys.set, &self.config, now)?;
        let claims = Arc::new(verified.claims);
        let known = Known { claims: Arc::clone(&claims), until: verified.until, keys: keys.number };
        self.known.insert(digest, known);
        self.metrics.looked(Outcome::Valid);
        Ok(claims)
    }
}
