//! The public keys of an issuer: a JWK set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

/// The largest key set, in bytes.
pub(super) const SIZE_MAX: usize = 256 * 1024;
/// The most keys of one set.
pub(super) const COUNT_MAX: usize = 100;
/// The shortest modulus of an RSA key, in bytes: 2048 bits.
const RSA_LENGTH_MIN: usize = 256;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Keys that tokens can be verified with; at least one.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Why others of the set are not among them.
    pub unusable: Vec<String>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The algorithms that it is for. A key decides on them, a token only chooses among them.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why a text is no key set to use.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    /// It is too large.
    #[error("the key set is larger than {} KiB", SIZE_MAX / 1024)]
    TooLarge,
    /// It is something else.
    #[error("this is no key set: {0}")]
    Json(#[from] serde_json::Error),
    /// It has too many keys.
    #[error("the key set has more than {COUNT_MAX} keys")]
    TooMany,
    /// It has no key that tokens could be verified with.
    #[error("no key of the set can be used{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoneUsable(Option<String>),
}

#[derive(Deserialize)]
struct Raw {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a key set. A key that is not understood, or not for signatures, is left out (RFC 7517 5).
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > SIZE_MAX {
            return Err(KeySetError::TooLarge);
        }
        let raw: Raw = serde_json::from_slice(text)?;
        if raw.keys.len() > COUNT_MAX {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (raw, number) in raw.keys.into_iter().zip(1..) {
            match Key::parse(raw) {
                Ok(key) => keys.push(key),
                Err(why) => unusable.push(format!("key {number}: {why}")),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable(unusable.into_iter().next()));
        }
        Ok(Self { keys, unusable })
    }

    /// The keys that a token with this algorithm and key id may have been signed with.
    pub(super) fn suiting<'k>(
        &'k self,
        algorithm: Algorithm,
        id: Option<&'k str>,
    ) -> impl Iterator<Item = &'k DecodingKey> {
        let named = move |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let suiting = self.keys.iter().filter(move |key| key.algorithms.contains(&algorithm));
        suiting.filter(named).map(|key| &key.key)
    }
}

impl Key {
    fn parse(raw: Value) -> Result<Self, String> {
        if raw.get("d").is_some() {
            return Err("it is a private key, which has to be replaced: it was published".to_owned());
        }
        let jwk: Jwk = serde_json::from_value(raw).map_err(|error| error.to_string())?;
        let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let operations = jwk.common.key_operations.as_ref();
        if !for_signatures || operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return Err("it is not for verifying signatures".to_owned());
        }
        let suiting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                &[Algorithm::ES256]
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
                &[Algorithm::ES384]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            AlgorithmParameters::OctetKey(_) => {
                return Err("it is a secret, not a public key".to_owned());
            }
            _ => return Err("its type or curve is not among those that are taken".to_owned()),
        };
        let named = jwk.common.key_algorithm.map(Algorithm::try_from);
        let algorithms = match named {
            None => suiting.to_vec(),
            Some(Ok(algorithm)) if suiting.contains(&algorithm) => vec![algorithm],
            Some(_) => return Err("its algorithm is not one for its type".to_owned()),
        };
        let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        if !is_long_enough(&key, suiting) {
            return Err("it is too short, or not of its curve's length".to_owned());
        }
        Ok(Self { id: jwk.common.key_id, algorithms, key })
    }
}

fn is_long_enough(key: &DecodingKey, suiting: &[Algorithm]) -> bool {
    match (key.kind(), suiting) {
        (DecodingKeyKind::RsaModulusExponent { n, .. }, _) => {
            n.iter().skip_while(|byte| **byte == 0).count() >= RSA_LENGTH_MIN
        }
        // An uncompressed point: a byte that says so, and two coordinates.
        (DecodingKeyKind::SecretOrDer(point), [Algorithm::ES256]) => point.len() == 65,
        (DecodingKeyKind::SecretOrDer(point), [Algorithm::ES384]) => point.len() == 97,
        (DecodingKeyKind::SecretOrDer(point), _) => point.len() == 32,
    }
}
