//! `tidegate policyd`

use anyhow::Result;
use clap::Args;
use daemon::Clock;

use super::{Outcome, serve};

/// Run the policy daemon
///
/// It loads a bundle, answers the proxies' checks, counts mesh-wide limits, and pushes every change of the
/// bundle to all proxies. With `envoy:` in its configuration, Envoys ask it too, by ext_authz.
#[derive(Debug, Args)]
#[command(after_help = "\
Example configuration:
  bundle: policies/bookinfo
  listen: 127.0.0.1:7001
  admin: 127.0.0.1:7101
  trust_domain: bookinfo.example
  ca: 127.0.0.1:7000
  trust_bundle: state/ca/bundle.pem   # written by `tidegate ca`
  join_token_file: policyd.token      # made by `tidegate ca token`

  tidegate policyd --config policyd.yaml

Stops on Ctrl-C or SIGTERM, after finishing what it is doing.")]
pub(super) struct Policyd {
    #[command(flatten)]
    options: serve::Options,
}

impl Policyd {
    pub(super) fn run(self) -> Result<Outcome> {
        let config = policyd::config::Config::load(&self.options.config)?;
        self.options.logs.init("info")?;
        serve::on_runtime(async {
            let running = envoy::build(config, Clock::system()).await?;
            serve::until_stopped("policyd", &running.lifecycle, running.drain()).await
        })
    }
}
