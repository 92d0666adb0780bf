//! Tokens for tests, good and bad, and the keys to sign them with.

use std::sync::LazyLock;
use std::time::Duration;

use api::config::{KeySource, TokenIssuer, TokenPlace};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use serde_json::{Value, json};

/// The issuer that tests trust.
pub(crate) const ISSUER: &str = "https://accounts.example";

/// A key, and what is published of it.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    key: EncodingKey,
    /// The public key, as a JWK without a name.
    jwk: Value,
}

/// A key of each kind; making them takes a while.
pub(crate) static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::new(Algorithm::RS256));
pub(crate) static EC: LazyLock<Signer> = LazyLock::new(|| Signer::new(Algorithm::ES256));
pub(crate) static OTHER_EC: LazyLock<Signer> = LazyLock::new(|| Signer::new(Algorithm::ES256));
pub(crate) static EC_384: LazyLock<Signer> = LazyLock::new(|| Signer::new(Algorithm::ES384));
pub(crate) static ED: LazyLock<Signer> = LazyLock::new(|| Signer::new(Algorithm::EdDSA));

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let generate = |kind| KeyPair::generate_for(kind).unwrap().serialize_der();
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&generate(&PKCS_ECDSA_P256_SHA256)),
            Algorithm::ES384 => EncodingKey::from_ec_der(&generate(&PKCS_ECDSA_P384_SHA384)),
            // Without the public key in it: the library knows such keys by their length.
            Algorithm::EdDSA => EncodingKey::from_ed_der(
                Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap().as_ref(),
            ),
            // The library wants PKCS #1, which stands in PKCS #8 behind 26 bytes that say so.
            _ => EncodingKey::from_rsa_der(&generate(&PKCS_RSA_SHA256)[26..]),
        };
        let jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        // What the key is for is for each test to say.
        jwk.as_object_mut().unwrap().remove("alg");
        Self { algorithm, key, jwk }
    }

    /// The public key, called `id`.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        self.jwk_with(&json!({ "kid": id }))
    }

    /// The public key, with more members.
    pub(crate) fn jwk_with(&self, members: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        jwk
    }

    /// A token of these parts, whatever they are.
    pub(crate) fn sign_texts(&self, header: &str, claims: &str) -> String {
        self.sign_as(self.algorithm, header, claims)
    }

    /// The same, with another algorithm for the same key.
    pub(crate) fn sign_as(&self, algorithm: Algorithm, header: &str, claims: &str) -> String {
        sign(&self.key, algorithm, header, claims)
    }

    /// A token by the key called `id`.
    pub(crate) fn sign(&self, id: &str, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm, "typ": "JWT", "kid": id });
        self.sign_texts(&header.to_string(), &claims.to_string())
    }
}

/// A token of these parts, signed by `key`.
pub(crate) fn sign(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A JWK set of these keys.
pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// What a good token says at `now`, for an hour.
pub(crate) fn claims(now: Timestamp) -> Value {
    let now = now.as_second();
    json!({ "iss": ISSUER, "aud": "shop", "sub": "ann", "iat": now, "exp": now + 3600, "groups": ["a", "b"] })
}

/// The same with other claims; null takes one away.
pub(crate) fn claims_with(now: Timestamp, others: &Value) -> Value {
    let mut claims = claims(now);
    let all = claims.as_object_mut().unwrap();
    for (name, value) in others.as_object().unwrap() {
        match value {
            Value::Null => drop(all.remove(name)),
            value => drop(all.insert(name.clone(), value.clone())),
        }
    }
    claims
}

/// The issuer that tests trust, whose keys are these.
pub(crate) fn issuer(keys: KeySource) -> TokenIssuer {
    TokenIssuer {
        name: "accounts".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: vec!["shop".to_owned(), "shop-api".to_owned()],
        keys,
        place: TokenPlace::Header("authorization".to_owned()),
        clock_skew: Duration::from_secs(60),
        forward: true,
        claims: vec![("roles".to_owned(), vec!["realm".to_owned(), "roles".to_owned()])],
    }
}

/// Base64 for URLs, without padding (RFC 4648 5).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}
