//! What must hold of any token and of any key set; see [`crate::fuzz`].

use std::time::Duration;

use api::config::{KeySource, TokenIssuer, TokenPlace};
use jiff::Timestamp;
use jsonwebtoken::Algorithm;

use super::keys::{COUNT_MAX, KeySet};
use super::token::{alleged_issuer, verify};

/// The public key of [`SIGNED`]; the private one was thrown away.
const KEYS: &[u8] = include_bytes!("fuzz/keys.json");
/// A good token, without its signature: the only one there is.
const SIGNED: &str = include_str!("fuzz/signed.txt");
/// Within its hour.
const NOW: i64 = 1_767_225_700;

/// See [`crate::fuzz::token`].
pub(crate) fn token(token: &str) {
    let keys = KeySet::parse(KEYS);
    assert!(keys.is_ok());
    let Ok(keys) = keys else { return };
    let issuer = TokenIssuer {
        name: "accounts".to_owned(),
        issuer: "https://accounts.example".to_owned(),
        audiences: vec!["shop".to_owned()],
        keys: KeySource::Text(String::new()),
        place: TokenPlace::Header("authorization".to_owned()),
        clock_skew: Duration::from_secs(60),
        forward: false,
        claims: Vec::new(),
    };
    let at = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let good = verify(token, &keys, &issuer, at(NOW));
    assert!(verify(token, &keys, &issuer, at(NOW + 86_400)).is_err(), "it never ends");
    let Ok(good) = good else { return };
    let signed = token.rsplit_once('.').map(|(signed, _)| signed);
    assert_eq!(signed, Some(SIGNED.trim_end()), "a token is good that nobody has signed");
    assert!(good.until > at(NOW), "it has ended");
    assert_eq!(alleged_issuer(token).as_deref(), Ok("https://accounts.example"));
    assert_eq!(good.claims.get("sub"), Some("ann"));
}

/// See [`crate::fuzz::key_set`].
pub(crate) fn key_set(text: &[u8]) {
    let Ok(keys) = KeySet::parse(text) else { return };
    let suiting = |algorithm| keys.suiting(algorithm, None).count();
    let all = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];
    let usable = all.map(suiting);
    assert!(usable.iter().any(|count| *count > 0), "a set without keys is taken");
    assert!(usable.iter().all(|count| *count + keys.unusable.len() <= COUNT_MAX));
    for secret in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        assert_eq!(suiting(secret), 0, "a public key would be taken for a secret");
    }
}
