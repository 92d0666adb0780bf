//! The sidecar: enforces policies and limits on every request to a service, and connects its application to
//! the other services, with both sides of each connection verified.
//!
//! # Layout
//! In the order in which a request meets them:
//! - `sockets`: what is listened on; `handover`: how they pass to the process that comes after;
//! - `worker`: the threads; `accept`: takes connections while there is room; `listener`: serves them, over TLS where it
//!   must; `opening`: whether a caller begins with TLS, where it may choose; `cutter`: ends those whose certificates
//!   have ended; `stream`: their bytes;
//! - `intercept`: what the kernel has redirected here, and where it was meant to go;
//! - `proxy_protocol`: who really called, as a load balancer says;
//! - `http1`, `http2`: the protocols; `framing`, `chunks`, `fields`: what lets only messages with one reading in;
//! - `ids`, `introduction`, and `model::path`: parts of the one form in which a request is decided on and forwarded;
//! - `load`: whether there is room for one more;
//! - `request`: where it goes, and whether it may: a table of contents of what follows;
//! - `jwt`: who its end user is;
//! - `attributes`: what policies see of it;
//! - `admission`: whether it may pass, as the service's enforcement has it;
//! - `check`, `decision_cache`: the decision, from the cache or from policyd;
//! - `limits`: what it is charged to;
//! - `egress`: the same of calls to services outside of the mesh; `external`: where those are, and how they are known;
//! - `upstream`, `endpoints`, `pool`, `sweep`: which instance gets it, over which connection;
//! - `respond`: every answer that is not an upstream's;
//! - `exchange`, `access_log`, `decision_log`, `metrics`, `report`: what is told of it afterwards.
//!
//! Beside them: `probes` (what an orchestrator may ask of the application).
//!
//! Around them: [`config`] (the file), [`app`] (wiring, start, drain), `policy_client` (the way to policyd),
//! `applied` (what policyd said last) and `staleness` (whether it still speaks).
//!
//! # What HTTP/1.1 parts are spoken otherwise than asked
//! - CONNECT is answered 405.
//! - `Expect: 100-continue` is answered here, once there is a connection to the upstream; it is not passed on.
//! - Trailers pass, except those that say what a head would have to (`http1::trailers`). To callers that speak
//!   HTTP/1.0, chunked responses go without their chunks, and the connection ends with them.

mod accept;
mod access_log;
mod admission;
pub mod app;
mod applied;
mod attributes;
#[doc(hidden)]
pub mod bench;
mod check;
mod chunks;
pub mod config;
mod cutter;
mod decision_cache;
mod decision_log;
mod egress;
mod endpoints;
mod exchange;
mod external;
mod fields;
mod framing;
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod http1;
mod http2;
mod ids;
mod intercept;
mod introduction;
mod jwt;
mod limits;
mod listener;
mod load;
mod metrics;
mod opening;
mod policy_client;
mod pool;
mod probes;
mod proxy_protocol;
mod report;
mod request;
mod respond;
mod sockets;
mod staleness;
mod standing;
mod stream;
mod sweep;
mod tcp;
mod tunnel;
mod upstream;
mod worker;

#[cfg(test)]
mod tests;

pub use app::{Addresses, Bound, Listeners, bind, build};
pub use config::Config;
