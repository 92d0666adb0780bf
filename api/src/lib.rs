//! The wire contract between Tidegate's daemons.
//!
//! - `proto/`: the contract itself. Three calls serve a proxy (Check, Take, Watch), two serve an identity
//!   (Attest, Renew).
//! - [`policy`] and [`certificate`]: code generated from it, committed; `cargo xtask codegen` makes it again.
//! - [`config`]: what a proxy is told, in plain types.
//! - [`convert`]: the only way between wire and [`model`] types. What comes from the wire is checked there.
//!
//! Why Watch carries whole states and no differences: a proxy that missed a message is then wrong for no
//! longer than until the next one, and a reconnect needs no special case. Why decisions name limits and do not
//! carry them: a limit's key differs between requests that share a cached decision.

pub mod config;
pub mod convert;

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
