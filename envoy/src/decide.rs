//! One question of an Envoy, whichever way it came: what policyd decides, and what the service's enforcement makes of it.

use std::borrow::Cow;
use std::time::Duration;

use api::config::Enforcement;
use api::ext_authz::{Answer, Asked};
use daemon::Clock;
use model::{Attributes, Decision, Principal, SpiffeId, Verdict};
use policyd::bundle::mesh::Service;
use policyd::snapshot::{Current, Snapshot};
use rand::RngExt;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::door::{Envoy, Stranger};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::{seen, service, token, told};

/// A longer request id is replaced, for it goes into the log.
const REQUEST_ID_MAX: usize = 128;
const REQUEST_ID: &str = "x-request-id";

/// What answers.
#[derive(Debug)]
pub(crate) struct Decider {
    pub current: Current,
    pub clock: Clock,
    pub metrics: Metrics,
    /// Envoys that may ask about every service.
    pub gateways: Vec<SpiffeId>,
    /// Whether the host names a service, if nothing better does.
    pub service_by_host: bool,
}

/// What was found out about a request so far.
struct About<'a> {
    asked: &'a Asked,
    request_id: Cow<'a, str>,
    service: Option<(&'a str, &'a Service)>,
    principal: Principal,
}

/// How a question ended: what its request is refused for, if it is, and what Envoy is told of it.
struct Outcome {
    verdict: &'static str,
    refusal: Option<Refusal>,
    told: Map<String, Value>,
    /// The headers that are not for the service.
    removed: Vec<String>,
}

impl Decider {
    /// The answer to `asked`, if `envoy` may ask that.
    pub(crate) async fn decide(&self, asked: &Asked, envoy: &Envoy) -> Result<Answer, Stranger> {
        let started = Instant::now();
        let snapshot = self.current.get();
        let mut about = About {
            asked,
            request_id: request_id(asked),
            service: None,
            principal: Principal::Unauthenticated,
        };
        let found = service::find(asked, &snapshot.bundle.mesh, self.service_by_host);
        let outcome = match found {
            Ok((name, service)) => {
                self.may_ask(envoy, name, service)?;
                about.service = Some((name, service));
                self.on_service(&snapshot, &mut about, (name, service)).await
            }
            Err(refusal) => Outcome::refused(&about, refusal),
        };
        Ok(self.answer(&about, outcome, started.elapsed()))
    }

    /// An Envoy with a certificate may ask about services whose identity it has, and a gateway about all.
    fn may_ask(&self, envoy: &Envoy, name: &str, service: &Service) -> Result<(), Stranger> {
        match envoy {
            Envoy::Known(id) if service.spiffe_id != *id && !self.gateways.contains(id) => {
                Err(Stranger::NotItsOwn(id.clone(), name.to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn on_service(
        &self,
        snapshot: &Snapshot,
        about: &mut About<'_>,
        (name, service): (&str, &Service),
    ) -> Outcome {
        let asked = about.asked;
        let mesh = &snapshot.bundle.mesh;
        let mut seen = match seen::attributes(asked, mesh, (name, service), self.clock.now()) {
            Ok(seen) => seen,
            Err(refusal) => return Outcome::refused(about, refusal),
        };
        about.principal = seen.principal.clone();
        let mut removed = seen::own_fields(asked);
        if service.enforcement == Enforcement::Off {
            return Outcome { verdict: told::OFF, refusal: None, told: told::of_off(name), removed };
        }
        removed.extend(token::kept_back(&service.issuers, &seen));
        let claims = token::claims(asked, &service.issuers, &seen);
        // The service does not get them, so policies don't see them.
        seen.headers.retain(|name, _| !removed.contains(name));
        let mut outcome = match claims {
            Ok(claims) => decided(snapshot, &Attributes { claims, ..seen }, service).await,
            Err(wrong) => Outcome::refused(about, wrong.into()),
        };
        outcome.removed = removed;
        outcome
    }

    /// Tells everyone who has to know.
    fn answer(&self, about: &About<'_>, outcome: Outcome, took: Duration) -> Answer {
        let Outcome { verdict, refusal, told, removed } = outcome;
        let (name, service) = about.service.unzip();
        self.metrics.answered(name.unwrap_or_default(), verdict, took);
        let passes = Answer {
            status: Answer::OK,
            headers: Vec::new(),
            body: String::new(),
            removed,
            told: told.clone(),
        };
        let Some(refusal) = refusal else { return passes };
        let observes = service.is_some_and(|service| service.enforcement == Enforcement::Observe);
        // A request that has no single reading passes nowhere; a sidecar refuses it, too.
        let passes_anyway = observes && matches!(refusal, Refusal::Denied(_) | Refusal::Token(_));
        about.log(&refusal, passes_anyway);
        if passes_anyway {
            return passes;
        }
        let exposure = service.map(|service| service.denial_exposure).unwrap_or_default();
        let tells = exposure.tells(&about.principal);
        Answer { told, ..refusal.answer(&about.request_id, tells, seen::is_call(about.asked)) }
    }
}

async fn decided(snapshot: &Snapshot, seen: &Attributes, service: &Service) -> Outcome {
    let decision: Decision = policyd::check::check(snapshot, seen).await;
    let told = told::of_decision(&seen.resource, service.enforcement, &decision);
    let verdict = told::verdict(&decision);
    let refusal = (decision.verdict == Verdict::Deny).then(|| Refusal::Denied(Box::new(decision)));
    Outcome { verdict, refusal, told, removed: Vec::new() }
}

impl Outcome {
    fn refused(about: &About<'_>, refusal: Refusal) -> Self {
        let service = about.service.map(|(name, service)| (name, service.enforcement));
        let told = told::of_refusal(service, &refusal);
        Self { verdict: told::REFUSED, refusal: Some(refusal), told, removed: Vec::new() }
    }
}

impl About<'_> {
    /// Logs a refusal as a sidecar does, with what an operator may have to correct.
    fn log(&self, refusal: &Refusal, passes: bool) {
        let (request_id, principal) = (self.request_id.as_ref(), self.principal.as_str());
        let service = self.service.map(|(name, _)| name).unwrap_or_default();
        let Asked { method, target, authority, .. } = self.asked;
        let path = target.split_once('?').map_or(target.as_str(), |(path, _)| path);
        match (refusal, refusal.fix()) {
            (Refusal::Denied(decision), _) => {
                let told = if passes { "would be denied" } else { "denied" };
                tracing::info!(
                    request_id, principal, service, method, path, policies = ?decision.reasons, revision = %decision.revision,
                    degraded = decision.degraded, why = %refusal, "{told}"
                );
            }
            (_, Some(fix)) => tracing::warn!(
                request_id, service, method, path, host = authority, caller = self.asked.principal, why = %refusal, fix, "refused"
            ),
            (_, None) => {
                let told = if passes { "would be refused" } else { "refused" };
                tracing::info!(request_id, principal, service, method, path, error = refusal.code(), why = %refusal, "{told}");
            }
        }
    }
}

/// The request's own id if it is well-formed, else a new one. What Envoy calls the id is a number of its own, which no
/// service gets.
fn request_id(asked: &Asked) -> Cow<'_, str> {
    let is_good =
        |id: &&str| !id.is_empty() && id.len() <= REQUEST_ID_MAX && id.bytes().all(|b| b.is_ascii_graphic());
    let sent = asked.fields.iter().find(|(name, _)| name == REQUEST_ID);
    let sent = sent.and_then(|(_, id)| std::str::from_utf8(id).ok()).filter(is_good);
    sent.map_or_else(|| format!("{:032x}", rand::rng().random::<u128>()).into(), Cow::Borrowed)
}
