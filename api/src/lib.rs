//! The wire contract between Tidegate's daemons.
//!
//! - `proto/`: the contract itself. Three calls serve a proxy (Check, Take, Watch), two serve an identity
//!   (Attest, Renew).
//! - [`policy`] and [`certificate`]: code generated from it, committed; `cargo xtask codegen` makes it again.
//! - [`envoy`]: the same of what Envoy speaks, a part of its own contract.
//! - [`config`]: what a proxy is told, in plain types; [`ext_authz`]: what Envoy asks, and is answered.
//! - [`convert`]: the only way between wire and [`model`] types. What comes from the wire is checked there.
//!
//! Why Watch carries whole parts and no differences: a part is right or it is not there, whatever was missed
//! before it, and a reconnect says which ones it has. Why two parts: the one is the same for all proxies and
//! large, the other changes with most edits and is small. Why decisions name limits and do not
//! carry them: a limit's key differs between requests that share a cached decision.

pub mod config;
pub mod convert;
pub mod envoy;
pub mod ext_authz;

/// Generated from `proto/tidegate/policy.proto`.
#[expect(missing_docs, unused_qualifications, reason = "generated; the .proto file is the documentation")]
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod policy {
    include!("gen/tidegate.policy.v1.rs");
}

/// Generated from `proto/tidegate/ca.proto`.
#[expect(missing_docs, unused_qualifications, reason = "generated; the .proto file is the documentation")]
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod certificate {
    include!("gen/tidegate.ca.v1.rs");
}

pub use convert::ConvertError;
