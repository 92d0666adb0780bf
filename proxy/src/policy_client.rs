//! The way to policyd: Check and Take for requests, Watch for everything else.

mod watcher;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::policy as wire;
use api::policy::policy_service_client::PolicyServiceClient;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use daemon::Clock;
use identity::{Source, grpc};
use model::{Attributes, Decision, SpiffeId};
use tonic::transport::Channel;

pub(crate) use watcher::{Parts, Watcher};

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

/// Where a daemon is, and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<A = SocketAddr> {
    /// Where it listens.
    pub address: A,
    /// The SPIFFE ID it must show.
    pub id: SpiffeId,
}

/// policyd, over mutual TLS.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address<grpc::Address>,
    source: Source,
    clock: Clock,
    service: ArcSwap<PolicyServiceClient<Channel>>,
}

impl Client {
    /// Connects when first used.
    pub(crate) fn new(address: Address<grpc::Address>, source: Source, clock: Clock) -> Self {
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

fn connect(address: &Address<grpc::Address>, source: &Source, clock: &Clock) -> PolicyServiceClient<Channel> {
    let tls =
        identity::tls::client_config(source, clock.clone(), vec![address.id.clone()], identity::tls::H2);
    PolicyServiceClient::new(grpc::channel(address.address.clone(), tls))
}

fn unavailable(status: &tonic::Status) -> Unavailable {
    Unavailable(format!("policyd can't be asked: {}", status.message()))
}
