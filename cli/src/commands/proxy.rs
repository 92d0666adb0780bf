//! `tidegate proxy`

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use clap::Args;
use daemon::Clock;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

Stops on Ctrl-C or SIGTERM, after the requests in flight have ended. With `hand_over: run/proxy.sock` in its
configuration, another process that is started with it takes its place without a gap; SIGUSR2 starts one.")]
pub(super) struct Proxy {
    #[command(flatten)]
    options: serve::Options,
}

impl Proxy {
    pub(super) fn run(self) -> Result<Outcome> {
        let config = proxy::config::Config::load(&self.options.config)?;
        self.options.logs.init("info")?;
        // Read now: once the file was replaced, the system knows it by another name.
        let program = std::env::current_exe().context("this program can't be found again")?;
        serve::on_this_thread(async {
            let listeners = proxy::app::bind(&config).await.context("a listener can't be bound")?;
            let restarts = config.hand_over.as_ref().map(|_path| signal(SignalKind::user_defined2()));
            let restarts = restarts.transpose().context("signals can't be waited for")?;
            let running = proxy::app::build(config, listeners, Clock::system()).await?;
            if let Some(restarts) = restarts {
                drop(tokio::spawn(restart_when_told(restarts, program)));
            }
            serve::until_stopped("the proxy", &running.lifecycle, running.drain()).await
        })
    }
}

/// Starts the program again, whatever its file holds by then. The new process takes this one's place by itself.
async fn restart_when_told(mut restarts: Signal, program: PathBuf) {
    while restarts.recv().await.is_some() {
        let arguments = std::env::args_os().skip(1);
        let started = Command::new(&program).args(arguments).stdin(Stdio::null()).spawn();
        match started {
            // Only one that fails ends before we do.
            Ok(mut successor) => match successor.wait().await {
                Ok(status) => {
                    tracing::error!(%status, "the process that was to follow has ended; this one goes on")
                }
                Err(error) => tracing::error!(%error, "the process that was to follow can't be watched"),
            },
            Err(error) => tracing::error!(%error, program = %program.display(), "no process can be started"),
        }
    }
}
