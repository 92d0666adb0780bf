//! What every Tidegate daemon has, and nothing that only one of them has.
//!
//! In reading order:
//! - [`clock`]: the one place that reads the wall clock, [`Clock`];
//! - [`lifecycle`]: tasks, stopping and draining, [`Lifecycle`];
//! - [`readiness`]: what a daemon still waits for, [`Readiness`];
//! - [`metrics`]: the Prometheus registry, [`Metrics`];
//! - [`admin`]: `/metrics`, `/healthz` and `/readyz` over HTTP, [`Admin`];
//! - [`finding`]: mistakes in files, shown with line, column and caret, [`Finding`] and [`Findings`];
//! - [`config_file`]: YAML files whose mistakes become findings;
//! - [`log`]: logs for people on a terminal and for machines elsewhere.

pub mod admin;
pub mod clock;
pub mod config_file;
pub mod finding;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod readiness;

pub use admin::Admin;
pub use clock::Clock;
pub use finding::{Finding, Findings, Severity};
pub use lifecycle::Lifecycle;
pub use metrics::Metrics;
pub use readiness::{BlockReady, Readiness};
