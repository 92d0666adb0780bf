//! `tidegate`: everything in one binary.

use std::process::ExitCode;

use clap::Parser;
use tidegate::commands::Tidegate;

fn main() -> ExitCode {
    Tidegate::parse().run()
}
