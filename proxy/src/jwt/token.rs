//! Whether a token (RFC 7519) is good, by the rules of RFC 8725. Pure: the keys and the time are arguments.

use api::config::TokenIssuer;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{AlgorithmFamily, Header, Validation, decode, decode_header};
use model::claims::{Claims, Payload};
use serde::Deserialize;
use serde_json::Value;

use super::keys::KeySet;

/// The longest token, in bytes.
pub(super) const LENGTH_MAX: usize = 16 * 1024;
/// The most keys that are tried for a token that names none.
const TRIES_MAX: usize = 8;

/// What a good token says.
#[derive(Debug)]
pub(super) struct Verified {
    pub claims: Claims,
    /// When it is no longer good.
    pub until: Timestamp,
}

/// Why a token is no good. The words are for its sender, and go into a header: they hold nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// It is too long.
    #[error("the token is longer than {} KiB", LENGTH_MAX / 1024)]
    TooLong,
    /// It is no token.
    #[error("this is no JWT that can be read")]
    Malformed,
    /// Its algorithm is none, or is not for public keys.
    #[error("the token's algorithm is not one of RS, PS and ES with 256, 384 or 512, nor EdDSA")]
    Algorithm,
    /// Its header demands something that is not done here.
    #[error("the token's header has critical extensions")]
    Critical,
    /// The issuer has no such key.
    #[error("the issuer has no such key for this algorithm")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the signature is not valid")]
    Signature,
    /// Its claims are not what they have to be.
    #[error("the claims can't be read, or one stands there twice")]
    Claims,
    /// It does not say when it ends.
    #[error("the token does not say when it expires")]
    NoExpiry,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
    /// It does not hold yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// It comes from somebody else.
    #[error("the token is of an issuer that is not taken here")]
    Issuer,
    /// It is meant for somebody else.
    #[error("the token is not for this audience")]
    Audience,
    /// Its subject is no text.
    #[error("the subject is no text")]
    Subject,
}

/// What is read of a token before anything is known to be true of it, in order to choose its issuer.
#[derive(Deserialize)]
struct Peek {
    iss: Option<String>,
}

/// Who issued `token`, by its own word.
pub(super) fn alleged_issuer(token: &str) -> Result<String, Wrong> {
    if token.len() > LENGTH_MAX {
        return Err(Wrong::TooLong);
    }
    let peek: Peek = insecure_decode_claims(token).map_err(|_unread| Wrong::Malformed)?;
    peek.iss.ok_or(Wrong::Issuer)
}

/// What `token` says, if `issuer` signed it with one of `keys` and it holds at `now`.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    issuer: &TokenIssuer,
    now: Timestamp,
) -> Result<Verified, Wrong> {
    if token.len() > LENGTH_MAX {
        return Err(Wrong::TooLong);
    }
    let header = decode_header(token).map_err(|error| match error.kind() {
        // The header is JSON, but has no algorithm that the library knows: `none`, for one.
        ErrorKind::Json(error) if error.is_data() => Wrong::Algorithm,
        _ => Wrong::Malformed,
    })?;
    if header.crit.is_some() {
        return Err(Wrong::Critical);
    }
    if header.alg.family() == AlgorithmFamily::Hmac {
        return Err(Wrong::Algorithm);
    }
    let payload = signed(token, &header, keys)?;
    let until = times(&payload, issuer, now)?;
    parties(&payload, issuer)?;
    Ok(Verified { claims: Claims::of(&payload, &issuer.claims), until })
}

/// The content of `token`, if one of `keys` has signed it. Its own `jwk`, `jku` and `x5c` are not looked at.
fn signed(token: &str, header: &Header, keys: &KeySet) -> Result<Payload, Wrong> {
    let mut validation = Validation::new(header.alg);
    // The library would ask the system for the time, and take a claim that is absent for one that is right.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let mut wrong = Wrong::UnknownKey;
    for key in keys.suiting(header.alg, header.kid.as_deref()).take(TRIES_MAX) {
        match decode::<Payload>(token, key, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(error) => {
                wrong = match error.kind() {
                    // Claims are read only once the signature was found to be good.
                    ErrorKind::Json(_) | ErrorKind::Utf8(_) => return Err(Wrong::Claims),
                    ErrorKind::InvalidToken | ErrorKind::Base64(_) => return Err(Wrong::Malformed),
                    _ => Wrong::Signature,
                }
            }
        }
    }
    Err(wrong)
}

/// When a token is no longer good, if it is at `now`.
fn times(payload: &Payload, issuer: &TokenIssuer, now: Timestamp) -> Result<Timestamp, Wrong> {
    let later = |time: Timestamp| time.checked_add(issuer.clock_skew).unwrap_or(Timestamp::MAX);
    let date = |name| payload.get(name).map(|value| numeric_date(value).ok_or(Wrong::Claims)).transpose();
    let until = later(date("exp")?.ok_or(Wrong::NoExpiry)?);
    if now >= until {
        return Err(Wrong::Expired);
    }
    for start in [date("nbf")?, date("iat")?].into_iter().flatten() {
        if later(now) < start {
            return Err(Wrong::NotYet);
        }
    }
    Ok(until)
}

/// Whether a token comes from `issuer`, and is meant for one of its audiences.
fn parties(payload: &Payload, issuer: &TokenIssuer) -> Result<(), Wrong> {
    if payload.issuer() != Some(issuer.issuer.as_str()) {
        return Err(Wrong::Issuer);
    }
    if !payload.is_for(&issuer.audiences) {
        return Err(Wrong::Audience);
    }
    match payload.get("sub") {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err(Wrong::Subject),
    }
}

/// A number of seconds since 1970, perhaps with a fraction; out of the range of times, the end of it.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_f64()?;
    let end = if seconds < 0.0 { Timestamp::MIN } else { Timestamp::MAX };
    let since = SignedDuration::try_from_secs_f64(seconds).ok();
    Some(since.and_then(|since| Timestamp::UNIX_EPOCH.checked_add(since).ok()).unwrap_or(end))
}

#[cfg(test)]
mod tests;
