//! Which instance of a service gets the next request.
//!
//! Round robin over those that are well. One that can't be reached is left out for a while, twice as long
//! each time; when none is well, the one left out longest ago is tried anyway, for a guess is better than a
//! refusal.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::config::{self, Mtls, Protocol};
use model::SpiffeId;
use tokio::time::Instant;

use crate::pool::Pool;

/// How long an endpoint is left out after its first failure.
const EJECTION_MIN: Duration = Duration::from_secs(1);
/// The longest it is left out.
const EJECTION_MAX: Duration = Duration::from_secs(30);

/// A service as callers see it.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its name.
    pub name: String,
    /// How long a response's head may take, connects and retries included.
    pub timeout: Duration,
    /// What its applications speak.
    pub protocol: Protocol,
    /// What its sidecars take of others.
    pub mtls: Mtls,
    /// How long a raw connection to it, or a tunnel, may be silent.
    pub idle_timeout: Duration,
    /// Where it is, if it is outside of the mesh.
    pub external: Option<config::External>,
    /// The identities that its instances may have; none are asked of an application.
    spiffe_ids: Vec<SpiffeId>,
    /// Its instances.
    endpoints: Vec<Arc<Endpoint>>,
    /// Whose turn it is. Outlives changes of the configuration, and is one for all connections.
    turn: Arc<AtomicUsize>,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The instance's name.
    pub instance: String,
    /// Where it listens.
    pub address: String,
    /// The version of the service that it runs; may be empty.
    version: String,
    /// Connections to it.
    pub pool: Arc<Pool>,
    health: Mutex<Health>,
    /// Whether its health has anything to tell, so that nobody has to wait to read that it has not.
    has_failed: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    ejected: Option<Ejected>,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    at: Instant,
    until: Instant,
}

impl Service {
    /// The application behind this proxy: a service with one instance.
    pub(crate) fn application(instance: String, address: String, timeout: Duration) -> Self {
        let pool = Pool::in_the_clear(address.clone());
        Self::alone("application", instance, address, timeout, pool)
    }

    /// A service with one instance, of which no identity is asked.
    pub(crate) fn alone(
        name: &str,
        instance: String,
        address: String,
        timeout: Duration,
        pool: Pool,
    ) -> Self {
        let pool = Arc::new(pool);
        let endpoint = Endpoint {
            instance,
            address,
            version: String::new(),
            pool,
            health: Mutex::default(),
            has_failed: AtomicBool::new(false),
        };
        Self {
            name: name.to_owned(),
            timeout,
            protocol: Protocol::Http1,
            mtls: Mtls::default(),
            idle_timeout: config::IDLE_TIMEOUT,
            external: None,
            spiffe_ids: Vec::new(),
            endpoints: vec![Arc::new(endpoint)],
            turn: Arc::default(),
        }
    }

    /// The service of `config`. What `previous`, its state so far, knows of endpoints that stay is kept, unless
    /// the identities they may have changed, or how they are spoken to: connections were made as it was before.
    pub(crate) fn from_config(
        config: &config::Service,
        previous: Option<&Self>,
        connect: impl Fn(SocketAddr) -> Pool,
    ) -> Self {
        let is_secured = |mtls| mtls != Mtls::Disabled;
        let same = previous.filter(|previous| {
            previous.spiffe_ids == config.spiffe_ids
                && previous.external == config.external
                && is_secured(previous.mtls) == is_secured(config.mtls)
        });
        let endpoint = |endpoint: &config::Endpoint| {
            let address = endpoint.address.to_string();
            let is_same = |old: &&Arc<Endpoint>| {
                old.instance == endpoint.instance && old.version == endpoint.version && old.address == address
            };
            if let Some(kept) = same.and_then(|previous| previous.endpoints.iter().find(is_same)) {
                return Arc::clone(kept);
            }
            Arc::new(Endpoint {
                instance: endpoint.instance.clone(),
                address,
                version: endpoint.version.clone(),
                pool: Arc::new(connect(endpoint.address)),
                health: Mutex::default(),
                has_failed: AtomicBool::new(false),
            })
        };
        let endpoints = match &config.external {
            None => config.endpoints.iter().map(endpoint).collect(),
            Some(external) => vec![match same.and_then(|previous| previous.endpoints.first()) {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Endpoint {
                    instance: config.name.clone(),
                    address: format!("{}:{}", external.host, external.port),
                    version: String::new(),
                    // Its name is resolved with each connection.
                    pool: Arc::new(connect(SocketAddr::from(([0, 0, 0, 0], external.port)))),
                    health: Mutex::default(),
                    has_failed: AtomicBool::new(false),
                }),
            }],
        };
        Self {
            name: config.name.clone(),
            timeout: config.timeout,
            protocol: config.protocol,
            mtls: config.mtls,
            idle_timeout: config.idle_timeout,
            external: config.external.clone(),
            spiffe_ids: config.spiffe_ids.clone(),
            endpoints,
            turn: previous.map(|service| Arc::clone(&service.turn)).unwrap_or_default(),
        }
    }

    /// Closes connections that were idle for too long at `now`.
    pub(crate) fn sweep(&self, now: Instant) {
        self.endpoints.iter().for_each(|endpoint| endpoint.pool.sweep(now));
    }

    /// The port of an application; 0 if its address has none.
    pub(crate) fn port(&self) -> u16 {
        let address = self.endpoints.first().map(|endpoint| endpoint.address.as_str()).unwrap_or_default();
        address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default()
    }

    /// A request takes its turn.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The endpoint that the request with this `turn` should try at `now`, after those it has `tried`.
    ///
    /// Those that are well come first, each request starting with the next; then the one left out longest ago.
    pub(crate) fn pick(&self, turn: usize, tried: &[Arc<Endpoint>], now: Instant) -> Option<&Arc<Endpoint>> {
        let is_well = |endpoint: &&Arc<Endpoint>| endpoint.ejected(now).is_none();
        let is_new = |endpoint: &&Arc<Endpoint>| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
        let well = || self.endpoints.iter().filter(is_well);
        let start = turn.checked_rem(well().count()).unwrap_or_default();
        let in_turn = well().skip(start).chain(well().take(start));
        in_turn.into_iter().find(is_new).or_else(|| {
            let left = self.endpoints.iter().filter(is_new);
            left.min_by_key(|endpoint| endpoint.ejected(now).map(|ejected| ejected.at))
        })
    }
}

impl Endpoint {
    /// It could not be reached: it is left out from `now`. False when it already was.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        // Requests that were on their way together count as one failure.
        if health.ejected.is_some_and(|ejected| now < ejected.until) {
            return false;
        }
        let backoff = EJECTION_MIN.saturating_mul(1 << health.failures.min(10)).min(EJECTION_MAX);
        health.failures = health.failures.saturating_add(1);
        health.ejected = Some(Ejected { at: now, until: now + backoff });
        self.has_failed.store(true, Ordering::Relaxed);
        true
    }

    /// It was reached.
    pub(crate) fn succeeded(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.failures > 0 {
            *health = Health::default();
            self.has_failed.store(false, Ordering::Relaxed);
        }
    }

    /// Since when, and until when, it is left out at `now`.
    fn ejected(&self, now: Instant) -> Option<Ejected> {
        if !self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let health = *self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.ejected.filter(|ejected| now < ejected.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(instances: &[&str], account: &str) -> config::Service {
        let endpoint = |instance: &&str| config::Endpoint {
            instance: (*instance).to_owned(),
            version: String::new(),
            address: "127.0.0.1:1".parse().unwrap(),
        };
        config::Service {
            name: "reviews".into(),
            spiffe_ids: vec![format!("spiffe://a/ns/b/sa/{account}").parse().unwrap()],
            endpoints: instances.iter().map(endpoint).collect(),
            timeout: Duration::from_secs(1),
            protocol: Protocol::Http1,
            mtls: Mtls::Strict,
            idle_timeout: config::IDLE_TIMEOUT,
            external: None,
        }
    }

    fn service(config: &config::Service, previous: Option<&Service>) -> Service {
        Service::from_config(config, previous, |address| Pool::in_the_clear(address.to_string()))
    }

    /// The instances that one request would try.
    fn order(service: &Service, now: Instant) -> String {
        let (turn, mut tried) = (service.turn(), Vec::new());
        while let Some(endpoint) = service.pick(turn, &tried, now) {
            tried.push(Arc::clone(endpoint));
        }
        tried.iter().map(|endpoint| endpoint.instance.as_str()).collect()
    }

    #[tokio::test]
    async fn each_request_starts_with_the_next_endpoint() {
        let now = Instant::now();
        let one = config(&["1", "2", "3"], "x");
        let first = service(&one, None);
        assert_eq!(
            [order(&first, now), order(&first, now), order(&first, now), order(&first, now)],
            ["123", "231", "312", "123"]
        );
        let second = service(&one, Some(&first));
        assert_eq!(order(&second, now), "231", "a new configuration does not start over");
        assert_eq!(order(&service(&config(&[], "x"), None), now), "");
    }

    #[tokio::test]
    async fn the_sick_come_last_and_recover_with_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let service = service(&config(&["1", "2"], "x"), None);
        let (one, two) = (Arc::clone(&service.endpoints[0]), Arc::clone(&service.endpoints[1]));
        assert_eq!((two.failed(now), two.failed(now)), (true, false));
        assert_eq!([order(&service, now), order(&service, now)], ["12", "12"]);
        assert!(one.failed(now + second / 2));
        assert_eq!(order(&service, now + second / 2), "21", "the one left out longest ago");
        assert_eq!(order(&service, now + second), "21", "two is back, one is not");
        assert!(two.failed(now + second));
        assert_eq!(order(&service, now + 2 * second), "12", "the second time takes twice as long");
        two.succeeded();
        assert_eq!([order(&service, now + 2 * second), order(&service, now + 2 * second)], ["21", "12"]);
        for failure in 1..40u32 {
            assert!(one.failed(now + failure * 2 * EJECTION_MAX));
        }
        let last = now + 39 * 2 * EJECTION_MAX;
        assert_eq!(one.ejected(last).unwrap().until, last + EJECTION_MAX);
    }

    #[tokio::test]
    async fn connections_are_kept_only_under_the_same_identities() {
        let old = config(&["1", "2"], "x");
        let first = service(&old, None);
        let kept = |config: &config::Service| {
            let next = service(config, Some(&first));
            next.endpoints
                .iter()
                .map(|new| first.endpoints.iter().any(|old| Arc::ptr_eq(&old.pool, &new.pool)))
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&config(&["2", "3"], "x")), [true, false]);
        assert_eq!(kept(&config(&["1", "2"], "y")), [false, false]);
        for (mtls, same) in [(Mtls::Permissive, true), (Mtls::Disabled, false)] {
            assert_eq!(kept(&config::Service { mtls, ..config(&["1"], "x") }), [same]);
        }
    }
}
