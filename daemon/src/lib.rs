//! What every Tidegate daemon has, and nothing that only one of them has.
//!
//! In reading order:
//! - [`clock`]: the one place that reads the wall clock, [`Clock`];
//! - [`lifecycle`]: tasks, stopping and draining, [`Lifecycle`];
//! - [`descriptors`]: how many files and sockets there may be, and for whom;
//! - [`readiness`]: what a daemon still waits for, [`Readiness`];
//! - [`metrics`]: the Prometheus registry, [`Metrics`];
//! - [`admin`]: `/metrics`, `/healthz` and `/readyz` over HTTP, [`Admin`];
//! - [`finding`]: mistakes in files, shown with line, column and caret, [`Finding`] and [`Findings`];
//! - [`excerpt`]: parts of files, shown with remarks;
//! - [`config_file`]: YAML files whose mistakes become findings;
//! - [`log`]: logs for people on a terminal and for machines elsewhere;
//! - [`line_writer`]: logs of lines that others read, written in the background, [`LineWriter`];
//! - [`rotating_file`]: the file behind one, put aside when it has grown;
//! - [`supervisor`]: what systemd is told;
//! - [`state_dir`]: the folder for what must survive the process.

pub mod admin;
pub mod clock;
pub mod config_file;
pub mod descriptors;
pub mod excerpt;
pub mod finding;
pub mod lifecycle;
pub mod line_writer;
pub mod log;
pub mod metrics;
pub mod readiness;
pub mod rotating_file;
pub mod state_dir;
pub mod supervisor;

pub use admin::Admin;
pub use clock::Clock;
pub use excerpt::Excerpt;
pub use finding::{Finding, Findings, Severity};
pub use lifecycle::Lifecycle;
pub use line_writer::LineWriter;
pub use metrics::Metrics;
pub use readiness::{BlockReady, Readiness};
pub use rotating_file::Rotation;
