//! Who the end user of a request is: by a token that Envoy's `jwt_authn` has verified.
//!
//! policyd has no keys of issuers and fetches none, so it takes Envoy's word for the signature and the dates. Whose token
//! it is and whom it is meant for is looked at again, by what the bundle says. A request that has a token of which Envoy
//! says nothing is refused: it must not pass as nobody's.

use std::collections::BTreeMap;

use api::config::{TokenIssuer, TokenPlace};
use api::ext_authz::Asked;
use model::Attributes;
use model::claims::{Claims, Payload};

/// Why a request is refused for its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// Nobody has verified it.
    #[error("the token was not verified")]
    Unverified,
    /// There is more than one.
    #[error("the request has more than one token")]
    Several,
    /// What it says can't be read.
    #[error("the claims can't be read, or one stands there twice")]
    Claims,
    /// It comes from somebody else.
    #[error("the token is of an issuer that is not taken here")]
    Issuer,
    /// It is meant for somebody else.
    #[error("the token is not for this audience")]
    Audience,
}

impl Wrong {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Several => "invalid_request",
            _ => "invalid_token",
        }
    }

    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Several => 400,
            _ => 401,
        }
    }

    /// The answer's `WWW-Authenticate` (RFC 6750 3).
    pub(crate) fn challenge(self) -> String {
        format!("Bearer error=\"{}\", error_description=\"{self}\"", self.code())
    }
}

/// The claims of the request that was `asked` about and is `seen` so, by a token of one of `issuers`; none without one.
pub(crate) fn claims(
    asked: &Asked,
    issuers: &[TokenIssuer],
    seen: &Attributes,
) -> Result<BTreeMap<String, String>, Wrong> {
    let mut verified =
        issuers.iter().filter_map(|issuer| Some((issuer, asked.tokens.get(issuer.name.as_str())?)));
    let Some((issuer, token)) = verified.next() else {
        let has_token = issuers.iter().any(|issuer| is_at(&issuer.place, seen));
        return if has_token { Err(Wrong::Unverified) } else { Ok(BTreeMap::new()) };
    };
    if verified.next().is_some() {
        return Err(Wrong::Several);
    }
    let payload = Payload::of(token.clone()).ok_or(Wrong::Claims)?;
    if payload.issuer() != Some(issuer.issuer.as_str()) {
        return Err(Wrong::Issuer);
    }
    if !payload.is_for(&issuer.audiences) {
        return Err(Wrong::Audience);
    }
    Ok(Claims::of(&payload, &issuer.claims).into_all())
}

/// The headers that hold tokens which are not for the service.
pub(crate) fn kept_back(issuers: &[TokenIssuer], seen: &Attributes) -> Vec<String> {
    let kept = issuers.iter().filter(|issuer| !issuer.forward && is_at(&issuer.place, seen));
    let headers = kept.filter_map(|issuer| match &issuer.place {
        TokenPlace::Header(name) => Some(name.clone()),
        TokenPlace::Cookie(_) | TokenPlace::Query(_) => None,
    });
    headers.collect()
}

/// Whether something stands at `place` that may be a token.
fn is_at(place: &TokenPlace, seen: &Attributes) -> bool {
    match place {
        // Other schemes say other things, which are the service's. Several lines were joined: whichever it is.
        TokenPlace::Header(name) if name == "authorization" => seen.headers.get(name).is_some_and(|value| {
            value.split(',').any(|line| {
                let (scheme, _) = line.trim_start().split_once(' ').unwrap_or((line, ""));
                scheme.eq_ignore_ascii_case("bearer")
            })
        }),
        TokenPlace::Header(name) => seen.headers.contains_key(name),
        TokenPlace::Cookie(name) => seen.cookies.contains_key(name),
        TokenPlace::Query(name) => seen.query.contains_key(name),
    }
}
