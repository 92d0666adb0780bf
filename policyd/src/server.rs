//! The gRPC surface: parse, call, map. The only file that knows `tonic::Status`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::policy as wire;
use api::policy::policy_service_server::PolicyService;
use daemon::{Clock, Lifecycle};
use futures_util::{Stream, StreamExt};
use model::{Attributes, SpiffeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::limits::{Charge, Store};
use crate::metrics::Metrics;
use crate::publish::{self, Addresses};
use crate::snapshot::{Current, Snapshot};

/// The largest message accepted, in bytes. A Check carries the head of one request.
pub const MESSAGE_SIZE_MAX: usize = 256 * 1024;
/// The most charges of one Take.
pub const CHARGES_MAX: usize = 32;
/// The longest key of a charge, in bytes.
pub const KEY_SIZE_MAX: usize = 4096;
/// How often a proxy hears that nothing has changed.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Updates that may wait for a slow proxy. It needs only the newest, and gets it once it reads again.
const UPDATES_QUEUED: usize = 2;

/// The service.
#[derive(Debug)]
pub struct Server {
    /// The state that decides.
    pub current: Current,
    /// The state of mesh-wide limits.
    pub limits: Mutex<Store>,
    /// Inbound addresses the bundle leaves open.
    pub addresses: Addresses,
    /// The time.
    pub clock: Clock,
    /// When to stop.
    pub lifecycle: Lifecycle,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl PolicyService for Server {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<wire::CheckRequest>,
    ) -> Result<Response<wire::CheckResponse>, Status> {
        let snapshot = self.current.get();
        let peer = peer(&request)?;
        let attributes =
            request.into_inner().attributes.ok_or_else(|| Status::invalid_argument("no attributes"))?;
        let attributes =
            Attributes::try_from(attributes).map_err(|error| Status::invalid_argument(error.to_string()))?;
        may_ask(&snapshot, &peer, &attributes.resource)?;
        let started = tokio::time::Instant::now();
        let decision = crate::check::check(&snapshot, &attributes).await.map_err(|error| {
            warn!(error = &error as &dyn std::error::Error, principal = %attributes.principal, "a check could not be made");
            Status::invalid_argument(error.to_string())
        })?;
        self.metrics.checked(&decision, started.elapsed());
        debug!(
            principal = %attributes.principal,
            service = attributes.resource,
            path = attributes.path,
            verdict = ?decision.verdict,
            reasons = ?decision.reasons,
            revision = %decision.revision,
            "checked"
        );
        Ok(Response::new(wire::CheckResponse { decision: Some(decision.into()) }))
    }

    async fn take(
        &self,
        request: Request<wire::TakeRequest>,
    ) -> Result<Response<wire::TakeResponse>, Status> {
        let snapshot = self.current.get();
        let peer = peer(&request)?;
        let request = request.into_inner();
        may_ask(&snapshot, &peer, &request.service)?;
        let charges = charges(&snapshot, &request)?;
        let now = self.clock.now();
        let (allowed, balances) = {
            let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            let taken =
                limits.take(&charges, now).map_err(|error| Status::resource_exhausted(error.to_string()))?;
            self.metrics.limit_keys(limits.len());
            taken
        };
        self.metrics.took(&charges, allowed);
        let balances = charges.iter().zip(balances).map(|(charge, balance)| wire::Balance {
            limit: charge.limit.name.clone(),
            remaining: balance.remaining,
            retry_after_ms: millis(balance.retry_after),
            reset_ms: millis(balance.reset),
        });
        Ok(Response::new(wire::TakeResponse { allowed, balances: balances.collect() }))
    }

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = peer(&request)?;
        let mut incoming = request.into_inner();
        let hello = match incoming.message().await?.and_then(|request| request.message) {
            Some(wire::watch_request::Message::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the first message has to be a Hello")),
        };
        for service in &hello.services {
            may_ask(&self.current.get(), &peer, service)?;
        }
        info!(instance = hello.instance, peer = %peer, services = ?hello.services, "a proxy watches");
        let (sender, receiver) = mpsc::channel(UPDATES_QUEUED);
        let watcher = Watcher { hello, addresses: self.addresses.clone(), sender };
        self.lifecycle.spawn(watcher.run(
            self.current.clone(),
            self.lifecycle.clone(),
            self.metrics.clone(),
            incoming,
        ));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

/// One proxy that watches.
struct Watcher {
    hello: wire::Hello,
    addresses: Addresses,
    sender: mpsc::Sender<Result<wire::WatchResponse, Status>>,
}

impl Watcher {
    async fn run(
        self,
        current: Current,
        lifecycle: Lifecycle,
        metrics: Arc<Metrics>,
        mut incoming: Streaming<wire::WatchRequest>,
    ) {
        let _connected = metrics.proxy_connected();
        let mut snapshots = current.subscribe();
        snapshots.mark_changed();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            let message = tokio::select! {
                biased;
                () = lifecycle.stopping() => break,
                changed = snapshots.changed() => match changed {
                    Ok(()) => self.config(&snapshots.borrow_and_update().clone()),
                    Err(_closed) => break,
                },
                request = incoming.message() => match request {
                    Ok(Some(request)) => {
                        self.acknowledged(request, &metrics);
                        continue;
                    }
                    Ok(None) | Err(_) => break,
                },
                _ = heartbeat.tick() => floor(&current.get()),
            };
            if self.sender.send(Ok(message)).await.is_err() {
                break;
            }
        }
        info!(instance = self.hello.instance, "a proxy stopped watching");
    }

    fn config(&self, snapshot: &Snapshot) -> wire::WatchResponse {
        let config = publish::config(snapshot, &self.hello.services, &self.addresses);
        wire::WatchResponse { message: Some(wire::watch_response::Message::Config((&config).into())) }
    }

    fn acknowledged(&self, request: wire::WatchRequest, metrics: &Metrics) {
        let Some(wire::watch_request::Message::Ack(ack)) = request.message else { return };
        let revision = model::Revision::from(ack.revision.unwrap_or_default());
        metrics.acknowledged(ack.error.is_empty());
        if ack.error.is_empty() {
            debug!(instance = self.hello.instance, %revision, "acknowledged");
        } else {
            warn!(instance = self.hello.instance, %revision, error = ack.error, "a proxy could not apply a revision");
        }
    }
}

fn floor(snapshot: &Snapshot) -> wire::WatchResponse {
    let heartbeat = wire::Heartbeat { floor: Some(snapshot.revision.into()) };
    wire::WatchResponse { message: Some(wire::watch_response::Message::Heartbeat(heartbeat)) }
}

fn peer<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let peer =
        identity::grpc::peer(request).ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    Ok(peer.id)
}

/// A proxy may ask only about services whose identity it has.
fn may_ask(snapshot: &Snapshot, peer: &SpiffeId, service: &str) -> Result<(), Status> {
    match snapshot.bundle.mesh.services.get(service) {
        Some(known) if known.spiffe_id == *peer => Ok(()),
        Some(known) => Err(Status::permission_denied(format!(
            "`{peer}` may not ask about `{service}`, whose identity is `{}`",
            known.spiffe_id
        ))),
        None => Err(Status::not_found(format!("there is no service `{service}`"))),
    }
}

fn charges<'a>(snapshot: &'a Snapshot, request: &'a wire::TakeRequest) -> Result<Vec<Charge<'a>>, Status> {
    if request.charges.len() > CHARGES_MAX {
        return Err(Status::invalid_argument(format!("more than {CHARGES_MAX} charges")));
    }
    let charge = |charge: &'a wire::Charge| {
        if charge.key.len() > KEY_SIZE_MAX {
            return Err(Status::invalid_argument(format!("a key is longer than {KEY_SIZE_MAX} bytes")));
        }
        let limit = publish::mesh_limit(snapshot, &request.service, &charge.limit).ok_or_else(|| {
            Status::not_found(format!("`{}` has no mesh-wide limit `{}`", request.service, charge.limit))
        })?;
        Ok(Charge { limit, key: &charge.key })
    };
    request.charges.iter().map(charge).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
