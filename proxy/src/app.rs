//! Wires a proxy together, and says what it bound.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adapters::{Environment, Exposition};
use anyhow::Context;
use daemon::{Admin, BlockReady, Clock, Lifecycle, Readiness};
use identity::Source;
use identity::client::Event;
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
use crate::intercept::Interception;
use crate::jwt;
use crate::listener::{Entrance, Listener};
use crate::load::Load;
use crate::metrics::Metrics;
use crate::policy_client::{Client, Parts, Watcher};
use crate::pool;
use crate::probes::{Prober, Probes};
use crate::request::Proxy;
use crate::staleness;
use crate::sweep;
use crate::worker;

/// How long a drain waits for requests that are under way.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the application may take for a response's head while policyd has not said it.
const APPLICATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Sockets that are bound but not served yet, so that addresses are known before anything starts.
#[derive(Debug)]
pub struct Listeners {
    sockets: Sockets,
    admin: Admin,
    probes: Option<Admin>,
}

#[derive(Debug)]
struct Sockets {
    /// For each worker, and each way in.
    of_workers: Vec<Vec<(Entry, std::net::TcpListener)>>,
    addresses: Addresses,
    /// The services that have a local address, and these.
    tcp: Vec<(String, SocketAddr)>,
}

/// Which way in, and the service whose local address it is.
type Entry = (Direction, Option<Arc<str>>);

/// The addresses bound, with their real ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For other sidecars: mutual TLS.
    pub inbound: SocketAddr,
    /// For the application.
    pub outbound: SocketAddr,
    /// For callers from outside the mesh.
    pub ingress: Option<SocketAddr>,
    /// For the probes of an orchestrator.
    pub probes: Option<SocketAddr>,
    /// For operators: `/metrics`, `/healthz`, `/readyz`.
    pub admin: SocketAddr,
}

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

/// Binds the sockets that `config` asks for.
///
/// # Errors
/// When an address can't be bound; the error names it.
pub async fn bind(config: &Config) -> io::Result<Listeners> {
    let workers = config.workers.max(1);
    let ways = [
        ((Direction::Inbound, None), Some(config.inbound)),
        ((Direction::Outbound, None), Some(config.outbound)),
        ((Direction::Ingress, None), config.ingress),
    ];
    let local =
        config.tcp.iter().map(|local| ((Direction::Outbound, Some(&local.service)), Some(local.listen)));
    let mut of_workers: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for ((direction, service), address) in ways.into_iter().chain(local) {
        let entry: Entry = (direction, service.map(|service| service.as_str().into()));
        let Some(address) = address else { continue };
        let sockets = worker::bind(address, workers).map_err(|error| unbound(address, &error))?;
        let address = sockets.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        bound.push((entry.clone(), address));
        for (sockets_of, socket) in of_workers.iter_mut().zip(sockets) {
            sockets_of.push((entry.clone(), socket));
        }
    }
    if let Some(((Direction::Outbound, _), outbound)) = bound.get(1).filter(|_| config.intercept.is_some()) {
        for (sockets_of, socket) in of_workers.iter_mut().zip(bind_v6_loopback(*outbound, workers)?) {
            sockets_of.push(((Direction::Outbound, None), socket));
        }
    }
    let admin = daemon::admin::bind(config.admin).await.map_err(|error| unbound(config.admin, &error))?;
    let probes = match &config.probes {
        Some(Probes { listen, .. }) => {
            Some(daemon::admin::bind(*listen).await.map_err(|error| unbound(*listen, &error))?)
        }
        None => None,
    };
    let address_of =
        |wanted| bound.iter().find(|(entry, _)| *entry == (wanted, None)).map(|(_, address)| *address);
    let addresses = Addresses {
        inbound: address_of(Direction::Inbound).unwrap_or(config.inbound),
        outbound: address_of(Direction::Outbound).unwrap_or(config.outbound),
        ingress: address_of(Direction::Ingress),
        probes: probes.as_ref().map(Admin::address),
        admin: admin.address(),
    };
    let tcp =
        bound.iter().filter_map(|((_, service), address)| Some((service.as_deref()?.to_owned(), *address)));
    let tcp = tcp.collect();
    Ok(Listeners { sockets: Sockets { of_workers, addresses, tcp }, admin, probes })
}

/// Gets a certificate, then starts everything. While the CA can't be reached it keeps trying, and only the
/// admin port is served.
///
/// # Errors
/// When the CA refuses the join token, or a log can't be opened.
pub async fn build(config: Config, listeners: Listeners, clock: Clock) -> anyhow::Result<Bound> {
    let frame = Frame::new();
    let certificate = frame.readiness.block("a certificate");
    let first_config = frame.readiness.block("the first configuration from policyd");
    let shown = frame.shown.clone();
    listeners.admin.serve(Arc::new(move || shown.render()), frame.readiness.clone(), &frame.lifecycle);
    // The application's health has nothing to do with our certificate.
    frame.serve_probes(&config, listeners.probes);
    let source = start_identity(&config, &clock, &frame).await?;
    drop(certificate);
    frame.start(config, listeners.sockets, clock, source, first_config).await
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
        sockets: Sockets,
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
        let current = self.current.clone();
        let client = Arc::new(Client::new(config.policyd.clone(), source.clone(), clock.clone()));
        let egress = Egress::new(client.clone(), clock.clone());
        let watcher = self.watcher(&config, &client, (&current, &egress), &source, &clock, first_config);
        drop(self.lifecycle.spawn(watcher.watch_until_stopped(self.lifecycle.clone())));
        let (metrics, lifecycle) = (self.metrics.clone(), self.lifecycle.clone());
        let telling = staleness::tell_until_stopped(current.clone(), clock.clone(), metrics, lifecycle);
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
                metrics: self.metrics,
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
        let most = (config.max_requests, config.max_connections);
        for (number, listeners) in sockets.listeners(&source, &proxy.clock, most).into_iter().enumerate() {
            let (proxy, lifecycle) = (Arc::clone(&proxy), self.lifecycle.clone());
            if config.workers > 0 {
                worker::start(number, listeners, proxy, lifecycle).context("a thread can't be started")?;
            } else {
                for listener in listeners {
                    let serving = listener.serve_until_stopped(Arc::clone(&proxy), lifecycle.clone());
                    drop(lifecycle.spawn(serving));
                }
            }
        }
        let id = &source.current().svid.id;
        tracing::info!(%id, inbound = %addresses.inbound, outbound = %addresses.outbound, "proxy started");
        let (readiness, lifecycle) = (self.readiness, self.lifecycle);
        Ok(Bound { addresses, tcp, source, readiness, metrics: self.shown, lifecycle, current })
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

impl Listeners {
    /// The addresses bound, with their real ports.
    pub const fn addresses(&self) -> Addresses {
        self.sockets.addresses
    }
}

impl Addresses {
    fn all(self) -> impl Iterator<Item = SocketAddr> {
        [self.inbound, self.outbound, self.admin].into_iter().chain(self.ingress).chain(self.probes)
    }
}

impl Sockets {
    /// The listeners of each worker, with the most requests of each and the most connections of all.
    fn listeners(
        self,
        source: &Source,
        clock: &Clock,
        (requests, connections): (usize, usize),
    ) -> Vec<Vec<Listener>> {
        let capacity = Capacity::new(connections);
        let mutual = tls::server_config(source, clock.clone(), ClientAuth::Required, pool::ALPN_OF_SERVER);
        let listener = |((direction, tcp), socket)| {
            let tls = (direction == Direction::Inbound).then(|| Arc::clone(&mutual));
            let (load, capacity) = (Load::new(requests), capacity.clone());
            Listener { socket, entrance: Entrance { direction, tcp, load }, capacity, tls }
        };
        self.of_workers.into_iter().map(|sockets| sockets.into_iter().map(listener).collect()).collect()
    }
}

impl Bound {
    /// Stops accepting, lets the requests under way end, and does what reports and logs still have to do.
    ///
    /// False when requests, or then reports, were not done within [`DRAIN_TIMEOUT`].
    pub async fn drain(&self) -> bool {
        let drained = self.lifecycle.drain(DRAIN_TIMEOUT).await;
        let current = self.current.applied();
        let reported = tokio::time::timeout(DRAIN_TIMEOUT, current.reports.close_all()).await;
        drained && reported.is_ok()
    }
}

async fn start_identity(config: &Config, clock: &Clock, frame: &Frame) -> anyhow::Result<Source> {
    let metrics = frame.metrics.clone();
    let client = identity::client::Config {
        ca_address: config.ca.address,
        ca_id: config.ca.id.clone(),
        bundle: config.trust_bundle.clone(),
        join_token: config.join_token.clone(),
    };
    let on_event = move |event: Event<'_>| match event {
        Event::Attested(identity) | Event::Renewed(identity) => metrics.certified(&identity.svid),
        Event::Failed { .. } => metrics.certificate_failed(),
    };
    identity::client::start(client, clock.clone(), &frame.lifecycle, on_event)
        .await
        .context("no certificate can be had")
}

/// The kernel redirects IPv6 to `::1`, where nobody listens who was told `127.0.0.1` alone. None without IPv6.
fn bind_v6_loopback(outbound: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if outbound.ip() != Ipv4Addr::LOCALHOST {
        return Ok(Vec::new());
    }
    let twin = SocketAddr::from((Ipv6Addr::LOCALHOST, outbound.port()));
    match worker::bind(twin, workers) {
        Err(error) if is_without_v6(&error) => Ok(Vec::new()),
        bound => bound.map_err(|error| unbound(twin, &error)),
    }
}

fn is_without_v6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}

fn unbound(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{address}` can't be bound: {error}"))
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
    frame.start(config, listeners.sockets, clock, source, first_config).await
}
