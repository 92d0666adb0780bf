//! The way to policyd: Check and Take for requests, Watch for everything else.
//!
//! One task keeps the Watch stream. Each Config is applied as a whole and acknowledged, or refused with the
//! reason, and then the one before stays. While policyd is away the last Config stays in use.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::config::Config;
use api::policy as wire;
use api::policy::policy_service_client::PolicyServiceClient;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use daemon::{BlockReady, Clock, Lifecycle};
use identity::Source;
use model::{Attributes, Decision, Revision, SpiffeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::applied::{Applier, Current};
use crate::metrics::Metrics;

/// The largest Config accepted, in bytes.
const CONFIG_MAX: usize = 64 * 1024 * 1024;
/// Between tries to reach policyd.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What policyd is asked on behalf of a request.
#[async_trait]
pub(crate) trait Policyd: Debug + Send + Sync {
    /// One decision.
    async fn check(&self, attributes: &Attributes) -> Result<Decision, Unavailable>;
    /// Takes from mesh-wide limits: from all of those charged, or from none.
    async fn take(&self, service: &str, charges: Vec<Charge>) -> Result<Taken, Unavailable>;
}

/// policyd gave no answer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable(pub String);

/// One from a limit, for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// The limit's name.
    pub limit: String,
    /// The text that tells callers apart.
    pub key: String,
}

/// What came of a Take.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Whether all limits had enough left.
    pub allowed: bool,
    /// The state of each limit, in the order of the charges.
    pub balances: Vec<Held>,
}

/// The state of one limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// How many more would be allowed now.
    pub remaining: u32,
    /// Until one more is allowed; zero when one is.
    pub retry_after: Duration,
    /// Until the whole burst is back.
    pub reset: Duration,
}

/// Where policyd is, and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it listens.
    pub address: SocketAddr,
    /// The SPIFFE ID it must show.
    pub id: SpiffeId,
}

/// policyd, over mutual TLS.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    source: Source,
    clock: Clock,
    service: ArcSwap<PolicyServiceClient<Channel>>,
}

/// Keeps the Watch stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// The way to policyd.
    pub client: Arc<Client>,
    /// This proxy's name, for policyd's logs.
    pub instance: String,
    /// The service it enforces for.
    pub service: String,
    /// Puts a Config to use.
    pub applier: Applier,
    /// What is in use.
    pub current: Current,
    /// Where the connection's state is shown.
    pub metrics: Metrics,
    /// Dropped with the first Config.
    pub first_config: Option<BlockReady>,
}

/// Both directions of an open Watch.
struct Stream {
    sender: mpsc::Sender<wire::WatchRequest>,
    responses: tonic::Streaming<wire::WatchResponse>,
}

/// How a stream ended, or failed to start.
struct Ended {
    was_open: bool,
    why: tonic::Status,
}

impl Client {
    /// Connects when first used.
    pub(crate) fn new(address: Address, source: Source, clock: Clock) -> Self {
        let service = ArcSwap::from_pointee(connect(&address, &source, &clock));
        Self { address, source, clock, service }
    }

    /// Future calls use a new connection, made with the certificate of now.
    fn reconnect(&self) {
        self.service.store(Arc::new(connect(&self.address, &self.source, &self.clock)));
    }

    fn service(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::clone(&self.service.load())
    }
}

#[async_trait]
impl Policyd for Client {
    async fn check(&self, attributes: &Attributes) -> Result<Decision, Unavailable> {
        let request = wire::CheckRequest { attributes: Some(attributes.into()) };
        let response =
            self.service().check(request).await.map_err(|status| unavailable(&status))?.into_inner();
        let decision =
            response.decision.ok_or_else(|| Unavailable("policyd's answer is empty".to_owned()))?;
        decision.try_into().map_err(|error: api::ConvertError| Unavailable(error.to_string()))
    }

    async fn take(&self, service: &str, charges: Vec<Charge>) -> Result<Taken, Unavailable> {
        let charges =
            charges.into_iter().map(|charge| wire::Charge { limit: charge.limit, key: charge.key }).collect();
        let request = wire::TakeRequest { charges, service: service.to_owned() };
        let response =
            self.service().take(request).await.map_err(|status| unavailable(&status))?.into_inner();
        let held = |balance: &wire::Balance| Held {
            remaining: balance.remaining,
            retry_after: Duration::from_millis(balance.retry_after_ms),
            reset: Duration::from_millis(balance.reset_ms),
        };
        Ok(Taken { allowed: response.allowed, balances: response.balances.iter().map(held).collect() })
    }
}

impl Watcher {
    /// Watches until the proxy stops.
    pub(crate) async fn watch_until_stopped(mut self, lifecycle: Lifecycle) {
        let mut identity = self.client.source.subscribe();
        let backoff = ExponentialBuilder::new()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_jitter()
            .without_max_times();
        let mut delays = backoff.build();
        loop {
            let ended = tokio::select! {
                () = lifecycle.stopping() => return,
                // Our certificate was renewed: the connection is made anew with it, at once.
                Ok(()) = identity.changed() => {
                    self.client.reconnect();
                    continue;
                }
                ended = self.watch() => ended,
            };
            self.metrics.policyd_connected(false);
            if ended.was_open {
                delays = backoff.build();
            }
            let delay = delays.next().unwrap_or(RETRY_MAX);
            tracing::warn!(error = ended.why.message(), retry_in = ?delay, "policyd can't be watched");
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One stream, from its start to its end.
    async fn watch(&mut self) -> Ended {
        match self.open().await {
            Ok(stream) => {
                self.metrics.policyd_connected(true);
                Ended { was_open: true, why: self.follow(stream).await }
            }
            Err(why) => Ended { was_open: false, why },
        }
    }

    async fn open(&self) -> Result<Stream, tonic::Status> {
        // Room for the Hello and, while it is being sent, one Ack.
        let (sender, messages) = mpsc::channel(2);
        let hello = wire::Hello { instance: self.instance.clone(), services: vec![self.service.clone()] };
        send(&sender, wire::watch_request::Message::Hello(hello)).await?;
        let mut service = self.client.service().max_decoding_message_size(CONFIG_MAX);
        let responses = service.watch(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Stream { sender, responses })
    }

    async fn follow(&mut self, mut stream: Stream) -> tonic::Status {
        loop {
            let ack = match stream.responses.message().await {
                Ok(Some(response)) => match response.message {
                    Some(message) => self.take_in(message).await,
                    None => None,
                },
                Ok(None) => return ended(),
                Err(status) => return status,
            };
            let Some(ack) = ack else { continue };
            if let Err(status) = send(&stream.sender, wire::watch_request::Message::Ack(ack)).await {
                return status;
            }
        }
    }

    async fn take_in(&mut self, message: wire::watch_response::Message) -> Option<wire::Ack> {
        match message {
            wire::watch_response::Message::Heartbeat(heartbeat) => {
                if let Some(floor) = heartbeat.floor {
                    self.current.raise_floor(floor.into());
                }
                None
            }
            wire::watch_response::Message::Config(config) => {
                let revision = config.revision;
                let error = self.apply(config).await.err().unwrap_or_default();
                if error.is_empty() {
                    self.first_config = None;
                } else {
                    tracing::error!(error, "a configuration can't be applied; the one before stays");
                }
                Some(wire::Ack { revision, error })
            }
        }
    }

    async fn apply(&self, config: wire::Config) -> Result<(), String> {
        let config: Config = config.try_into().map_err(|error: api::ConvertError| error.to_string())?;
        let revision: Revision = config.revision;
        self.applier.apply(config).await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        self.metrics.configured(revision);
        tracing::info!(%revision, "configuration applied");
        Ok(())
    }
}

fn connect(address: &Address, source: &Source, clock: &Clock) -> PolicyServiceClient<Channel> {
    let tls =
        identity::tls::client_config(source, clock.clone(), vec![address.id.clone()], identity::tls::H2);
    PolicyServiceClient::new(identity::grpc::channel(address.address, tls))
}

async fn send(
    sender: &mpsc::Sender<wire::WatchRequest>,
    message: wire::watch_request::Message,
) -> Result<(), tonic::Status> {
    let request = wire::WatchRequest { message: Some(message) };
    sender.send(request).await.map_err(|_error| ended())
}

fn ended() -> tonic::Status {
    tonic::Status::unavailable("policyd ended the stream")
}

fn unavailable(status: &tonic::Status) -> Unavailable {
    Unavailable(format!("policyd can't be asked: {}", status.message()))
}
