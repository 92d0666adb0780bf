//! Wires policyd: the only place where its parts are created and connected.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use api::policy::policy_service_server::PolicyServiceServer;
use daemon::{Clock, Lifecycle, Readiness};
use identity::tls::ClientAuth;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::limits::Store;
use crate::metrics::Metrics;
use crate::server::{MESSAGE_SIZE_MAX, Server};
use crate::snapshot::Current;
use crate::source::{Source, Status};

/// How long a drain may take.
pub const DRAIN: Duration = Duration::from_secs(5);
/// HTTP/2 streams of one proxy at once: one Watch, and a Check or Take for each request in flight.
const STREAMS_MAX: u32 = 1000;

/// A running policyd.
#[derive(Debug)]
pub struct Bound {
    /// Where proxies connect.
    pub address: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub admin: SocketAddr,
    /// The state that decides.
    pub current: Current,
    /// How the last reading of the bundle went.
    pub status: watch::Receiver<Status>,
    /// policyd's own certificate.
    pub identity: identity::Source,
    /// Its life.
    pub lifecycle: Lifecycle,
}

/// Starts policyd. It serves once it has a bundle and a certificate.
///
/// # Errors
/// [`daemon::Findings`] when the bundle has mistakes; else why it can't start.
pub async fn build(config: Config, clock: Clock) -> Result<Bound> {
    let lifecycle = Lifecycle::new();
    let readiness = Readiness::new();
    let registry = daemon::Metrics::new();
    let metrics = Arc::new(Metrics::new(&registry));
    let starting = readiness.block("its bundle and certificate");

    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("`{}` can't be bound", config.listen))?;
    let address = listener.local_addr()?;
    let admin = daemon::admin::bind(config.admin)
        .await
        .with_context(|| format!("`{}` can't be bound", config.admin))?;
    let admin_address = admin.address();
    admin.serve(Arc::new(move || registry.render()), readiness.clone(), &lifecycle);

    // A new epoch for each life: what proxies cached from an earlier one has to be asked again.
    let source = Source::start(&config.bundle, rand::random(), metrics.clone()).await?;
    let (current, status) = (source.current(), source.status());
    let identity = identity::client::start(config.identity, clock.clone(), &lifecycle, |_event| {})
        .await
        .context("policyd got no certificate")?;
    lifecycle.spawn(source.run(lifecycle.clone()));

    let server = Server {
        current: current.clone(),
        limits: Mutex::new(Store::default()),
        addresses: config.addresses,
        clock: clock.clone(),
        lifecycle: lifecycle.clone(),
        metrics,
    };
    let service = PolicyServiceServer::new(server).max_decoding_message_size(MESSAGE_SIZE_MAX);
    let tls = identity::tls::server_config(&identity, clock, ClientAuth::Required, &[b"h2"]);
    let incoming = identity::grpc::incoming(listener, tls, &lifecycle);
    let stopping = lifecycle.clone();
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move { stopping.stopping().await });
    lifecycle.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the gRPC server ended");
        }
    });
    drop(starting);
    tracing::info!(%address, admin = %admin_address, "policyd serves");
    Ok(Bound { address, admin: admin_address, current, status, identity, lifecycle })
}

impl Bound {
    /// Stops and waits until everything has ended; false when it took too long.
    pub async fn drain(&self) -> bool {
        self.lifecycle.drain(DRAIN).await
    }
}
