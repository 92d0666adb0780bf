//! The `tidegate` program as a library, so that tests can run a whole mesh in one process.
//!
//! - [`commands`]: one file for each command;
//! - [`mesh`]: all daemons of a bundle, wired together on loopback;
//! - [`application`]: how the services themselves are started;
//! - [`overview`]: what `tidegate up` shows.

pub mod application;
pub mod commands;
pub mod mesh;
pub mod overview;
