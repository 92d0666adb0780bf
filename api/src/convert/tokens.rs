//! Whose tokens a proxy takes.

use std::time::Duration;

use super::{ConvertError, millis, required};
use crate::config::{KeySource, TokenIssuer, TokenPlace};
use crate::policy as wire;
use crate::policy::token_issuer::{Keys, Place};

impl From<&TokenIssuer> for wire::TokenIssuer {
    fn from(issuer: &TokenIssuer) -> Self {
        let claims = issuer.claims.iter();
        Self {
            name: issuer.name.clone(),
            issuer: issuer.issuer.clone(),
            audiences: issuer.audiences.clone(),
            keys: Some(match &issuer.keys {
                KeySource::Text(text) => Keys::Jwks(text.clone()),
                KeySource::Url(url) => Keys::JwksUrl(url.clone()),
            }),
            place: Some(match &issuer.place {
                TokenPlace::Header(name) => Place::Header(name.clone()),
                TokenPlace::Cookie(name) => Place::Cookie(name.clone()),
                TokenPlace::Query(name) => Place::Query(name.clone()),
            }),
            clock_skew_ms: millis(issuer.clock_skew),
            forward: issuer.forward,
            claims: claims
                .map(|(name, path)| wire::InnerClaim { name: name.clone(), path: path.clone() })
                .collect(),
        }
    }
}

impl TryFrom<wire::TokenIssuer> for TokenIssuer {
    type Error = ConvertError;
    fn try_from(issuer: wire::TokenIssuer) -> Result<Self, Self::Error> {
        Ok(Self {
            name: issuer.name,
            issuer: issuer.issuer,
            audiences: issuer.audiences,
            keys: match required(issuer.keys, "token_issuer.keys")? {
                Keys::Jwks(text) => KeySource::Text(text),
                Keys::JwksUrl(url) => KeySource::Url(url),
            },
            place: match required(issuer.place, "token_issuer.place")? {
                Place::Header(name) => TokenPlace::Header(name),
                Place::Cookie(name) => TokenPlace::Cookie(name),
                Place::Query(name) => TokenPlace::Query(name),
            },
            clock_skew: Duration::from_millis(issuer.clock_skew_ms),
            forward: issuer.forward,
            claims: issuer.claims.into_iter().map(|claim| (claim.name, claim.path)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(keys: KeySource, place: TokenPlace) -> TokenIssuer {
        TokenIssuer {
            name: "accounts".into(),
            issuer: "https://accounts.example".into(),
            audiences: vec!["shop".into()],
            keys,
            place,
            clock_skew: Duration::from_millis(1500),
            forward: true,
            claims: vec![("roles".into(), vec!["realm_access".into(), "roles".into()])],
        }
    }

    #[test]
    fn an_issuer_survives_the_wire() {
        let text = || KeySource::Text("{}".into());
        for issuer in [
            issuer(text(), TokenPlace::Header("authorization".into())),
            issuer(text(), TokenPlace::Cookie("session".into())),
            issuer(KeySource::Url("https://a.example/jwks".into()), TokenPlace::Query("token".into())),
        ] {
            assert_eq!(TokenIssuer::try_from(wire::TokenIssuer::from(&issuer)), Ok(issuer));
        }
    }

    #[test]
    fn an_issuer_without_keys_or_place_is_refused() {
        let whole = wire::TokenIssuer::from(&issuer(
            KeySource::Text("{}".into()),
            TokenPlace::Header("authorization".into()),
        ));
        let no_keys = wire::TokenIssuer { keys: None, ..whole.clone() };
        assert_eq!(TokenIssuer::try_from(no_keys), Err(ConvertError::Missing("token_issuer.keys")));
        let no_place = wire::TokenIssuer { place: None, ..whole };
        assert_eq!(TokenIssuer::try_from(no_place), Err(ConvertError::Missing("token_issuer.place")));
    }
}
