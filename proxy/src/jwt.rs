//! End users: the tokens (JWT) of requests, verified, as claims that policies read.
//!
//! A request without a token is nobody's, and has no claims. One with a token that is no good is refused, and so is one
//! whose token can't be verified because its issuer's keys could not be had yet.
//!
//! - `place`: where a request has a token;
//! - `token`: whether it is good, a pure function of keys and time; what it says is `model::claims`;
//! - `keys`, `store`, `fetch`: the issuer's keys, read, kept and fetched;
//! - `issuer`: what was verified is known until the token ends or the keys change, so a hit costs a hash.

mod fetch;
pub(crate) mod fuzz;
mod issuer;
mod keys;
mod metrics;
mod place;
mod store;
#[cfg(test)]
pub(crate) mod test_tokens;
mod token;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use api::config::{TokenIssuer, TokenPlace};
use http::StatusCode;
use jiff::Timestamp;

use crate::exchange::Direction;
use crate::fields::Fields;
pub(crate) use fetch::Network;
use issuer::Issuer;
pub(crate) use metrics::Metrics;
use metrics::Outcome;
pub(crate) use model::claims::Claims;
pub(crate) use place::KeptBack;
pub(crate) use store::Environment;
use token::Wrong;

/// The issuers whose tokens a service takes.
#[derive(Debug, Default)]
pub(crate) struct Jwt {
    issuers: Vec<Arc<Issuer>>,
    /// Where tokens are looked for.
    places: BTreeSet<TokenPlace>,
    kept_back: KeptBack,
    metrics: Metrics,
}

/// Why a request is refused for its token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The token is no good.
    #[error("{0}")]
    Token(#[from] Wrong),
    /// There is more than one.
    #[error("the request has more than one token")]
    Several,
    /// There are no keys to verify it with.
    #[error("the keys of `{0}` could not be had yet, so the token can't be verified")]
    NoKeys(String),
}

impl Refused {
    /// The code that programs read: that of RFC 6750 3.1, where it has one.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Token(_) => "invalid_token",
            Self::Several => "invalid_request",
            Self::NoKeys(_) => "token_keys_unavailable",
        }
    }

    /// The answer's status.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Several => StatusCode::BAD_REQUEST,
            Self::NoKeys(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer's `WWW-Authenticate`, if the caller can do something about it.
    pub(crate) fn challenge(&self) -> Option<String> {
        let code = self.code();
        match self {
            Self::Token(_) | Self::Several => {
                Some(format!("Bearer error=\"{code}\", error_description=\"{self}\""))
            }
            Self::NoKeys(_) => None,
        }
    }
}

impl Jwt {
    /// The `issuers` of a new configuration. One that did not change keeps its keys, and what was verified by them.
    pub(crate) fn after(previous: &Self, issuers: &[TokenIssuer], environment: &Environment) -> Self {
        let issuer = |config: &TokenIssuer| {
            let same = previous.issuers.iter().find(|old| old.config == *config);
            same.map_or_else(|| Arc::new(Issuer::new(config.clone(), environment)), Arc::clone)
        };
        Self {
            issuers: issuers.iter().map(issuer).collect(),
            places: issuers.iter().map(|issuer| issuer.place.clone()).collect(),
            kept_back: KeptBack::of(issuers),
            metrics: environment.metrics.clone(),
        }
    }

    /// Who the end user of a request with these `fields` and this `query` is, at `now`; none is nobody.
    ///
    /// # Errors
    /// When the request has to be refused for its token.
    pub(crate) async fn identify(
        &self,
        fields: Fields<'_>,
        query: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<Claims>>, Refused> {
        let identified = self.look(fields, query, now).await;
        match &identified {
            // An issuer has counted it.
            Ok(Some(_)) => {}
            Ok(None) => self.metrics.looked(Outcome::None),
            Err(Refused::Token(_) | Refused::Several) => self.metrics.looked(Outcome::Invalid),
            Err(Refused::NoKeys(_)) => self.metrics.looked(Outcome::NoKeys),
        }
        identified
    }

    /// Whether no tokens are taken.
    pub(crate) const fn takes_none(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The tokens that are not for the next hop of a request that goes this way.
    pub(crate) fn kept_back(&self, direction: Direction) -> &KeptBack {
        static NOTHING: KeptBack = KeptBack::nothing();
        // What our own application sends is for whom it calls.
        if direction == Direction::Outbound { &NOTHING } else { &self.kept_back }
    }

    async fn look(
        &self,
        fields: Fields<'_>,
        query: &str,
        now: Timestamp,
    ) -> Result<Option<Arc<Claims>>, Refused> {
        match self.find(fields, query)? {
            Some((issuer, token)) => issuer.claims(&token, now).await.map(Some),
            None => Ok(None),
        }
    }

    /// The one token of a request, and who may have issued it.
    fn find<'r>(
        &self,
        fields: Fields<'r>,
        query: &'r str,
    ) -> Result<Option<(&Issuer, Cow<'r, str>)>, Refused> {
        let mut found = self.places.iter().flat_map(|place| {
            place::tokens(place, fields, query).into_iter().map(move |token| (place, token))
        });
        let Some((place, token)) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(Refused::Several);
        }
        let issuer = match self.issuers.as_slice() {
            // Nothing to choose: a token that is known needs no more than a hash.
            [only] => only,
            several => {
                let alleged = token::alleged_issuer(&token)?;
                let may_be =
                    |issuer: &&Arc<Issuer>| issuer.config.issuer == alleged && issuer.config.place == *place;
                several.iter().find(may_be).ok_or(Wrong::Issuer)?
            }
        };
        Ok(Some((issuer, token)))
    }
}
