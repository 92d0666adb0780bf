//! The `tidegate` program, run as its users run it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells what it saw"
)]

mod alone;
mod bundle;
mod commands;
mod daemons;
mod delivery;
mod end_users;
mod frames;
mod handover;
mod interception;
mod namespaces;
mod net;
mod policy;
mod pressure;
mod readme;
mod replay;
mod run;
mod up;
