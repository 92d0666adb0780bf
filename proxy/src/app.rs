//! Wires a proxy together, and says what it bound.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adapters::{Environment, Exposition};
use anyhow::Context;
use daemon::{Admin, BlockReady, Clock, Lifecycle, Readiness};
use identity::Source;
use identity::client::{self, Ca, Event};
use identity::succession::{Granted, Successor};
use identity::tls::{self, ClientAuth};

use crate::accept::Capacity;
use crate::access_log::AccessLog;
use crate::applied::{Applier, Current};
use crate::check::Checker;
use crate::config::Config;
use crate::cutter::Cutter;
use crate::decision_log::DecisionLog;
use crate::egress::Egress;
use crate::endpoints::Service;
use crate::exchange::{Direction, Observers};
use crate::external::SystemRoots;
use crate::handover::{Office, Waiting};
use crate::intercept::Interception;
use crate::jwt;
use crate::listener::{Entrance, Listener};
use crate::load::Load;
use crate::metrics::Metrics;
use crate::policy_client::{Client, Parts, Watcher};
use crate::pool;
use crate::probes::{Prober, Probes};
use crate::request::Proxy;
use crate::sockets::{Entry, Sockets};
use crate::staleness;
use crate::sweep;
use crate::worker;

pub use crate::sockets::{Addresses, Listeners, bind};

/// How long a drain waits for requests that are under way.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The same while another process serves already.
pub const RETIRE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a proxy that is to take another's place may take until it knows all that it needs.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the application may take for a response's head while policyd has not said it.
const APPLICATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A proxy at work.
#[derive(Debug)]
pub struct Bound {
    /// Where it listens.
    pub addresses: Addresses,
    /// The services of raw connections that have a local address, and these.
    pub tcp: Vec<(String, SocketAddr)>,
    /// Its certificate, always the current one.
    pub source: Source,
    /// Ready when it has a certificate and a first configuration.
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: daemon::Metrics,
    /// Its life.
    pub lifecycle: Lifecycle,
    current: Current,
}

/// Gets a certificate, then starts everything. While the CA can't be reached it keeps trying, and only the
/// admin port is served. What takes another process's place serves nothing before it has all it needs.
///
/// # Errors
/// When the CA refuses the join token, or a log can't be opened. When a place can't be taken: the process that has it
/// goes on.
pub async fn build(config: Config, listeners: Listeners, clock: Clock) -> anyhow::Result<Bound> {
    let frame = Frame::new();
    let certificate = frame.readiness.block("a certificate");
    let first_config = frame.readiness.block("the first configuration from policyd");
    let Listeners { sockets, admin, probes, predecessor } = listeners;
    // The application's health has nothing to do with our certificate.
    frame.serve_probes(&config, probes);
    let (identity, opening) = match predecessor {
        None => {
            frame.serve_admin(admin);
            (None, Opening::AtOnce)
        }
        Some(predecessor) => {
            let (identity, waiting) = predecessor.into_parts();
            (Some(identity), Opening::Relieving(waiting, admin))
        }
    };
    let source = start_identity(&config, &clock, &frame, identity).await?;
    drop(certificate);
    frame.start(config, (sockets, opening), clock, source, first_config).await
}

/// When a proxy begins to serve.
enum Opening {
    /// As soon as it can.
    AtOnce,
    /// Once it can do all that its predecessor does, who is told then.
    Relieving(Waiting, Admin),
}

/// What every part of a proxy hangs on.
struct Frame {
    lifecycle: Lifecycle,
    readiness: Readiness,
    shown: daemon::Metrics,
    metrics: Metrics,
    current: Current,
}

impl Frame {
    fn new() -> Self {
        let shown = daemon::Metrics::new();
        let metrics = Metrics::new(&shown);
        let (lifecycle, readiness) = (Lifecycle::new(), Readiness::new());
        Self { lifecycle, readiness, shown, metrics, current: Current::nothing() }
    }

    fn serve_probes(&self, config: &Config, listener: Option<Admin>) {
        let (Some(Probes { paths, .. }), Some(listener)) = (&config.probes, listener) else { return };
        let prober = Prober {
            paths: paths.clone(),
            application: config.application.clone(),
            greets: config.greets_application,
            service: config.service.clone(),
            current: self.current.clone(),
        };
        listener.serve_answers(move |method, target| prober.clone().answer(method, target), &self.lifecycle);
    }

    /// Starts everything that needs a certificate.
    async fn start(
        self,
        config: Config,
        (sockets, opening): (Sockets, Opening),
        clock: Clock,
        source: Source,
        first_config: BlockReady,
    ) -> anyhow::Result<Bound> {
        let (addresses, tcp) = (sockets.addresses, sockets.tcp.clone());
        let access_log = AccessLog::open(&config.access_log, &self.lifecycle, &self.metrics).await;
        let access_log = access_log.context("the access log can't be opened")?;
        let decision_log =
            DecisionLog::open(config.decision_log.as_ref(), &config.instance, &self.lifecycle, &self.metrics);
        let decision_log = decision_log.await.context("the decision log can't be opened")?;
        let settings = Settings {
            workers: config.workers,
            max_requests: config.max_requests,
            max_connections: config.max_connections,
            hand_over: config.hand_over.clone(),
            instance: config.instance.clone(),
            ca: Ca { address: config.ca.address, id: config.ca.id.clone() },
        };
        let current = self.current.clone();
        let client = Arc::new(Client::new(config.policyd.clone(), source.clone(), clock.clone()));
        let egress = Egress::new(client.clone(), clock.clone());
        let watcher = self.watcher(&config, &client, (&current, &egress), &source, &clock, first_config);
        drop(self.lifecycle.spawn(watcher.watch_until_stopped(self.lifecycle.clone())));
        let (metrics, lifecycle) = (self.metrics.clone(), self.lifecycle.clone());
        let whose = (current.clone(), egress.clone());
        let telling = staleness::tell_until_stopped(whose, clock.clone(), metrics, lifecycle);
        drop(self.lifecycle.spawn(telling));
        let interception = Interception::new(
            config.intercept.as_ref(),
            &config.instance,
            APPLICATION_TIMEOUT,
            addresses.all().chain(tcp.iter().map(|(_, address)| *address)).collect(),
        );
        let proxy = Arc::new(Proxy {
            interception,
            proxy_protocol: config.proxy_protocol,
            forwarding: config.forwarding,
            greets_application: config.greets_application,
            service: config.service,
            application: Arc::new(Service::application(
                config.instance,
                config.application,
                APPLICATION_TIMEOUT,
            )),
            source: source.clone(),
            checker: Checker::new(client.clone(), current.clone(), clock.clone()),
            egress,
            policyd: client,
            observers: Arc::new(Observers {
                metrics: self.metrics.clone(),
                access_log,
                decision_log,
                current: current.clone(),
            }),
            current: current.clone(),
            cutter: Cutter::default(),
            clock,
        });
        let cutting = proxy.cutter.clone().cut_until_stopped(proxy.clock.clone(), self.lifecycle.clone());
        drop(self.lifecycle.spawn(cutting));
        let sweeping = sweep::until_stopped(Arc::clone(&proxy), self.lifecycle.clone());
        drop(self.lifecycle.spawn(sweeping));
        if matches!(opening, Opening::Relieving(..)) {
            let ready = tokio::time::timeout(READY_TIMEOUT, self.readiness.until_ready());
            ready.await.context("policyd gave no configuration; the process that serves goes on")?;
        }
        self.serve(&proxy, sockets, &settings, opening).await?;
        let id = &source.current().svid.id;
        tracing::info!(%id, inbound = %addresses.inbound, outbound = %addresses.outbound, "proxy started");
        let (readiness, lifecycle) = (self.readiness, self.lifecycle);
        Ok(Bound { addresses, tcp, source, readiness, metrics: self.shown, lifecycle, current })
    }

    /// Opens all ways in, and the office for the process that comes after.
    async fn serve(
        &self,
        proxy: &Arc<Proxy>,
        sockets: Sockets,
        settings: &Settings,
        opening: Opening,
    ) -> anyhow::Result<()> {
        let (roles, again) = sockets.again.into_iter().unzip();
        for (number, listeners) in listeners(sockets.of_workers, proxy, settings).into_iter().enumerate() {
            let (proxy, lifecycle) = (Arc::clone(proxy), self.lifecycle.clone());
            if settings.workers > 0 {
                worker::start(number, listeners, proxy, lifecycle).context("a thread can't be started")?;
            } else {
                for listener in listeners {
                    let serving = listener.serve_until_stopped(Arc::clone(&proxy), lifecycle.clone());
                    drop(lifecycle.spawn(serving));
                }
            }
        }
        if let Opening::Relieving(predecessor, admin) = opening {
            self.serve_admin(admin);
            if let Err(error) = predecessor.relieve().await {
                tracing::warn!(%error, "the process before has ended by itself");
            }
        }
        let Some(path) = &settings.hand_over else { return Ok(()) };
        let office = Office {
            instance: settings.instance.clone(),
            ca: settings.ca.clone(),
            clock: proxy.clock.clone(),
            source: proxy.source.clone(),
            roles,
            sockets: again,
        };
        let opened = office.open(path, &self.lifecycle);
        opened.with_context(|| format!("nobody can be waited for at `{}`", path.display()))
    }

    fn serve_admin(&self, admin: Admin) {
        let shown = self.shown.clone();
        admin.serve(Arc::new(move || shown.render()), self.readiness.clone(), &self.lifecycle);
    }

    fn watcher(
        &self,
        config: &Config,
        client: &Arc<Client>,
        (current, egress): (&Current, &Egress),
        source: &Source,
        clock: &Clock,
        first_config: BlockReady,
    ) -> Watcher {
        let exposition = self.shown.with_registry(Exposition::register);
        let applier = Applier {
            current: current.clone(),
            egress: egress.clone(),
            own_service: config.service.clone(),
            source: source.clone(),
            clock: clock.clone(),
            system_roots: Arc::new(SystemRoots::new(clock.clone())),
            environment: Environment { base_dir: config.base_dir.clone(), exposition },
            tokens: jwt::Environment {
                source: Arc::new(jwt::Network::default()),
                clock: clock.clone(),
                lifecycle: self.lifecycle.clone(),
                metrics: jwt::Metrics::new(&self.shown),
            },
        };
        Watcher {
            client: Arc::clone(client),
            instance: config.instance.clone(),
            service: config.service.clone(),
            applier,
            current: current.clone(),
            clock: clock.clone(),
            metrics: self.metrics.clone(),
            first_config: Some(first_config),
            has: Parts::default(),
        }
    }
}

/// What of the configuration is about serving.
struct Settings {
    workers: usize,
    max_requests: usize,
    max_connections: usize,
    hand_over: Option<PathBuf>,
    instance: String,
    ca: Ca,
}

/// The listeners of each worker.
fn listeners(
    of_workers: Vec<Vec<(Entry, std::net::TcpListener)>>,
    proxy: &Proxy,
    settings: &Settings,
) -> Vec<Vec<Listener>> {
    let (source, clock) = (&proxy.source, proxy.clock.clone());
    let mutual = tls::server_config(source, clock, ClientAuth::Required, pool::ALPN_OF_SERVER);
    let capacity = Capacity::new(settings.max_connections);
    let listener = |((direction, tcp), socket)| {
        let tls = (direction == Direction::Inbound).then(|| Arc::clone(&mutual));
        let (load, capacity) = (Load::new(settings.max_requests), capacity.clone());
        Listener { socket, entrance: Entrance { direction, tcp, load }, capacity, tls }
    };
    of_workers.into_iter().map(|sockets| sockets.into_iter().map(listener).collect()).collect()
}

impl Bound {
    /// Stops accepting, lets the requests under way end, and does what reports and logs still have to do.
    ///
    /// False when requests, or then reports, were not done within [`DRAIN_TIMEOUT`], or [`RETIRE_TIMEOUT`] after another
    /// process has taken this one's place.
    pub async fn drain(&self) -> bool {
        let patience = if self.lifecycle.is_retiring() { RETIRE_TIMEOUT } else { DRAIN_TIMEOUT };
        let drained = self.lifecycle.drain(patience).await;
        let current = self.current.applied();
        let reported = tokio::time::timeout(DRAIN_TIMEOUT, current.reports.close_all()).await;
        drained && reported.is_ok()
    }
}

async fn start_identity(
    config: &Config,
    clock: &Clock,
    frame: &Frame,
    granted: Option<(Successor, Granted)>,
) -> anyhow::Result<Source> {
    let metrics = frame.metrics.clone();
    let asked = client::Config {
        ca_address: config.ca.address,
        ca_id: config.ca.id.clone(),
        bundle: config.trust_bundle.clone(),
        join_token: config.join_token.clone(),
    };
    let on_event = move |event: Event<'_>| match event {
        Event::Attested(identity) | Event::Renewed(identity) => metrics.certified(&identity.svid),
        Event::Failed { .. } => metrics.certificate_failed(),
    };
    let (clock, lifecycle) = (clock.clone(), &frame.lifecycle);
    let source = match granted {
        None => client::start(asked, clock, lifecycle, on_event).await,
        Some((successor, granted)) => {
            client::start_as_successor(asked, (successor, &granted), clock, lifecycle, on_event)
        }
    };
    source.context("no certificate can be had")
}

#[cfg(test)]
impl Bound {
    /// What policyd said last.
    pub(crate) const fn current(&self) -> &Current {
        &self.current
    }
}

/// As [`build`], with an identity that needs no CA.
#[cfg(test)]
pub(crate) async fn build_with(
    config: Config,
    listeners: Listeners,
    clock: Clock,
    source: Source,
) -> anyhow::Result<Bound> {
    let frame = Frame::new();
    let first_config = frame.readiness.block("the first configuration from policyd");
    frame.serve_probes(&config, listeners.probes);
    frame.start(config, (listeners.sockets, Opening::AtOnce), clock, source, first_config).await
}
