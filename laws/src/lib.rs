//! What must hold whatever bytes come: a law for each parser that strangers, or authors of bundles, feed.
//!
//! Each is a function of any bytes that asserts its law. `fuzz/` runs them on bytes that a fuzzer makes up, and the test
//! `corpus` on those of `testdata/fuzz/`: on real cases, and on whatever was found.

mod bundles;
mod certificates;
mod decisions;
mod envoy;

pub use self::envoy::ext_authz;
pub use bundles::bundle;
pub use certificates::{certificate, trust_bundle};
pub use decisions::decision_key;
pub use proxy::fuzz::{
    chunks, http2_head, http2_response, key_set, path, proxy_protocol, request_head, response_head, token,
};

/// A law.
pub type Law = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const LAWS: [(&str, Law); 14] = [
    ("bundle", bundle),
    ("certificate", certificate),
    ("chunks", chunks),
    ("decision_key", decision_key),
    ("ext_authz", ext_authz),
    ("http2_head", http2_head),
    ("http2_response", http2_response),
    ("key_set", key_set),
    ("path", path),
    ("proxy_protocol", proxy_protocol),
    ("request_head", request_head),
    ("response_head", response_head),
    ("token", token),
    ("trust_bundle", trust_bundle),
];
