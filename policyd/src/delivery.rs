//! How a bundle comes to policyd.
//!
//! - [`digest`]: what a content is called;
//! - [`content`]: all files of a bundle, those included that it refers to;
//! - [`manifest`]: the list of them;
//! - [`signature`]: who vouches for a manifest;
//! - [`archive`]: manifest, signature and files in one file.

pub mod archive;
pub mod content;
pub mod digest;
pub mod manifest;
pub mod signature;

pub use archive::Archive;
pub use content::Content;
pub use digest::Digest;
pub use manifest::Manifest;
pub use signature::{Signature, SigningKey, TrustedKeys};
