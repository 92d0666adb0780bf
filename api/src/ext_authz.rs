//! A question of Envoy's filter `ext_authz`, and its answer, in plain types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use serde_json::{Map, Value};

/// The key of a route's `context_extensions` that names the service.
pub const SERVICE: &str = "service";
/// The filter of Envoy that verifies tokens, and the name of what it says of them.
pub const TOKENS: &str = "envoy.filters.http.jwt_authn";

/// A request that Envoy asks about, as Envoy would forward it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// What Envoy calls the caller, by its certificate; empty without one.
    pub principal: String,
    /// What Envoy calls itself, by its certificate; empty without one.
    pub destination: String,
    /// Where the caller is; none for one that came by a Unix socket.
    pub source_ip: Option<IpAddr>,
    /// The service that the route is for, if the route says so.
    pub service: Option<String>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The host asked for, as it was sent.
    pub authority: String,
    /// The header lines, by lower-case name, without those of HTTP/2 that begin with a colon.
    pub fields: Vec<(String, Bytes)>,
    /// Whether the lines of a name were put together, by commas, so that nobody can tell how many there were.
    pub is_joined: bool,
    /// The content of the tokens that Envoy has verified, by the names that its configuration gives them.
    pub tokens: BTreeMap<String, Map<String, Value>>,
}

/// What Envoy is told to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// 200 lets it pass; anything else is what its caller is answered.
    pub status: u16,
    /// Headers of the answer to its caller.
    pub headers: Vec<(String, String)>,
    /// The body of that answer.
    pub body: String,
    /// Headers that the service does not get, if it passes.
    pub removed: Vec<String>,
    /// What Envoy's other filters and its access log may read.
    pub told: Map<String, Value>,
}

impl Answer {
    /// The status of requests that pass.
    pub const OK: u16 = 200;
}
