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
use limits::Balance;
use model::{Attributes, Decision, SpiffeId};
use tonic::transport::Channel;

pub(crate) use watcher::{Parts, Watcher};

/// What policyd is asked on behalf of a request.
#[async_trait]
pub(crate) trait Policyd: Debug + Send + Sync {
    /// One decision.
    async fn check(&self, attributes: &Attributes) -> Result<Decision, Unavailable>;
    /// Takes from mesh-wide limits: from all of those charged, or from none.
    /// Takes it for once, however often it is asked with the same `id`.
    async fn take(&self, service: &str, id: [u8; 16], charges: Vec<Charge>) -> Result<Taken, Unavailable>;
    /// Borrows from a mesh-wide limit.
    async fn lend(&self, service: &str, want: Want) -> Result<Loan, Unavailable>;
}

/// policyd gave no answer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable(pub String);

/// So much of a limit, for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// The limit's name.
    pub limit: String,
    /// The text that tells callers apart.
    pub key: String,
    /// How much.
    pub amount: u64,
}

/// What is wanted of a limit, for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// The limit's name.
    pub limit: String,
    /// The text that tells callers apart.
    pub key: String,
    /// What is spent at once.
    pub need: u64,
    /// What is wanted in all.
    pub want: u64,
    /// What is given back of what was lent before,
    pub unspent: u64,
    /// and how long ago the first of it was asked for, in nanoseconds.
    pub unspent_age: i64,
    /// What was used beyond what was lent.
    pub owed: u64,
}

/// What was lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loan {
    /// How much.
    pub amount: u64,
    /// For how many nanoseconds it may be spent, from when it was asked for.
    pub hold: i64,
    /// How the limit stands after it.
    pub balance: Balance,
}

/// What came of a Take.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Whether all limits had enough left.
    pub allowed: bool,
    /// The state of each limit, in the order of the charges.
    pub balances: Vec<Balance>,
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

    async fn take(&self, service: &str, id: [u8; 16], charges: Vec<Charge>) -> Result<Taken, Unavailable> {
        let charge = |Charge { limit, key, amount }| wire::Charge { limit, key, amount };
        let charges = charges.into_iter().map(charge).collect();
        let request = wire::TakeRequest { charges, service: service.to_owned(), id: id.to_vec().into() };
        let response =
            self.service().take(request).await.map_err(|status| unavailable(&status))?.into_inner();
        let balances = response.balances.iter().map(balance).collect();
        Ok(Taken { allowed: response.allowed, balances })
    }

    async fn lend(&self, service: &str, want: Want) -> Result<Loan, Unavailable> {
        let want = wire::Want {
            limit: want.limit,
            key: want.key,
            need: want.need,
            want: want.want,
            unspent: want.unspent,
            unspent_age_ns: u64::try_from(want.unspent_age).unwrap_or(0),
            owed: want.owed,
        };
        let request = wire::LendRequest { service: service.to_owned(), wants: vec![want] };
        let response =
            self.service().lend(request).await.map_err(|status| unavailable(&status))?.into_inner();
        let loan = response.loans.into_iter().next();
        let (loan, told) = loan
            .and_then(|mut loan| Some((loan.balance.take()?, loan)).map(|(told, loan)| (loan, told)))
            .ok_or_else(|| Unavailable("policyd's answer is empty".to_owned()))?;
        let hold = i64::try_from(loan.hold_ns).unwrap_or(i64::MAX);
        Ok(Loan { amount: loan.amount, hold, balance: balance(&told) })
    }
}

fn balance(balance: &wire::Balance) -> Balance {
    Balance {
        remaining: balance.remaining,
        retry_after: Duration::from_millis(balance.retry_after_ms),
        reset: Duration::from_millis(balance.reset_ms),
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
