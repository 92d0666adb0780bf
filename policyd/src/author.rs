//! The tools of those who write policies: what `tidegate policy …` runs, each over loaded bundles, without a daemon.
//!
//! Pure, but for [`replay`], which reads a log, and [`diff::symbolic`], which runs a solver. Nothing that serves depends on them, except that the loader knows
//! the names of the lints which an `@allow` may name.
//!
//! - [`lint`]: what an author most likely meant otherwise;
//! - [`format`]: the one form of Cedar files;
//! - [`unit_test`]: the tests that an author writes for a bundle;
//! - [`coverage`]: what the tests of a bundle have tried of it;
//! - [`explain`]: why a request is decided as it is;
//! - [`boundary`]: requests that show what the policies tell apart; pure;
//! - [`diff`]: what is different between two bundles;
//! - [`replay`]: recorded decisions, made again by another bundle;
//! - [`access`]: who may call what;
//! - [`yaml_schema`]: JSON Schemas of the YAML files, for editors.

pub mod access;
pub mod boundary;
pub mod coverage;
pub mod diff;
pub mod explain;
pub mod format;
pub mod lint;
pub mod replay;
pub mod unit_test;
pub mod yaml_schema;

#[cfg(test)]
mod written;
