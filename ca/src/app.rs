//! Puts the CA together.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use daemon::{Clock, Lifecycle, Metrics, Readiness, admin, state_dir};
use identity::{Identity, Source, Svid, TrustBundle, schedule};
use jiff::Timestamp;
use model::SpiffeId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;

use crate::authority::Authority;
use crate::config::Config;
use crate::csr::PublicKey;
use crate::ledger::Ledger;
use crate::metrics::{CaMetrics, KindLabel};
use crate::registry::{Limits, Registry};
use crate::server::Service;
use crate::token::TokenError;

/// A CA that serves.
#[derive(Debug)]
pub struct Bound {
    /// Where Attest and Renew are served.
    pub address: SocketAddr,
    /// Where metrics and health are served.
    pub admin_address: SocketAddr,
    /// The SPIFFE ID that it serves with.
    pub ca_id: SpiffeId,
    /// What its workloads are to trust.
    pub trust_bundle: TrustBundle,
    /// Its life.
    pub lifecycle: Lifecycle,
    registry: Arc<Registry>,
    clock: Clock,
    /// Holds the lock on the state folder, until everything has ended.
    lock: Mutex<Option<File>>,
}

/// Starts a CA.
///
/// # Errors
/// When its state folder is unusable or another CA's, or an address can't be bound.
pub async fn build(config: Config, clock: Clock) -> anyhow::Result<Bound> {
    let now = clock.now();
    let ca_id = identity::ca_id(&config.trust_domain)?;
    let unusable = || format!("the state folder `{}` can't be used", config.state_dir.display());
    state_dir::make(&config.state_dir).with_context(unusable)?;
    // Two CAs on one folder would replace each other's issuing authority.
    let lock = state_dir::lock(&config.state_dir, "CA")?;
    let authority = Authority::open(&config.state_dir, &config.trust_domain, config.issuing_ca_ttl, now)?;
    let trust_bundle = authority.bundle()?;
    state_dir::write_whole(&config.bundle_path(), trust_bundle.to_pem().as_bytes()).with_context(unusable)?;
    let ledger = Ledger::open(&config.ledger_path())?;
    let limits = Limits {
        certificate_ttl: config.certificate_ttl,
        expired_grace: config.expired_grace,
        issuing_ca_ttl: config.issuing_ca_ttl,
    };
    let registry = Arc::new(Registry::new(ledger, authority, limits, now)?);
    let own = own_identity(&registry, &ca_id, None, now)?;

    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("can't listen on `{}`", config.listen))?;
    let address = listener.local_addr()?;
    let admin = admin::bind(config.admin).await;
    let admin = admin.with_context(|| format!("can't listen on `{}`", config.admin))?;
    let admin_address = admin.address();

    let lifecycle = Lifecycle::new();
    let registered = Metrics::new();
    let metrics = Arc::new(CaMetrics::new(&registered));
    metrics.show_authority(&registry.authority());
    let source = Source::fixed(own);
    let service = Service::new(Arc::clone(&registry), Arc::clone(&metrics), clock.clone());
    service.serve(listener.try_into()?, &source, config.expired_grace, &lifecycle);
    admin.serve(render(registered, &metrics, &registry, &clock), Readiness::new(), &lifecycle);
    let upkeep = Upkeep { config, ca_id: ca_id.clone(), registry: Arc::clone(&registry), metrics, source };
    let renew_at = upkeep.own_due(now);
    lifecycle.spawn(upkeep.run(renew_at, clock.clone(), lifecycle.clone()));
    tracing::info!(%address, admin = %admin_address, id = %ca_id, "the CA serves");
    Ok(Bound {
        address,
        admin_address,
        ca_id,
        trust_bundle,
        lifecycle,
        registry,
        clock,
        lock: Mutex::new(Some(lock)),
    })
}

impl Bound {
    /// Makes a join token with which a process, called `instance`, can become `id`, once, within `ttl`.
    ///
    /// # Errors
    /// When the ID is not of this trust domain, name or time are out of range, or the ledger can't be
    /// written.
    pub fn join_token(&self, id: &SpiffeId, instance: &str, ttl: Duration) -> Result<String, TokenError> {
        self.registry.create_token(id, instance, ttl, self.clock.now())
    }

    /// Stops, and waits for calls in flight, but no longer than `patience`. False when some were cut off.
    pub async fn drain(&self, patience: Duration) -> bool {
        let drained = self.lifecycle.drain(patience).await;
        if drained {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        drained
    }
}

fn render(
    registered: Metrics,
    metrics: &Arc<CaMetrics>,
    registry: &Arc<Registry>,
    clock: &Clock,
) -> admin::RenderMetrics {
    let (metrics, registry, clock) = (Arc::clone(metrics), Arc::clone(registry), clock.clone());
    Arc::new(move || {
        // Counted when asked, because `tidegate ca token` makes tokens too.
        match registry.tokens_outstanding(clock.now()) {
            Ok(count) => drop(metrics.tokens.set(i64::try_from(count).unwrap_or(i64::MAX))),
            Err(error) => tracing::warn!(%error, "can't count join tokens"),
        }
        registered.render()
    })
}

/// A new key and certificate for the CA to serve with.
fn own_identity(
    registry: &Registry,
    ca_id: &SpiffeId,
    renews: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<Identity> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let answer = registry.issue_own(&PublicKey::of_own(&key)?, ca_id, renews, now)?;
    let private_key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    Ok(Identity { svid: Svid::new(answer.chain, &private_key)?, bundle: registry.authority().bundle()? })
}

/// Replaces the issuing authority, and renews the certificate that the CA serves with, when they are due.
struct Upkeep {
    config: Config,
    ca_id: SpiffeId,
    registry: Arc<Registry>,
    metrics: Arc<CaMetrics>,
    source: Source,
}

impl Upkeep {
    async fn run(self, mut renew_at: Timestamp, clock: Clock, lifecycle: Lifecycle) {
        let mut failures = 0;
        loop {
            let wait = if failures == 0 {
                let next = renew_at.min(self.registry.authority().replace_at());
                // Never none at all: near the root's end, lives get too short to have a half.
                schedule::life(clock.now(), next).max(schedule::RETRY_MIN)
            } else {
                schedule::backoff(failures, schedule::retry_cap(self.config.certificate_ttl), "upkeep")
            };
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = clock.sleep(wait) => {}
            }
            let now = clock.now();
            match self.tend(renew_at, now) {
                Ok(renewed) => {
                    failures = 0;
                    if renewed {
                        renew_at = self.own_due(now);
                    }
                }
                Err(error) => {
                    failures += 1;
                    tracing::error!(error = format!("{error:#}"), "can't renew the CA's own certificates");
                }
            }
        }
    }

    /// Says whether the certificate to serve with was renewed. The authority comes first: an ended one can't
    /// sign.
    fn tend(&self, renew_at: Timestamp, now: Timestamp) -> anyhow::Result<bool> {
        if now >= self.registry.authority().replace_at() {
            let Config { state_dir, trust_domain, issuing_ca_ttl, .. } = &self.config;
            let authority = Authority::open(state_dir, trust_domain, *issuing_ca_ttl, now)?;
            tracing::info!(serial = authority.issuing().serial(), "replaced the issuing authority");
            self.registry.replace_authority(authority, now)?;
            self.metrics.show_authority(&self.registry.authority());
        }
        if now < renew_at {
            return Ok(false);
        }
        let current = self.source.current();
        let next = own_identity(&self.registry, &self.ca_id, Some(&current.svid.serial), now)?;
        self.metrics.issued.get_or_create(&KindLabel { kind: "own" }).inc();
        self.source.replace(next);
        Ok(true)
    }

    fn own_due(&self, issued_at: Timestamp) -> Timestamp {
        let current = self.source.current();
        schedule::due(issued_at, current.svid.not_after, &current.svid.serial)
    }
}

#[cfg(test)]
mod tests;
