//! The commands: what they are called, what their help says, and how their outcome becomes an exit code.

mod audit;
mod bundle;
mod ca;
mod completions;
mod guard;
mod net;
mod policy;
mod policyd;
mod proxies;
mod proxy;
mod sample;
mod schema;
mod serve;
mod up;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use daemon::Findings;

/// Policy and security for service-to-service traffic: mTLS identities, Cedar access policies, rate limits.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  tidegate up policies/bookinfo             run a whole mesh on this machine
  tidegate policy check policies/bookinfo   find every mistake in a bundle
  tidegate policy test policies/bookinfo    run its tests
  tidegate bundle build policies/bookinfo --sign KEY -o FILE   pack it into a signed file
  tidegate proxies --admin ADDRESS          which proxy runs which revision?
  tidegate audit rotation --ledger FILE     are certificates renewed in time?

Exit codes: 0 all well, 1 findings, 2 an error.
Logs: TIDEGATE_LOG=debug, or per part: TIDEGATE_LOG=info,tidegate_proxy=debug")]
pub struct Tidegate {
    #[command(subcommand)]
    command: Command,
}

/// Run a sidecar proxy: the same as `tidegate proxy`, and nothing else.
///
/// For the images of sidecars: there are many, and they need neither a CA nor an engine for policies.
#[derive(Debug, Parser)]
#[command(name = "tidegate-proxy", version, max_term_width = 100)]
#[command(after_help = "\
Example:
  tidegate-proxy --config reviews-v1.yaml

`tidegate proxy --help` shows what is in the file. Stops on Ctrl-C or SIGTERM, after the requests in flight have ended.")]
pub struct Sidecar {
    #[command(flatten)]
    proxy: proxy::Proxy,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Policyd(policyd::Policyd),
    Ca(ca::Ca),
    Proxy(proxy::Proxy),
    Proxies(proxies::Proxies),
    #[command(subcommand)]
    Net(net::Net),
    #[command(subcommand)]
    Policy(policy::Policy),
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Sample(sample::Sample),
    Schema(schema::SchemaCommand),
    Completions(completions::Completions),
    #[command(hide = true)]
    Guard(guard::Guard),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value.
    Json,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Clean,
    /// It ran, and found something.
    Findings,
}

impl Tidegate {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Up(command) => command.run(),
            Command::Policyd(command) => command.run(),
            Command::Ca(command) => command.run(),
            Command::Proxy(command) => command.run(),
            Command::Proxies(command) => command.run(),
            Command::Net(command) => command.run(),
            Command::Policy(command) => command.run(),
            Command::Bundle(command) => command.run(),
            Command::Audit(command) => command.run(),
            Command::Sample(command) => command.run(),
            Command::Schema(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Guard(command) => Ok(command.run()),
        };
        exit(result)
    }
}

impl Sidecar {
    /// Runs the proxy.
    pub fn run(self) -> ExitCode {
        exit(self.proxy.run())
    }
}

fn exit(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(error) => {
            print_error(&error);
            ExitCode::from(2)
        }
    }
}

/// Prints a result. A reader that has gone away (`| head`) is no error of ours, and `println!` would panic on it.
fn print(text: &str) {
    drop(writeln!(std::io::stdout(), "{}", text.trim_end()));
}

#[expect(clippy::print_stderr, reason = "errors go to stderr, logs or not")]
fn print_error(error: &anyhow::Error) {
    match error.downcast_ref::<Findings>() {
        Some(findings) => eprint!("{}", findings.render(std::io::stderr().is_terminal())),
        None => eprintln!("error: {error:#}"),
    }
}
