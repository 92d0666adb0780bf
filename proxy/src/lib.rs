//! The sidecar: enforces policies and limits on every request to a service, and connects its application to
//! the other services, with both sides of each connection verified.
//!
//! # Layout
//! In the order in which a request meets them:
//! - `listener`: accepts connections; `gate`, `framing` and `chunks` let only unambiguous requests in;
//! - `request`: the life of one request, a table of contents of what follows;
//! - `headers`, `path`: the one form in which a request is decided on and forwarded;
//! - `attributes`: what policies see of it;
//! - `admission`: whether it may pass, as the service's enforcement has it;
//! - `check`, `decision_cache`: the decision, from the cache or from policyd;
//! - `limits`: what it is charged to;
//! - `upstream`, `endpoints`, `pool`: which instance gets it, over which connection;
//! - `respond`: every answer that is not an upstream's;
//! - `exchange`, `body`, `access_log`, `decision_log`, `metrics`, `report`: what is told of it afterwards.
//!
//! Around them: [`config`] (the file), [`app`] (wiring, start, drain), `policy_client` (the way to policyd),
//! `applied` (what policyd said last) and `staleness` (whether it still speaks).
//!
//! # What HTTP/1.1 parts are not spoken
//! - CONNECT is answered 405; Upgrade is not passed on, so WebSockets are not spoken.
//! - 1xx: `100 Continue` is answered here, when the upstream first asks for the body; other interim responses
//!   of an upstream end here, because hyper passes none on.
//! - Trailers pass if the message announced them in `Trailer`, and for responses if the caller sent
//!   `TE: trailers`, because hyper sends no others.

mod access_log;
mod admission;
pub mod app;
mod applied;
mod attributes;
#[doc(hidden)]
pub mod bench;
mod body;
mod check;
mod chunks;
pub mod config;
mod decision_cache;
mod decision_log;
mod endpoints;
mod exchange;
mod framing;
mod gate;
mod headers;
mod limits;
mod listener;
mod metrics;
mod path;
mod policy_client;
mod pool;
mod report;
mod request;
mod respond;
mod staleness;
mod upstream;

#[cfg(test)]
mod tests;

pub use app::{Addresses, Bound, Listeners, bind, build};
pub use config::Config;
