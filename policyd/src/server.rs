//! The gRPC surface: parse, call, map. With its watcher, the only place that knows `tonic::Status`.

mod watcher;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::limits::Balance;
use ::limits::book::{BookError, Charge};
use api::policy as wire;
use api::policy::policy_service_server::{PolicyService, PolicyServiceServer};
use daemon::{Clock, Lifecycle};
use futures_util::{Stream, StreamExt};
use identity::grpc::Listener;
use identity::tls::{self, ClientAuth, Peer};
use model::{Attributes, Limit, Principal, SpiffeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::limits::{Store, TakeId, Want};
use crate::metrics::Metrics;
use crate::proxies::Proxies;
use crate::publish::{self, Parts, Publisher};
use crate::snapshot::{Current, Snapshot};
use watcher::Watcher;

/// The largest message accepted, in bytes. A Check carries the head of one request.
pub const MESSAGE_SIZE_MAX: usize = 256 * 1024;
/// The most charges of one Take.
pub const CHARGES_MAX: usize = 32;
/// The longest key of a charge, in bytes.
pub const KEY_SIZE_MAX: usize = 4096;
/// The most services that one proxy enforces for.
pub const SERVICES_MAX: usize = 100;
/// The longest name of a proxy, in bytes.
pub const INSTANCE_LENGTH_MAX: usize = 256;
/// How long a proxy that watches may take to say Hello.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// HTTP/2 streams of one proxy at once: one Watch, and a Check or Take for each request in flight.
const STREAMS_MAX: u32 = 1000;
/// How often an idle connection is pinged, so that a proxy that is gone without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The service.
#[derive(Debug)]
pub struct Server {
    /// The state that decides.
    pub current: Current,
    /// The state of mesh-wide limits.
    pub limits: Mutex<Store>,
    /// What proxies are told.
    pub publisher: Arc<Publisher>,
    /// The proxies that watch.
    pub proxies: Arc<Proxies>,
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
        let peer = self.peer(&request)?;
        let attributes =
            request.into_inner().attributes.ok_or_else(|| Status::invalid_argument("no attributes"))?;
        let mut attributes =
            Attributes::try_from(attributes).map_err(|error| Status::invalid_argument(error.to_string()))?;
        may_ask_on_behalf(&snapshot, &peer.id, &attributes)?;
        // The proxy may know other operations than this snapshot has.
        attributes.operation = snapshot.bundle.mesh.operation(&attributes).map(str::to_owned);
        let started = tokio::time::Instant::now();
        let decision = crate::check::check(&snapshot, &attributes).await;
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
        if decision.degraded {
            warn!(principal = %attributes.principal, service = attributes.resource, why = decision.message, "denied, for a failure");
        }
        Ok(Response::new(wire::CheckResponse { decision: Some(decision.into()) }))
    }

    async fn take(
        &self,
        request: Request<wire::TakeRequest>,
    ) -> Result<Response<wire::TakeResponse>, Status> {
        let snapshot = self.current.get();
        let peer = self.peer(&request)?;
        let request = request.into_inner();
        if !is_external(&snapshot, &request.service) {
            may_ask(&snapshot, &peer.id, &request.service)?;
        }
        let charges = charges(&snapshot, &request)?;
        let id = TakeId::try_from(&*request.id).ok();
        let now = self.clock.now();
        let (allowed, balances) = {
            let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = limits.take(id, &charges, now).map_err(|error| unmeasured(&error))?;
            self.metrics.limit_keys(limits.len());
            taken
        };
        let names = charges.iter().map(|charge| charge.limit.name.as_str());
        self.metrics.took(names.clone(), allowed);
        let balances = names.zip(balances).map(|(limit, balance)| balance_of(limit, &balance)).collect();
        Ok(Response::new(wire::TakeResponse { allowed, balances }))
    }

    async fn lend(
        &self,
        request: Request<wire::LendRequest>,
    ) -> Result<Response<wire::LendResponse>, Status> {
        let snapshot = self.current.get();
        let peer = self.peer(&request)?;
        let request = request.into_inner();
        if !is_external(&snapshot, &request.service) {
            may_ask(&snapshot, &peer.id, &request.service)?;
        }
        let wants = wants(&snapshot, &request)?;
        let now = self.clock.now();
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lend = |want: &Want<'_>| {
            let loan = limits.lend(*want, now).map_err(|error| unmeasured(&error))?;
            self.metrics.lent(&want.limit.name, loan.amount);
            Ok(wire::Loan {
                amount: loan.amount,
                hold_ns: loan.hold.unsigned_abs(),
                balance: Some(balance_of(&want.limit.name, &loan.balance)),
            })
        };
        let loans = wants.iter().map(&mut lend).collect::<Result<_, Status>>()?;
        self.metrics.limit_keys(limits.len());
        Ok(Response::new(wire::LendResponse { loans }))
    }

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = self.peer(&request)?;
        let mut incoming = request.into_inner();
        let mut hello = self.hello(&mut incoming).await?;
        hello.services.sort();
        hello.services.dedup();
        let snapshot = self.current.get();
        hello.services.iter().try_for_each(|service| may_ask(&snapshot, &peer.id, service))?;
        // One message: the watcher waits for room before it decides what to send.
        let (outgoing, messages) = mpsc::channel(1);
        let place = self.proxies.place(hello.instance.clone(), peer.id.to_string(), hello.services.clone());
        let watcher = Watcher {
            peer,
            clock: self.clock.clone(),
            instance: hello.instance,
            services: hello.services,
            publisher: self.publisher.clone(),
            place,
            has: Parts { mesh: hello.mesh.map(Into::into), policies: hello.policies.map(Into::into) },
            current: self.current.clone(),
            metrics: self.metrics.clone(),
            incoming,
            outgoing,
        };
        self.lifecycle.spawn(watcher.run(self.lifecycle.clone()));
        Ok(Response::new(ReceiverStream::new(messages).boxed()))
    }
}

impl Server {
    /// Serves on `listeners`, with the certificates of `identity`, until the daemon stops. Returns at once.
    pub fn serve(self, listeners: impl IntoIterator<Item = Listener>, identity: &identity::Source) {
        let server = Arc::new(self);
        listeners.into_iter().for_each(|listener| server.clone().serve_one(listener, identity));
    }

    fn serve_one(self: Arc<Self>, listener: Listener, identity: &identity::Source) {
        let lifecycle = self.lifecycle.clone();
        let tls = tls::server_config(identity, self.clock.clone(), ClientAuth::Required, tls::H2);
        let incoming = identity::grpc::incoming(listener, tls, &lifecycle);
        let service = PolicyServiceServer::from_arc(self).max_decoding_message_size(MESSAGE_SIZE_MAX);
        let stopping = lifecycle.clone();
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async move { stopping.stopping().await });
        lifecycle.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(error = &error as &dyn std::error::Error, "the gRPC server ended");
            }
        });
    }

    /// Who calls. A connection may be older than its caller's certificate, so the end of that is looked at again.
    fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let peer =
            identity::grpc::peer(request).ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        if self.clock.now() > peer.not_after {
            return Err(Status::unauthenticated(format!("your certificate ended at {}", peer.not_after)));
        }
        Ok(peer)
    }

    async fn hello(&self, incoming: &mut Streaming<wire::WatchRequest>) -> Result<wire::Hello, Status> {
        let first = tokio::select! {
            () = self.lifecycle.stopping() => return Err(Status::unavailable("policyd is stopping")),
            first = tokio::time::timeout(HELLO_DEADLINE, incoming.message()) => {
                first.map_err(|_elapsed| Status::deadline_exceeded("no Hello came"))??
            }
        };
        let Some(wire::watch_request::Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message has to be a Hello"));
        };
        if hello.services.is_empty() || hello.services.len() > SERVICES_MAX {
            return Err(Status::invalid_argument(format!("a Hello names 1 to {SERVICES_MAX} services")));
        }
        if hello.instance.len() > INSTANCE_LENGTH_MAX {
            let message = format!("the instance's name is longer than {INSTANCE_LENGTH_MAX} bytes");
            return Err(Status::invalid_argument(message));
        }
        Ok(hello)
    }
}

/// A proxy may ask only about services whose identity it has.
fn may_ask(snapshot: &Snapshot, peer: &SpiffeId, service: &str) -> Result<(), Status> {
    match snapshot.bundle.mesh.services.get(service) {
        Some(known) if known.spiffe_id == *peer && known.external.is_none() => Ok(()),
        Some(known) => Err(Status::permission_denied(format!(
            "`{peer}` may not ask about `{service}`, whose identity is `{}`",
            known.spiffe_id
        ))),
        None => Err(Status::not_found(format!("there is no service `{service}`"))),
    }
}

/// About a service outside of the mesh, whose callers' proxies decide, each may ask for its own workload.
fn may_ask_on_behalf(snapshot: &Snapshot, peer: &SpiffeId, attributes: &Attributes) -> Result<(), Status> {
    if !is_external(snapshot, &attributes.resource) {
        return may_ask(snapshot, peer, &attributes.resource);
    }
    if attributes.principal == Principal::Workload(peer.clone()) {
        return Ok(());
    }
    let (caller, service) = (attributes.principal.as_str(), &attributes.resource);
    Err(Status::permission_denied(format!("`{peer}` may not ask for `{caller}` about `{service}`")))
}

fn is_external(snapshot: &Snapshot, service: &str) -> bool {
    snapshot.bundle.mesh.services.get(service).is_some_and(|service| service.external.is_some())
}

fn charges<'a>(snapshot: &'a Snapshot, request: &'a wire::TakeRequest) -> Result<Vec<Charge<'a>>, Status> {
    if request.charges.len() > CHARGES_MAX {
        return Err(Status::invalid_argument(format!("more than {CHARGES_MAX} charges")));
    }
    let charge = |charge: &'a wire::Charge| {
        let limit = limit(snapshot, &request.service, &charge.limit, &charge.key)?;
        Ok(Charge { limit, key: &charge.key, amount: charge.amount })
    };
    request.charges.iter().map(charge).collect()
}

fn wants<'a>(snapshot: &'a Snapshot, request: &'a wire::LendRequest) -> Result<Vec<Want<'a>>, Status> {
    if request.wants.len() > CHARGES_MAX {
        return Err(Status::invalid_argument(format!("more than {CHARGES_MAX} wants")));
    }
    let want = |want: &'a wire::Want| {
        Ok(Want {
            limit: limit(snapshot, &request.service, &want.limit, &want.key)?,
            key: &want.key,
            need: want.need,
            want: want.want,
            unspent: want.unspent,
            unspent_age: i64::try_from(want.unspent_age_ns).unwrap_or(i64::MAX),
            owed: want.owed,
        })
    };
    request.wants.iter().map(want).collect()
}

fn limit<'a>(snapshot: &'a Snapshot, service: &str, name: &str, key: &str) -> Result<&'a Arc<Limit>, Status> {
    if key.len() > KEY_SIZE_MAX {
        return Err(Status::invalid_argument(format!("a key is longer than {KEY_SIZE_MAX} bytes")));
    }
    let unknown = || Status::not_found(format!("`{service}` has no mesh-wide limit `{name}`"));
    publish::mesh_limit(snapshot, service, name).ok_or_else(unknown)
}

fn unmeasured(error: &BookError) -> Status {
    Status::resource_exhausted(error.to_string())
}

fn balance_of(limit: &str, balance: &Balance) -> wire::Balance {
    wire::Balance {
        limit: limit.to_owned(),
        remaining: balance.remaining,
        retry_after_ms: millis(balance.retry_after),
        reset_ms: millis(balance.reset),
    }
}

/// Rounded up: zero means now, and less than a millisecond is not now.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
