//! End users' tokens, and the keys that they are verified with.

use crate::jwt;

/// A token. Without the private key nobody makes one that is good but `signed`, which is.
pub fn token(bytes: &[u8]) {
    let Ok(token) = std::str::from_utf8(bytes) else { return };
    jwt::fuzz::token(token);
}

/// A set of keys (JWK): it has keys, not too many, and none that a stranger could sign with.
pub fn key_set(bytes: &[u8]) {
    jwt::fuzz::key_set(bytes);
}
