//! The `tidegate` program as a library, so that tests can run a whole mesh in one process.
//!
//! - [`commands`]: one file for each command;
//! - [`mesh`]: all daemons of a bundle, wired together on loopback;
//! - [`application`]: how the services themselves are started;
//! - [`guard`]: ends the services when `tidegate up` can not;
//! - [`overview`]: what `tidegate up` shows;
//! - [`interception`]: which connections the kernel hands to the sidecar;
//! - [`coverage`]: what the tests of a bundle have tried of it, as a table and as a page;
//! - [`progress`]: bars for long work.

pub mod application;
pub mod commands;
pub mod coverage;
pub mod guard;
pub mod interception;
pub mod mesh;
pub mod overview;
pub mod progress;
