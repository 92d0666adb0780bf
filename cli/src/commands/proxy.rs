//! `tidegate proxy`

use anyhow::{Context, Result};
use clap::Args;
use daemon::Clock;

use super::{Outcome, serve};

/// Run a sidecar proxy
///
/// It stands in front of one instance of a service: what comes in is authenticated, decided and limited; what
/// the service calls goes out over mutual TLS.
#[derive(Debug, Args)]
#[command(after_help = "\
Example configuration:
  instance: reviews-v1
  service: reviews
  inbound: 127.0.0.1:7300      # other sidecars connect here
  outbound: 127.0.0.1:7301     # the service sends its calls here, with the callee's name as Host
  admin: 127.0.0.1:7302
  application: 127.0.0.1:9080  # the service itself
  trust_domain: bookinfo.example
  policyd: 127.0.0.1:7001
  ca: 127.0.0.1:7000
  trust_bundle: state/ca/bundle.pem   # written by `tidegate ca`
  join_token_file: reviews-v1.token   # made by `tidegate ca token`

  tidegate proxy --config reviews-v1.yaml

Stops on Ctrl-C or SIGTERM, after the requests in flight have ended.")]
pub(super) struct Proxy {
    #[command(flatten)]
    options: serve::Options,
}

impl Proxy {
    pub(super) fn run(self) -> Result<Outcome> {
        let config = proxy::config::Config::load(&self.options.config)?;
        self.options.logs.init("info")?;
        serve::on_this_thread(async {
            let listeners = proxy::app::bind(&config).await.context("a listener can't be bound")?;
            let running = proxy::app::build(config, listeners, Clock::system()).await?;
            serve::until_stopped("the proxy", &running.lifecycle, running.drain()).await
        })
    }
}
