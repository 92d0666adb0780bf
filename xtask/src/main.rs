//! Chores of Tidegate's developers, run as `cargo xtask`: see `cargo xtask --help`.
#![expect(clippy::print_stdout, reason = "a chore tells its caller what it does")]

mod codegen;
mod programs;
mod test;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Chores of Tidegate's developers.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests use beyond Rust, then run every test
    ///
    /// Some tests use programs that are not Rust's, such as promtool, which checks every /metrics page. Each one that
    /// is missing is installed from Debian's packages, with a line that says why. Where that can't be done, the
    /// command to do it by hand is printed, and the tests that need the program say that they were skipped.
    ///
    /// Then `cargo test --workspace` runs, and its exit code is this command's.
    #[command(after_help = "Examples:
  cargo xtask test                                 all tests
  cargo xtask test --test tidy                     those of tests/tests/tidy.rs
  cargo xtask test --no-fail-fast -- --nocapture   for the tests themselves: after `--`")]
    Test {
        /// More arguments for `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },

    /// Generate the protobuf code in api/src/gen again, from api/proto
    ///
    /// The generated code is committed, so that nobody needs protoc to build Tidegate. Run this after each change to a
    /// .proto file.
    Codegen {
        /// Write nothing; fail if the committed code is not what the .proto files generate
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."));
    match Arguments::parse().chore {
        Chore::Test { arguments } => test::run(root, &arguments),
        Chore::Codegen { check } => codegen::run(root, check).map(|()| ExitCode::SUCCESS),
    }
}
