//! The check of a request from its HTTP head to its decision, by itself: for benchmarks and the test that counts
//! allocations. Nothing else uses it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::config::{Config, Enforced, Enforcement, Exposure, Policies};
use async_trait::async_trait;
use daemon::Clock;
use jiff::Timestamp;
use model::{Action, AtomSet, Attributes, Decision, FailMode, Operations, Principal};

use crate::applied::{Applied, Current};
use crate::attributes::Head;
use crate::check::Checker;
use crate::fields;
use crate::policy_client::{Charge, Loan, Policyd, Taken, Unavailable, Want};
use model::path::Query;

/// A request, as it stands once its head was brought into the form in which it is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who is calling.
    pub principal: &'a Principal,
    /// As sent.
    pub method: &'a str,
    /// In normal form.
    pub path: &'a str,
    /// As sent, without its `?`.
    pub query: &'a str,
    /// As the application gets them.
    pub fields: &'a Fields,
    /// Where the connection came from.
    pub source_ip: IpAddr,
    /// When it arrived.
    pub time: Timestamp,
}

/// The header fields of a request.
#[derive(Debug)]
pub struct Fields(fields::Head);

impl Fields {
    /// These, as they might have come.
    pub fn new(sent: &[(&str, &str)]) -> Self {
        Self(fields::Head::of(sent))
    }
}

/// A proxy's checks for a service called `shop`, with a policyd that gives every request the same answer.
#[derive(Debug)]
pub struct Check {
    checker: Checker,
}

#[derive(Debug)]
struct Answers(Decision);

#[async_trait]
impl Policyd for Answers {
    async fn check(&self, _attributes: &Attributes) -> Result<Decision, Unavailable> {
        Ok(self.0.clone())
    }

    async fn lend(&self, _service: &str, _want: Want) -> Result<Loan, Unavailable> {
        Err(Unavailable("no limits here".to_owned()))
    }

    async fn take(&self, _service: &str, _id: [u8; 16], _charges: Vec<Charge>) -> Result<Taken, Unavailable> {
        Err(Unavailable("there are no limits".to_owned()))
    }
}

impl Check {
    /// By these atoms, with this answer, for a service with these operations; it is `now` at first.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(atoms: AtomSet, answer: Decision, operations: Operations, now: Timestamp) -> Self {
        let (current, clock) = (Current::nothing(), Clock::starting_at(now));
        let enforced = Enforced {
            service: "shop".to_owned(),
            revision: answer.revision,
            atoms,
            fail_mode: FailMode::Closed,
            denial_exposure: Exposure::Mesh,
            enforcement: Enforcement::Enforce,
            decision_log: None,
            routes: Vec::new(),
            issuers: Vec::new(),
            merge_slashes: false,
        };
        // No benchmark takes so long: this policyd says nothing more.
        let policies = Policies { stale_after: Duration::from_secs(86_400), ..Policies::default() };
        let config = Config { policies: Arc::new(policies), ..Config::default() };
        current.replace(Applied { config, enforced: Some(enforced), operations, ..Applied::default() });
        current.heard(clock.now());
        Self { checker: Checker::new(Arc::new(Answers(answer)), current, clock) }
    }

    /// The decision on a request, if it is cached.
    pub fn look_up(&self, request: Request<'_>) -> Option<Arc<Decision>> {
        self.checker.look_up(&head(request)?, request.time).ok()
    }

    /// The decision on a request, and whether it was cached.
    pub async fn decide(&self, request: Request<'_>) -> Option<(Arc<Decision>, bool)> {
        let checked = self.checker.decide(&head(request)?, request.time, Head::to_attributes).await;
        let is_hit = checked.source == crate::check::Source::Hit;
        Some((checked.decision, is_hit))
    }
}

fn head(request: Request<'_>) -> Option<Head<'_>> {
    Some(Head {
        principal: request.principal,
        action: Action::Http,
        service: "shop",
        method: request.method,
        path: request.path,
        query: Query::new(request.query).ok()?,
        host: "shop",
        fields: request.fields.0.fields(),
        claims: None,
        operation: None,
        source_ip: request.source_ip.to_canonical(),
        tls: true,
        sni: None,
        destination_port: 0,
        time: request.time,
    })
}
