//! What the commands that run daemons share: the runtime, the logs, and running until a signal comes.

use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use daemon::Lifecycle;
use daemon::log;
use tokio::runtime;

use super::Outcome;

/// The options of every daemon.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The daemon's configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) logs: Logs,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Logs {
    /// How logs are written, to stderr
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// For people on a terminal, JSON otherwise
    #[default]
    Auto,
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

impl Logs {
    pub(super) fn init(self, filter: &str) -> Result<()> {
        let format = match self.log_format {
            LogFormat::Auto => log::Format::Auto,
            LogFormat::Human => log::Format::Human,
            LogFormat::Json => log::Format::Json,
        };
        log::init(format, filter).context("logs can't be written")
    }
}

/// Runs `work`, which is a daemon's, on a runtime of its own.
pub(super) fn on_runtime(work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    on(&mut runtime::Builder::new_multi_thread(), work)
}

/// The same for a daemon that has threads of its own for what is to be fast.
pub(super) fn on_this_thread(work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    on(&mut runtime::Builder::new_current_thread(), work)
}

fn on(builder: &mut runtime::Builder, work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    daemon::descriptors::raise_limit();
    builder.enable_all().build().context("no runtime")?.block_on(work)
}

/// Says that a daemon has started, waits for SIGINT, SIGTERM or the daemon's own end, then drains.
pub(super) async fn until_stopped(
    name: &str,
    lifecycle: &Lifecycle,
    drain: impl Future<Output = bool>,
) -> Result<Outcome> {
    daemon::supervisor::started();
    lifecycle.stop_requested().await.context("signals can't be waited for")?;
    tracing::info!("{name} drains");
    if !drain.await {
        bail!("{name} did not finish what it was doing in time");
    }
    Ok(Outcome::Clean)
}
