//! Adapters connect Tidegate to other systems, in the manner of Istio's Mixer.
//!
//! An adapter turns a configuration into a handler in two steps, `validate` (pure, all mistakes at once) and
//! `build` (may do I/O). A handler answers checks, or takes reports, about instances: named values that a
//! bundle's expressions read from requests. See [`contract`] for the traits, [`denier`] for the smallest
//! complete adapter, which is the one to copy, and [`registry`] for the list where a new one is entered.
//!
//! Check adapters: [`denier`], [`list`]. Report adapters: [`stdio`], [`mod@file`], [`prometheus`].

pub mod config;
#[cfg(test)]
pub mod conformance;
pub mod contract;
pub mod denier;
pub mod exposition;
pub mod fields;
pub mod file;
mod lines;
pub mod list;
pub mod prometheus;
pub mod registry;
pub mod stdio;

pub use contract::{
    Adapter, BuildError, CheckError, CheckHandler, ConfigError, Environment, Handler, Instance, Kind,
    ReportHandler, Validated,
};
pub use exposition::Exposition;
pub use fields::{Field, FieldType, Fields};
pub use registry::{BUILT_IN, UnknownAdapter, find};
