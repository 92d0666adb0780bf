//! A whole mesh in one process: the CA, policyd, and a sidecar for each service instance.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::config::Protocol;
use daemon::{Clock, Rotation};
use futures_util::future::{join_all, try_join_all};
use identity::TrustBundle;
use model::SpiffeId;
use policyd::bundle::mesh::{Application as Declared, Instance, Service};
use policyd::bundle::{Bundle, Files};
use policyd::candidate::Location;
use policyd::delivery::{KEPT_DEFAULT, Origin, State};
use policyd::publish::Addresses;
use proxy::config::{AccessLogDestination, Address, DecisionLogDestination, LocalAddress};
use tokio::net::TcpStream;

use crate::application::{Launch, Order, Running, variable};

/// How long everything together may take to become ready.
const START: Duration = Duration::from_secs(30);
/// How long the CA may take to end.
const CA_DRAIN: Duration = Duration::from_secs(5);
/// How often a service that was started is asked whether it listens yet.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long the join tokens of the daemons are good: they are used within seconds.
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// For a machine of one's own: some hundred thousand decisions of each sidecar.
const ROTATION: Rotation = Rotation { size_max: 64 * 1024 * 1024, keep: 2 };

/// What a mesh is made of.
#[derive(Debug)]
pub struct Options {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Where the CA keeps its keys and its ledger, and policyd, in `policyd`, the bundles that were in force.
    pub state: PathBuf,
    /// The time, for all daemons.
    pub clock: Clock,
    /// Where the sidecars' access logs go.
    pub access_log: AccessLogDestination,
    /// Bundles to be tried beside the one in force.
    pub candidates: Vec<Location>,
    /// The folder of the sidecars' decision logs, one file each; none without.
    pub decision_logs: Option<PathBuf>,
}

/// A mesh at work.
#[derive(Debug)]
pub struct Mesh {
    /// The bundle it was started from.
    pub bundle: Bundle,
    /// The CA.
    pub ca: ca::app::Bound,
    /// The policy daemon.
    pub policyd: policyd::app::Bound,
    /// The folder of the decision logs.
    pub decision_logs: Option<PathBuf>,
    /// The sidecars with the services behind them, in the bundle's order.
    pub sidecars: Vec<Sidecar>,
}

/// One service instance and the proxy in front of it.
#[derive(Debug)]
pub struct Sidecar {
    /// The service's name.
    pub service: String,
    /// The instance.
    pub instance: Instance,
    /// Where the service itself listens.
    pub application: SocketAddr,
    /// Its identity.
    pub spiffe_id: SpiffeId,
    /// The proxy.
    pub proxy: proxy::app::Bound,
    running: Option<Box<dyn Running>>,
}

/// A sidecar whose sockets are bound, so that everyone can be told of them before anyone starts.
struct Prepared {
    service: String,
    declared: Service,
    instance: Instance,
    config: proxy::config::Config,
    listeners: proxy::app::Listeners,
}

impl Mesh {
    /// Starts a mesh; returns once everything is ready.
    ///
    /// # Errors
    /// [`daemon::Findings`] when the bundle has mistakes; else what could not be started, and why. What was
    /// started before is stopped.
    pub async fn start(options: Options, launch: &dyn Launch) -> Result<Self> {
        let bundle = Bundle::load(&Files::read(&options.bundle)?)?;
        let ca = start_ca(&options, &bundle).await?;
        let ca_life = ca.lifecycle.clone();
        let started = Self::start_under(ca, bundle, &options, launch).await;
        if started.is_err() {
            ca_life.stop();
        }
        started
    }

    async fn start_under(
        ca: ca::app::Bound,
        bundle: Bundle,
        options: &Options,
        launch: &dyn Launch,
    ) -> Result<Self> {
        let prepared = prepare(options, &bundle, &ca).await?;
        let addresses: Addresses = prepared
            .iter()
            .map(|sidecar| (sidecar.instance.name.clone(), sidecar.listeners.addresses().inbound))
            .collect();
        let policyd = start_policyd(options, &bundle, &ca, addresses).await?;
        let decision_logs = options.decision_logs.clone();
        let mut mesh = Self { bundle, ca, policyd, decision_logs, sidecars: Vec::new() };
        match mesh.start_sidecars(prepared, options, launch).await {
            Ok(()) => Ok(mesh),
            Err(error) => {
                mesh.stop().await;
                Err(error)
            }
        }
    }

    /// The sidecar of the instance called `name`.
    pub fn sidecar(&self, name: &str) -> Option<&Sidecar> {
        self.sidecars.iter().find(|sidecar| sidecar.instance.name == name)
    }

    /// The same, to change it.
    pub fn sidecar_mut(&mut self, name: &str) -> Option<&mut Sidecar> {
        self.sidecars.iter_mut().find(|sidecar| sidecar.instance.name == name)
    }

    /// Stops everything, callers first, so that nothing in flight is lost. False if something took too long.
    pub async fn stop(&mut self) -> bool {
        let proxies = join_all(self.sidecars.iter().map(|sidecar| sidecar.proxy.drain())).await;
        join_all(self.sidecars.iter_mut().map(Sidecar::stop_application)).await;
        let policyd = self.policyd.drain().await;
        let ca = self.ca.drain(CA_DRAIN).await;
        policyd && ca && proxies.into_iter().all(|drained| drained)
    }

    async fn start_sidecars(
        &mut self,
        prepared: Vec<Prepared>,
        options: &Options,
        launch: &dyn Launch,
    ) -> Result<()> {
        let policyd_id = identity::policyd_id(&self.bundle.mesh.trust_domain)?;
        let policyd = Address { address: self.policyd.address.into(), id: policyd_id };
        for mut sidecar in prepared {
            sidecar.config.policyd = policyd.clone();
            self.sidecars.push(sidecar.start(options.clock.clone(), launch).await?);
        }
        let all_ready = join_all(self.sidecars.iter().map(Sidecar::ready));
        if tokio::time::timeout(START, all_ready).await.is_err() {
            let waiting = self.sidecars.iter().filter(|sidecar| !sidecar.proxy.readiness.is_ready());
            let what: Vec<String> = waiting
                .map(|sidecar| {
                    format!(
                        "{} waits for {}",
                        sidecar.instance.name,
                        sidecar.proxy.readiness.waiting_for().join(", ")
                    )
                })
                .collect();
            let what = if what.is_empty() { "a service does not listen".to_owned() } else { what.join("; ") };
            bail!("not ready after {} s: {what}", START.as_secs());
        }
        Ok(())
    }
}

impl Sidecar {
    /// Whether proxy and service both answer.
    pub async fn is_healthy(&self) -> bool {
        self.proxy.readiness.is_ready() && TcpStream::connect(self.application).await.is_ok()
    }

    /// Stops the service, if it was started here; its proxy goes on.
    pub async fn stop_application(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop().await;
        }
    }

    async fn ready(&self) {
        self.proxy.readiness.until_ready().await;
        while TcpStream::connect(self.application).await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

impl Prepared {
    async fn start(mut self, clock: Clock, launch: &dyn Launch) -> Result<Sidecar> {
        let outbound = self.listeners.addresses().outbound;
        let (application, running) = match &self.instance.application {
            Declared::Endpoint(address) => (*address, None),
            Declared::Command(command) => {
                let tcp = self.listeners.tcp();
                let order = Order { instance: &self.instance.name, command, outbound, tcp };
                let started = launch.launch(order).await?;
                (started.address, Some(started.running))
            }
        };
        self.config.application = application.to_string();
        let proxy = proxy::app::build(self.config, self.listeners, clock)
            .await
            .with_context(|| format!("the sidecar of `{}` did not start", self.instance.name))?;
        Ok(Sidecar {
            service: self.service,
            instance: self.instance,
            application,
            spiffe_id: self.declared.spiffe_id,
            proxy,
            running,
        })
    }
}

async fn start_ca(options: &Options, bundle: &Bundle) -> Result<ca::app::Bound> {
    let mut config = ca::config::Config::new(bundle.mesh.trust_domain.clone(), &options.state);
    config.certificate_ttl = bundle.mesh.certificate_ttl;
    // An issuing authority has to live at least twice as long as what it issues.
    config.issuing_ca_ttl = config.issuing_ca_ttl.max(2 * config.certificate_ttl);
    ca::app::build(config, options.clock.clone()).await.context("the CA did not start")
}

async fn start_policyd(
    options: &Options,
    bundle: &Bundle,
    ca: &ca::app::Bound,
    addresses: Addresses,
) -> Result<policyd::app::Bound> {
    let id = identity::policyd_id(&bundle.mesh.trust_domain)?;
    let config = policyd::config::Config {
        delivery: policyd::delivery::Config {
            origin: Origin::Folder(options.bundle.clone()),
            state: Some(State { folder: options.state.join("policyd"), kept: KEPT_DEFAULT }),
        },
        listen: loopback(),
        socket: None,
        admin: loopback(),
        identity: identity::client::Config {
            ca_address: ca.address,
            ca_id: identity::ca_id(&bundle.mesh.trust_domain)?,
            bundle: ca.trust_bundle.clone(),
            join_token: ca.join_token(&id, "policyd", TOKEN_TTL)?,
        },
        addresses,
        candidates: options.candidates.clone(),
        envoy: None,
    };
    policyd::app::build(config, options.clock.clone()).await.context("policyd did not start")
}

async fn prepare(options: &Options, bundle: &Bundle, ca: &ca::app::Bound) -> Result<Vec<Prepared>> {
    let raw = raw_services(bundle)?;
    let declared = bundle.mesh.services.iter();
    let instances =
        declared.flat_map(|(name, service)| service.instances.iter().map(move |i| (name, service, i)));
    try_join_all(
        instances.map(|(name, service, instance)| {
            prepare_one(options, bundle, ca, &raw, (name, service, instance))
        }),
    )
    .await
}

async fn prepare_one(
    options: &Options,
    bundle: &Bundle,
    ca: &ca::app::Bound,
    raw: &[&str],
    (name, service, instance): (&str, &Service, &Instance),
) -> Result<Prepared> {
    let trust_bundle: TrustBundle = ca.trust_bundle.clone();
    // Only the first instance can have a fixed port.
    let first = service.instances.first().is_some_and(|first| first.name == instance.name);
    let ingress =
        service.ingress.map(|address| if first { address } else { SocketAddr::new(address.ip(), 0) });
    let config = proxy::config::Config {
        instance: instance.name.clone(),
        service: name.to_owned(),
        inbound: instance.inbound.unwrap_or_else(loopback),
        outbound: loopback(),
        // Whether it may connect is for policies to say, and they may change while it runs.
        tcp: raw.iter().filter(|called| **called != name).map(|called| local(called)).collect(),
        ingress,
        proxy_protocol: None,
        forwarding: proxy::config::Forwarding::default(),
        greets_application: None,
        admin: loopback(),
        // Known once the service is started.
        application: String::new(),
        intercept: None,
        policyd: Address { address: loopback().into(), id: service.spiffe_id.clone() },
        ca: Address { address: ca.address, id: identity::ca_id(&bundle.mesh.trust_domain)? },
        trust_bundle,
        join_token: ca.join_token(&service.spiffe_id, &instance.name, TOKEN_TTL)?,
        access_log: options.access_log.clone(),
        decision_log: options.decision_logs.as_deref().map(|folder| decision_log(folder, &instance.name)),
        workers: 0,
        max_requests: proxy::config::MAX_REQUESTS,
        max_connections: proxy::config::MAX_CONNECTIONS,
        probes: None,
        hand_over: None,
        base_dir: options.bundle.clone(),
    };
    let listeners = proxy::app::bind(&config)
        .await
        .with_context(|| format!("the sidecar of `{}` can't listen", instance.name))?;
    Ok(Prepared {
        service: name.to_owned(),
        declared: service.clone(),
        instance: instance.clone(),
        config,
        listeners,
    })
}

/// The services that take raw connections.
///
/// # Errors
/// When applications could not be told of two of them.
fn raw_services(bundle: &Bundle) -> Result<Vec<&str>> {
    let services = bundle.mesh.services.iter();
    let raw =
        services.filter(|(_, service)| service.protocol == Protocol::Tcp).map(|(name, _)| name.as_str());
    let raw: Vec<&str> = raw.collect();
    let mut named = BTreeMap::new();
    for name in &raw {
        if let Some(other) = named.insert(variable(name), name) {
            bail!(
                "applications would be told by `{}` of both `{other}` and `{name}`: rename one",
                variable(name)
            );
        }
    }
    Ok(raw)
}

fn local(service: &str) -> LocalAddress {
    LocalAddress { service: service.to_owned(), listen: loopback() }
}

fn decision_log(folder: &Path, instance: &str) -> DecisionLogDestination {
    DecisionLogDestination { path: folder.join(format!("{instance}.jsonl")), rotation: ROTATION }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
