//! Wires policyd: the only place where its parts are created and connected.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use daemon::{Clock, Lifecycle, Readiness};
use identity::grpc::{Address, Listener};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::bundle::Mesh;
use crate::candidate::Watching;
use crate::config::Config;
use crate::delivery::Delivery;
use crate::limits::Store;
use crate::metrics::Metrics;
use crate::proxies::Proxies;
use crate::publish::{Addresses, Publisher};
use crate::server::Server;
use crate::snapshot::Current;
use crate::source::{Source, Status, Surroundings};

/// How long a drain may take.
pub const DRAIN: Duration = Duration::from_secs(5);

/// A running policyd.
#[derive(Debug)]
pub struct Bound {
    /// Where proxies connect.
    pub address: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/proxies` are served.
    pub admin: SocketAddr,
    /// The state that decides.
    pub current: Current,
    /// How the last reading of the bundle went.
    pub status: watch::Receiver<Status>,
    /// The proxies that watch.
    pub proxies: Arc<Proxies>,
    /// policyd's own certificate.
    pub identity: identity::Source,
    /// What is counted here, and shown at `/metrics`.
    pub registry: daemon::Metrics,
    /// Its life.
    pub lifecycle: Lifecycle,
}

/// Starts policyd. It serves once it has a bundle and a certificate; until then `/readyz` says what it waits for.
///
/// # Errors
/// [`daemon::Findings`] when the bundle has mistakes; else why it can't start. Nothing is left running then.
pub async fn build(config: Config, clock: Clock) -> Result<Bound> {
    let lifecycle = Lifecycle::new();
    let readiness = Readiness::new();
    let _starting = readiness.block("its bundle and certificate");
    let started = start(config, clock, lifecycle.clone(), readiness.clone()).await;
    if started.is_err() {
        lifecycle.stop();
    }
    started
}

async fn start(config: Config, clock: Clock, lifecycle: Lifecycle, readiness: Readiness) -> Result<Bound> {
    let registry = daemon::Metrics::new();
    let metrics = Arc::new(Metrics::new(&registry));
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("`{}` can't be bound", config.listen))?;
    let address = listener.local_addr()?;
    let mut listeners = vec![Listener::try_from(listener)?];
    if let Some(path) = &config.socket {
        let socket = identity::grpc::bind(&Address::Unix(path.clone())).await;
        listeners.push(socket.with_context(|| format!("the socket `{}` can't be bound", path.display()))?);
    }
    let admin = daemon::admin::bind(config.admin)
        .await
        .with_context(|| format!("`{}` can't be bound", config.admin))?;
    let admin_address = admin.address();
    let proxies = Arc::new(Proxies::new(clock.clone(), metrics.clone()));
    let (counted, standing, rendered) = (metrics.clone(), proxies.clone(), registry.clone());
    let render = move || {
        counted.proxies(&standing.count());
        rendered.render()
    };
    let listed = proxies.clone();
    // A Listing has nothing that JSON has no form for.
    let admin =
        admin.with_json("/proxies", move || serde_json::to_string(&listed.list()).unwrap_or_default());
    admin.serve(Arc::new(render), readiness.clone(), &lifecycle);

    // A new epoch for each life: what proxies cached from an earlier one has to be asked again.
    let surroundings =
        Surroundings { metrics: metrics.clone(), proxies: proxies.clone(), readiness, clock: clock.clone() };
    let opened = spawn_blocking(move || Delivery::open(config.delivery)).await?;
    let source = Source::start(opened?, rand::random(), surroundings).await?;
    let candidates = Watching::start(config.candidates, metrics.clone()).await;
    let source = source.trying(candidates.tried());
    let (current, status) = (source.current(), source.status());
    check_against(&config.identity, &config.addresses, &current.get().bundle.mesh)?;
    let counted = metrics.clone();
    let identity = identity::client::start(config.identity, clock.clone(), &lifecycle, move |event| {
        counted.identity(&event)
    })
    .await
    .context("policyd got no certificate")?;
    lifecycle.spawn(source.run(lifecycle.clone()));
    lifecycle.spawn(candidates.run(lifecycle.clone()));
    let server = Server {
        current: current.clone(),
        limits: Mutex::new(Store::default()),
        publisher: Arc::new(Publisher::new(config.addresses)),
        proxies: proxies.clone(),
        clock,
        lifecycle: lifecycle.clone(),
        metrics,
    };
    server.serve(listeners, &identity);
    tracing::info!(%address, admin = %admin_address, "policyd serves");
    Ok(Bound { address, admin: admin_address, current, status, proxies, identity, registry, lifecycle })
}

/// With certificates of another trust domain than the bundle's, nobody could ask anything.
fn check_against(identity: &identity::client::Config, addresses: &Addresses, mesh: &Mesh) -> Result<()> {
    let ours = identity.bundle.trust_domain();
    anyhow::ensure!(
        *ours == mesh.trust_domain,
        "policyd's trust domain is `{ours}`, but that of the bundle is `{}`",
        mesh.trust_domain
    );
    let known = |name: &String| {
        mesh.services.values().flat_map(|service| &service.instances).any(|instance| instance.name == *name)
    };
    for name in addresses.keys().filter(|name| !known(name)) {
        tracing::warn!(instance = name, "the bundle has no such instance: its address is of no use");
    }
    Ok(())
}

impl Bound {
    /// Stops and waits until everything has ended; false when it took too long.
    pub async fn drain(&self) -> bool {
        self.lifecycle.drain(DRAIN).await
    }
}
