//! `tidegate up`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use daemon::{Clock, Lifecycle};
use policyd::candidate::{self, Location};
use policyd::source::Status;
use proxy::config::AccessLogDestination;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Format, Outcome, print, serve};
use crate::application::Processes;
use crate::guard::Guard;
use crate::mesh::{Mesh, Options};
use crate::overview::Overview;

/// Run a whole mesh on this machine
///
/// Starts the CA, policyd, a sidecar for each service instance of the bundle, and the services themselves, all on
/// loopback. Edit the bundle's files while it runs: each change is in force a moment later.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate up policies/bookinfo
  tidegate up policies/bookinfo --state ./state       keep CA, ledger, history of bundles
  tidegate up policies/bookinfo --access-log FILE     one JSON object a request
  tidegate up policies/bookinfo --candidate next=DIR  try another bundle beside it
  tidegate up policies/bookinfo --format json         addresses for a script

Stops on Ctrl-C: requests in flight end first, then every process and socket is gone. Killed, it leaves none either.")]
pub(super) struct Up {
    /// The bundle's folder, which holds mesh.yaml
    bundle: PathBuf,
    /// Where the CA keeps keys and ledger, and policyd bundles; without it they are gone after the run
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A bundle to try beside the one in force: evaluated, counted and logged, never enforced
    #[arg(long = "candidate", value_name = "NAME=FOLDER", value_parser = location)]
    candidates: Vec<Location>,
    /// Where access logs go
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// How the overview is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    logs: serve::Logs,
}

impl Up {
    pub(super) fn run(self) -> Result<Outcome> {
        self.logs.init("warn,tidegate_policyd::source=info,tidegate_proxy::request=info")?;
        serve::on_runtime(self.serve())
    }

    async fn serve(self) -> Result<Outcome> {
        let folder = std::path::absolute(&self.bundle).context("the bundle's path is not good")?;
        if let Some((_, why)) = candidate::mistakes(&self.candidates).into_iter().next() {
            bail!(why);
        }
        let clock = Clock::system();
        let state = State::open(self.state.as_deref())?;
        let options = Options {
            bundle: folder.clone(),
            state: state.path().to_owned(),
            clock: clock.clone(),
            candidates: self.candidates,
            decision_logs: Some(decision_logs(state.path())?),
            access_log: self.access_log.map_or(AccessLogDestination::Off, AccessLogDestination::File),
        };
        let tidegate = std::env::current_exe().context("this program can't be found again")?;
        let lifecycle = Lifecycle::new();
        let guard = Guard::start(&tidegate).context("no guard can be started for the services")?;
        let processes = Processes { tidegate, folder, guard };
        // One wait from start to end: a signal that comes between two would be lost.
        let mut told_to_stop = std::pin::pin!(told_to_stop(&lifecycle));
        let started = tokio::select! {
            started = Mesh::start(options, &processes) => Some(started?),
            signal = &mut told_to_stop => signal.map(|()| None)?,
        };
        let Some(mut mesh) = started else { return Ok(Outcome::Clean) };
        let overview = Overview::of(&mesh).await;
        print(&match self.format {
            Format::Json => serde_json::to_string(&overview)?,
            Format::Text => format!(
                "{}\nCertificates: tidegate audit rotation --ledger {}\nDecisions: {}/*.jsonl\nStop with Ctrl-C.",
                overview.text(clock.now()),
                state.path().join("ledger.sqlite").display(),
                state.path().join("decisions").display()
            ),
        });
        let told = tokio::spawn(tell(mesh.policyd.status.clone()));
        told_to_stop.await?;
        told.abort();
        if !mesh.stop().await {
            bail!("something did not end in time");
        }
        Ok(Outcome::Clean)
    }
}

fn location(text: &str) -> Result<Location, String> {
    let (name, folder) = text.split_once('=').ok_or("write it as NAME=FOLDER")?;
    Ok(Location { name: name.to_owned(), folder: folder.into() })
}

/// The folder of decision logs, made if there is none.
fn decision_logs(state: &Path) -> Result<PathBuf> {
    let folder = state.join("decisions");
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
    Ok(folder)
}

/// Resolves on Ctrl-C, on SIGTERM, and when the terminal is closed: the services would not notice that by themselves.
async fn told_to_stop(lifecycle: &Lifecycle) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("signals can't be waited for")?;
    tokio::select! {
        told = lifecycle.stop_requested() => told.context("signals can't be waited for"),
        _ = hangup.recv() => Ok(()),
    }
}

/// Says how each reading of the bundle went; what is wrong with a bad one is in policyd's log.
async fn tell(mut status: watch::Receiver<Status>) {
    while status.changed().await.is_ok() {
        let refused: Option<Arc<_>> = status.borrow_and_update().refused.clone();
        if refused.is_none() {
            print("The bundle was changed and is in force.");
        }
    }
}

/// The daemons' folder: the user's, or one that is gone after the run.
enum State {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl State {
    fn open(path: Option<&Path>) -> Result<Self> {
        match path {
            Some(path) => Ok(Self::Kept(path.to_owned())),
            None => {
                let folder = tempfile::Builder::new().prefix("tidegate-").tempdir();
                Ok(Self::Temporary(folder.context("no temporary folder")?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
