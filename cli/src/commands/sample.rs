//! `tidegate sample`

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Args, Subcommand};
use daemon::Lifecycle;

use super::{Outcome, serve};

/// Sample applications, to try a mesh with
#[derive(Debug, Subcommand)]
pub(super) enum Sample {
    Bookinfo(Bookinfo),
}

/// Run one service of Bookinfo, a page about a book made by four services
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate up policies/bookinfo                 all of Bookinfo, in a mesh
  tidegate sample bookinfo details --listen 127.0.0.1:9081")]
pub(super) struct Bookinfo {
    /// productpage, details, reviews or ratings
    service: bookinfo::Service,
    /// For reviews: v1 shows no stars, v2 black ones, v3 red ones
    #[arg(long, default_value_t)]
    version: bookinfo::Version,
    /// Where to listen
    #[arg(long, env = "TIDEGATE_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The sidecar's outbound listener, through which the other services are called
    #[arg(long, env = "TIDEGATE_OUTBOUND")]
    outbound: Option<SocketAddr>,
    #[command(flatten)]
    logs: serve::Logs,
}

impl Sample {
    pub(super) fn run(self) -> Result<Outcome> {
        match self {
            Self::Bookinfo(bookinfo) => bookinfo.run(),
        }
    }
}

impl Bookinfo {
    fn run(self) -> Result<Outcome> {
        self.logs.init("error")?;
        let config = bookinfo::Config {
            service: self.service,
            version: self.version,
            listen: self.listen,
            outbound: self.outbound,
        };
        serve::on_runtime(async {
            let lifecycle = Lifecycle::new();
            // Without signals to wait for it runs until it is killed.
            let stopped = async move { lifecycle.stop_requested().await.unwrap_or_default() };
            bookinfo::run(config, stopped).await?;
            Ok(Outcome::Clean)
        })
    }
}
