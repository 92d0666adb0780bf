//! How a proxy gives its place to the process that follows it, so that no caller notices.
//!
//! The two meet on a Unix socket in a folder that is their user's alone:
//! 1. the successor says who it is, and which key it has made;
//! 2. the proxy in office has the CA certify that key, and passes its listening sockets on. Whoever waits on them to be
//!    accepted goes on waiting: a socket is closed only when the last process that has it closes it;
//! 3. the successor gets its configuration from policyd, serves, and says so;
//! 4. the predecessor accepts no more, finishes what it has, and ends.
//!
//! Until the third step the predecessor serves as if nothing were; if the successor dies, it goes on.

mod channel;
mod office;
mod predecessor;

use std::time::Duration;

use identity::succession::Granted;
use serde::{Deserialize, Serialize};

pub(crate) use office::Office;
pub(crate) use predecessor::{Predecessor, Waiting};

/// What the two say to each other has this form. Another one gets another number.
const VERSION: u32 = 1;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a proxy that has given up its place waits for a request on connections that are idle.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Other sidecars.
    Inbound,
    /// The application.
    Outbound,
    /// Callers from outside of the mesh.
    Ingress,
    /// Operators.
    Admin,
    /// An orchestrator that probes the application.
    Probes,
}

/// The successor's first words.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    instance: String,
    /// The CSR of its key.
    csr: Vec<u8>,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
enum Offer {
    /// Nothing doing, and why.
    Refused(String),
    /// The sockets follow, one for each role.
    Given { granted: Granted, roles: Vec<Role> },
}

/// The successor serves.
#[derive(Debug, Serialize, Deserialize)]
struct Serving {
    process: u32,
}
