//! policyd's door to Envoy: what Envoys ask becomes [`model::Attributes`], and what policyd decides becomes their answer.
//!
//! It knows HTTP, which policyd does not. All protocols share one port.
//!
//! # Layout
//! - [`app`]: binds the addresses, starts policyd, and opens the door;
//! - `door`: one port for all protocols, and who may ask what;
//! - `ext_authz`: the question by gRPC; `by_http`: the same question by plain HTTP, with `client_cert`;
//! - `decide`: one question, whichever way it came;
//! - `service`: which service it is about; `seen`: the request as policies see it; `token`: who its end user is;
//! - `refusal`: why a request may not pass, and what its caller is told;
//! - `told`: what Envoy itself is told; `metrics`.

pub mod app;
mod by_http;
mod client_cert;
mod decide;
mod door;
mod ext_authz;
#[doc(hidden)]
pub mod fuzz;
mod metrics;
mod refusal;
mod seen;
mod service;
mod token;
mod told;

#[cfg(test)]
mod tests;

pub use app::{Doors, bind, build};
