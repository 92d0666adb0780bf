//! `tidegate-proxy`: the sidecar alone.

use std::process::ExitCode;

use clap::Parser;
use tidegate::commands::Sidecar;

fn main() -> ExitCode {
    Sidecar::parse().run()
}
