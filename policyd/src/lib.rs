//! policyd decides: it loads a bundle, answers Checks, counts mesh-wide limits, and tells proxies of every change.
//!
//! It knows no HTTP, only [`model::Attributes`].
//!
//! # Layout
//! - [`bundle`]: what an author writes, read and checked as a whole; all mistakes at once;
//! - [`atoms`]: what a proxy has to look at, derived from the conditions;
//! - [`engine`]: what the policies say of one request, by Cedar; pure;
//! - [`handlers`]: the check adapters at work;
//! - [`snapshot`]: bundle and handlers under one revision, replaced whole;
//! - [`concern`]: which services a change concerns, by [`digest`]s of what their decisions are made from; pure;
//! - [`check`]: one Check: engine and adapters, combined;
//! - [`candidate`]: other bundles, tried beside the one in force;
//! - [`shadows`]: what other policies than those in force would say;
//! - [`limits`]: mesh-wide rate limits; pure;
//! - [`delivery`]: how a bundle comes here, from a folder or a signed archive, and what is kept of those in force;
//! - [`folders`]: news of folders, and when to believe what is read there;
//! - [`source`]: keeps the snapshot in step with the bundle that is delivered, or pinned;
//! - [`publish`]: what each proxy is told of a snapshot; [`proxies`]: which of them runs what;
//! - [`author`]: the tools of those who write policies, all over a loaded bundle;
//! - [`server`]: the gRPC surface; [`metrics`]; [`config`]; [`app`], which wires it all.

pub mod app;
pub mod atoms;
pub mod author;
pub mod bundle;
pub mod candidate;
pub mod check;
pub mod concern;
pub mod config;
pub mod delivery;
pub mod digest;
pub mod engine;
pub mod folders;
pub mod handlers;
pub mod limits;
pub mod metrics;
pub mod proxies;
pub mod publish;
pub mod server;
pub mod shadows;
pub mod snapshot;
pub mod source;
