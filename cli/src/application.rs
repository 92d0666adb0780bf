//! How the services themselves are started: as processes, or, in tests, as tasks.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::guard::Guard;

/// How long a service may take to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be started.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The instance's name.
    pub instance: &'a str,
    /// Program and arguments, as in the bundle.
    pub command: &'a [String],
    /// Its sidecar's outbound listener.
    pub outbound: SocketAddr,
    /// The services of raw connections, and where its sidecar listens for connections to each.
    pub tcp: &'a [(String, SocketAddr)],
}

/// A started service.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    /// What keeps it running.
    pub running: Box<dyn Running>,
}

/// A future that can be kept in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts services.
pub trait Launch: Send + Sync {
    /// Starts one.
    ///
    /// # Errors
    /// When it can't be started.
    fn launch<'a>(&'a self, order: Order<'a>) -> Boxed<'a, Result<Application>>;
}

/// A service that runs.
pub trait Running: std::fmt::Debug + Send + Sync {
    /// Ends it, and waits until it has.
    fn stop(&mut self) -> Boxed<'_, ()>;
}

/// Starts each service as a process of its own.
///
/// It is told by `TIDEGATE_LISTEN` (and `PORT`) where to listen, by `TIDEGATE_OUTBOUND` where to send its calls, and by a
/// [`variable`] each where to connect to services of raw connections.
#[derive(Clone, Debug)]
pub struct Processes {
    /// What `tidegate` means in a bundle's command: this very program.
    pub tidegate: PathBuf,
    /// Where commands run: the bundle's folder.
    pub folder: PathBuf,
    /// Ends them if we can't.
    pub guard: Guard,
}

impl Launch for Processes {
    fn launch<'a>(&'a self, order: Order<'a>) -> Boxed<'a, Result<Application>> {
        Box::pin(async move {
            let address = free_address()?;
            let Some((program, arguments)) = order.command.split_first() else {
                bail!("the command is empty")
            };
            let program = if program == "tidegate" { self.tidegate.clone() } else { PathBuf::from(program) };
            let child = Command::new(&program)
                .args(arguments)
                .current_dir(&self.folder)
                .env("TIDEGATE_LISTEN", address.to_string())
                .env("PORT", address.port().to_string())
                .env("TIDEGATE_OUTBOUND", order.outbound.to_string())
                .envs(order.tcp.iter().map(|(service, address)| (variable(service), address.to_string())))
                .stdin(Stdio::null())
                // In a group of its own, Ctrl-C does not reach it: it is stopped after the requests in flight.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| {
                    format!("`{}` of `{}` can't be started", program.display(), order.instance)
                })?;
            Ok(Application {
                address,
                running: Box::new(Process::watch(child, order.instance.to_owned(), self.guard.clone())),
            })
        })
    }
}

/// A task owns the process, so that its end is noticed when it comes.
#[derive(Debug)]
struct Process {
    /// Dropping it ends the process, so that a start that fails half-way leaves none.
    stop: Option<DropGuard>,
    ended: JoinHandle<()>,
}

impl Process {
    fn watch(mut child: Child, instance: String, guard: Guard) -> Self {
        let id = child.id();
        id.into_iter().for_each(|id| guard.watch(id));
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let ended = tokio::spawn(async move {
            tokio::select! {
                ended = child.wait() => match ended {
                    Ok(status) => tracing::error!(instance, %status, "a service has ended by itself"),
                    Err(error) => tracing::error!(instance, %error, "a service can't be watched"),
                },
                () = stopping.cancelled() => end(&mut child).await,
            }
            id.into_iter().for_each(|id| guard.forget(id));
        });
        Self { stop: Some(stop.drop_guard()), ended }
    }
}

impl Running for Process {
    fn stop(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            drop(self.stop.take());
            // It ends by itself or is killed; either way it ends.
            drop((&mut self.ended).await);
        })
    }
}

/// Asks a process to end, and kills it if it takes too long.
async fn end(child: &mut Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(id) = id
        && kill_process(id, Signal::TERM).is_ok()
        && tokio::time::timeout(PATIENCE, child.wait()).await.is_ok()
    {
        return;
    }
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "a service could not be killed");
    }
}

/// By what an application is told where to connect to `service`, which takes raw connections: `TIDEGATE_TCP_` and its name
/// in capitals, with `_` for `-` and `.`.
pub fn variable(service: &str) -> String {
    format!("TIDEGATE_TCP_{}", service.to_ascii_uppercase().replace(['-', '.'], "_"))
}

/// An address nobody listens on. Another process may take it first; then the service says so and the mesh fails to start.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}
