//! The certificate authority: says who a workload is, and keeps a record of having said so.
//!
//! In reading order:
//! - [`config`]: what it is told;
//! - [`app`]: puts it together, [`app::build`];
//! - [`server`]: the two calls, Attest and Renew, as gRPC;
//! - [`registry`]: what happens on each: who may have which certificate;
//! - [`token`]: the join tokens that a first certificate costs;
//! - [`csr`]: the key that a caller wants a certificate for;
//! - [`authority`]: root and issuing authority, with their keys;
//! - [`issue`]: signs a workload's certificate, and checks what it signed;
//! - [`ledger`]: the append-only record of every certificate;
//! - [`audit`]: reads the record and says what is late, reused or wrong;
//! - [`metrics`]: what Prometheus is told.
//!
//! No certificate leaves before its ledger entry is on disk. So one that is found in the wild, and is not in
//! the ledger, was not made here: it proves a stolen key.

pub mod app;
pub mod audit;
pub mod authority;
pub mod config;
pub mod csr;
pub mod issue;
pub mod ledger;
pub mod metrics;
pub mod registry;
pub mod server;
pub mod token;
