//! `tidegate ca`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use daemon::Clock;
use model::SpiffeId;
use model::limit::parse_duration;

use super::{Outcome, print, serve};

/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(5);

/// Run the certificate authority, or make a join token
///
/// It gives each workload a short-lived certificate for its SPIFFE ID, and writes every certificate to a ledger
/// before it leaves.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Example configuration:
  trust_domain: bookinfo.example
  state_dir: state/ca
  listen: 127.0.0.1:7000
  admin: 127.0.0.1:7100
  certificate_ttl: 1h

  tidegate ca --config ca.yaml
  tidegate ca token --config ca.yaml --id spiffe://bookinfo.example/ns/bookinfo/sa/reviews \\
      --instance reviews-v1 > reviews-v1.token

Stops on Ctrl-C or SIGTERM, after the calls in flight have ended.")]
pub(super) struct Ca {
    /// The CA's configuration file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    logs: serve::Logs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Token(Token),
}

/// Make a join token: whoever has it can become this identity, once
///
/// It is printed, and nowhere kept but as a hash. It may be made while the CA runs.
#[derive(Debug, Args)]
struct Token {
    /// The CA's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The identity, such as spiffe://bookinfo.example/ns/bookinfo/sa/reviews
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// The name of the process that will use it, for the ledger
    #[arg(long, value_name = "NAME")]
    instance: String,
    /// How long it is good for, such as 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    ttl: Duration,
}

impl Ca {
    pub(super) fn run(self) -> Result<Outcome> {
        match (self.command, self.config) {
            (Some(Command::Token(token)), _) => token.run(),
            (None, Some(config)) => serve_ca(&config, self.logs),
            // clap demands one of the two.
            (None, None) => anyhow::bail!("say `--config FILE`"),
        }
    }
}

impl Token {
    fn run(self) -> Result<Outcome> {
        let config = ca::config::Config::load(&self.config)?;
        let path = config.ledger_path();
        let mut ledger = ca::ledger::Ledger::open(&path)
            .with_context(|| format!("start the CA once before making tokens: `{}`", path.display()))?;
        let now = Clock::system().now();
        let token =
            ca::token::create(&mut ledger, &config.trust_domain, &self.id, &self.instance, self.ttl, now)?;
        print(&token);
        Ok(Outcome::Clean)
    }
}

fn serve_ca(config: &Path, logs: serve::Logs) -> Result<Outcome> {
    let config = ca::config::Config::load(config)?;
    logs.init("info")?;
    serve::on_runtime(async {
        let running = ca::app::build(config, Clock::system()).await?;
        serve::until_stopped("the CA", &running.lifecycle, running.drain(DRAIN)).await
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it as `90s`, `10m` or `1h`".to_owned())
}
