//! What policyd said last, made ready for use: replaced whole, never edited.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adapters::Environment;
use api::config::{self, Config, Enforced, Enforcement, Mtls};
use arc_swap::ArcSwap;
use daemon::Clock;
use identity::Source;
use jiff::Timestamp;
use model::{AtomSet, Keys, Operations, Revision, operation};
use tokio::sync::watch;

use crate::egress::Egress;
use crate::endpoints::Service;
use crate::exchange::Direction;
use crate::external::{self, ExternalError, SystemRoots};
use crate::jwt::{self, Jwt};
use crate::limits::{LimitError, Limits};
use crate::pool::Pool;
use crate::report::{ReportError, Reports};
use model::path::Slashes;

/// How long a request waits for a configuration that it knows to be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// One configuration, in use.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// As it came.
    pub config: Config,
    /// How requests to this proxy's own service are decided on; nothing before policyd has said it.
    pub enforced: Option<Enforced>,
    /// Every service of the mesh, by name.
    pub services: HashMap<String, Arc<Service>>,
    /// The limits that decisions may name.
    pub limits: Limits,
    /// The report rules that decisions may name.
    pub reports: Reports,
    /// Who end users are.
    pub jwt: Jwt,
    /// What this proxy's own service can be asked to do.
    pub operations: Operations,
    /// Makes the keys of requests to this proxy's own service; see [`Applied::keys`].
    pub made_keys: OnceLock<Arc<Keys>>,
}

/// Why a configuration can't be applied. The one before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// A limit can't be enforced.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A report handler can't be built.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A service outside of the mesh can't be called.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// Two operations can't be told apart.
    #[error(transparent)]
    Operations(#[from] operation::Conflict),
}

/// The configuration in use, the floor, and when policyd last stood by both. Clones are the same. Reading them locks nothing.
#[derive(Clone, Debug)]
pub(crate) struct Current(Arc<State>);

#[derive(Debug, Default)]
struct State {
    applied: ArcSwap<Applied>,
    floor: ArcSwap<Revision>,
    /// When policyd last stood by both, in microseconds since 1970; 0: never.
    heard: AtomicI64,
    /// Told after each change of that.
    hearing: watch::Sender<Option<Timestamp>>,
    /// Told after each change of the configuration.
    changed: watch::Sender<()>,
}

/// Puts configurations to use, one after the other.
#[derive(Debug)]
pub(crate) struct Applier {
    /// What is in use.
    pub current: Current,
    /// What decides on calls that leave the mesh.
    pub egress: Egress,
    /// The service that this proxy enforces for.
    pub own_service: String,
    /// This proxy's certificate, for connections to other sidecars.
    pub source: Source,
    /// The time, for the same.
    pub clock: Clock,
    /// Who vouches for servers outside of the mesh, unless the bundle says it.
    pub system_roots: Arc<SystemRoots>,
    /// What report handlers may use of this process.
    pub environment: Environment,
    /// What keys of end users' tokens are fetched with.
    pub tokens: jwt::Environment,
}

impl Applier {
    /// Uses `config` from now on, all of it, or nothing of it.
    ///
    /// # Errors
    /// When a part of it can't be used. What was in use stays.
    pub(crate) async fn apply(&self, config: Config) -> Result<(), ApplyError> {
        let previous = self.current.applied();
        let reports = previous.reports.next(&config.policies, &self.environment).await?;
        // Where the mesh is the same, so are its services, and nothing is made anew.
        let is_same = Arc::ptr_eq(&config.mesh, &previous.config.mesh);
        let services = if is_same { &[] } else { config.mesh.services.as_slice() };
        let externals = external::of(services, &self.system_roots, &self.clock).await?;
        let connect = |service: &config::Service, address: SocketAddr| match service.mtls {
            _ if let Some(external) = externals.get(&service.name) => Pool::to_external(Arc::clone(external)),
            Mtls::Strict | Mtls::Permissive => {
                Pool::to_sidecar(address, service.spiffe_ids.clone(), self.source.clone(), self.clock.clone())
            }
            Mtls::Disabled => Pool::in_the_clear(address.to_string()),
        };
        let own = config.policies.services.iter().find(|enforced| enforced.service == self.own_service);
        let jwt = Jwt::after(&previous.jwt, own.map_or(&[], |own| &own.issuers), &self.tokens);
        let next = Applied::after(&previous, config, &self.own_service, reports, jwt, connect)?;
        self.egress.apply(&next, &self.own_service, self.current.last_heard())?;
        self.current.replace(next);
        // Requests that began before may still report to handlers that end here: they drop such reports.
        previous.reports.close_all_but(&self.current.applied().reports).await;
        Ok(())
    }
}

impl Applied {
    /// What becomes of repeated slashes in a path that comes this way: the callee's sidecar merges them, and no caller's.
    pub(crate) fn slashes(&self, direction: Direction) -> Slashes {
        let merges = self.enforced.as_ref().is_some_and(|enforced| enforced.merge_slashes);
        if merges && direction != Direction::Outbound { Slashes::Merged } else { Slashes::Kept }
    }

    /// What `config` makes of `previous`; whatever did not change keeps its state.
    pub(crate) fn after(
        previous: &Self,
        config: Config,
        own_service: &str,
        reports: Reports,
        jwt: Jwt,
        connect: impl Fn(&config::Service, SocketAddr) -> Pool,
    ) -> Result<Self, ApplyError> {
        let of_own = config.mesh.services.iter().find(|service| service.name == own_service);
        let instances = of_own.map_or(1, |service| service.endpoints.len());
        let limits = Limits::after(&previous.limits, &config.policies.limits, instances)?;
        let own = config.policies.services.iter().find(|enforced| enforced.service == own_service);
        let enforced = own.cloned();
        let routes = enforced.as_ref().map(|enforced| enforced.routes.clone());
        let operations = Operations::new(routes.unwrap_or_default())?;
        let service = |service: &config::Service| {
            let previous = previous.services.get(&service.name).map(Arc::as_ref);
            let made = Service::from_config(service, previous, |address| connect(service, address));
            (service.name.clone(), Arc::new(made))
        };
        let services = if Arc::ptr_eq(&config.mesh, &previous.config.mesh) {
            previous.services.clone()
        } else {
            config.mesh.services.iter().map(service).collect()
        };
        let made_keys = previous.keys_of(enforced.as_ref().map(|enforced| &enforced.atoms));
        let applied = Self { enforced, jwt, operations, services, limits, reports, config, made_keys };
        // Now, so that no request has to wait for it.
        applied.keys();
        Ok(applied)
    }

    /// What `of` says of calls to a service outside of the mesh, which are decided on as `enforced` says. `previous` is
    /// what was said of them before.
    pub(crate) fn of_gate(previous: &Self, of: &Self, enforced: &Enforced) -> Result<Self, ApplyError> {
        let applied = Self {
            enforced: Some(enforced.clone()),
            operations: Operations::new(enforced.routes.clone())?,
            // Any instance of the mesh may call it.
            limits: Limits::after(&of.limits, &of.config.policies.limits, of.config.mesh.instances())?,
            config: of.config.clone(),
            made_keys: previous.keys_of(Some(&enforced.atoms)),
            ..Self::default()
        };
        applied.keys();
        Ok(applied)
    }

    /// Makes the keys of requests to this proxy's own service.
    pub(crate) fn keys(&self) -> &Keys {
        self.made_keys.get_or_init(|| {
            Arc::new(self.enforced.as_ref().map(|enforced| Keys::new(&enforced.atoms)).unwrap_or_default())
        })
    }

    /// What makes the keys of `atoms`, if these are the atoms already.
    fn keys_of(&self, atoms: Option<&AtomSet>) -> OnceLock<Arc<Keys>> {
        let same = self.enforced.as_ref().map(|enforced| &enforced.atoms) == atoms;
        if same { self.made_keys.clone() } else { OnceLock::new() }
    }
}

impl Current {
    /// Nothing is known yet.
    pub(crate) fn nothing() -> Self {
        Self(Arc::default())
    }

    /// The configuration now.
    pub(crate) fn applied(&self) -> Arc<Applied> {
        self.0.applied.load_full()
    }

    /// The configuration now, to be looked at for a moment: cheaper than [`Current::applied`].
    pub(crate) fn look(&self) -> impl Deref<Target = Arc<Applied>> {
        self.0.applied.load()
    }

    /// What decisions and limits do to requests now. Nothing passes before policyd has said that it may.
    pub(crate) fn enforcement(&self) -> Enforcement {
        self.look().enforced.as_ref().map_or(Enforcement::Enforce, |enforced| enforced.enforcement)
    }

    /// The oldest revision that may still be used.
    pub(crate) fn floor(&self) -> Revision {
        **self.0.floor.load()
    }

    /// Uses `applied` from now on; the revision of its decisions is the floor.
    pub(crate) fn replace(&self, applied: Applied) {
        // The floor first: nobody may meet the new configuration together with the old floor.
        if let Some(enforced) = &applied.enforced {
            self.raise_floor(enforced.revision);
        }
        self.0.applied.store(Arc::new(applied));
        self.0.changed.send_replace(());
    }

    /// Raises the floor to `revision`. Within one life of policyd it never sinks.
    pub(crate) fn raise_floor(&self, revision: Revision) {
        self.0
            .floor
            .rcu(|floor| if floor.reaches(revision) { Arc::clone(floor) } else { Arc::new(revision) });
    }

    /// policyd stood by all it had said at the time `at`.
    pub(crate) fn heard(&self, at: Timestamp) {
        self.0.heard.store(at.as_microsecond(), Ordering::Release);
        self.0.hearing.send_replace(Some(at));
    }

    /// Told after each change of the configuration, and when what is known has become stale, or fresh again.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// What is known has become stale, or fresh again.
    pub(crate) fn aged(&self) {
        self.0.changed.send_replace(());
    }

    /// Every news of [`Current::heard`].
    pub(crate) fn hearing(&self) -> watch::Receiver<Option<Timestamp>> {
        self.0.hearing.subscribe()
    }

    /// Whether policyd has been silent for too long, so that decisions made before must not be used at `now`.
    ///
    /// They must not either if the clock was set back since: it does not tell how much time has passed.
    pub(crate) fn is_stale(&self, applied: &Applied, now: Timestamp) -> bool {
        let (now, heard) = (now.as_microsecond(), self.0.heard.load(Ordering::Acquire));
        let stale_after = i64::try_from(applied.config.policies.stale_after.as_micros()).unwrap_or(i64::MAX);
        now < heard || now >= heard.saturating_add(stale_after)
    }

    /// When what is known gets stale, unless policyd says something.
    pub(crate) fn fresh_until(&self, applied: &Applied) -> Timestamp {
        self.last_heard().checked_add(applied.config.policies.stale_after).unwrap_or(Timestamp::MAX)
    }

    /// When policyd last stood by what it had said.
    pub(crate) fn last_heard(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.heard.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// The configuration now, or one that is `wanted` and comes within a second.
    pub(crate) async fn when(&self, wanted: impl Fn(&Applied) -> bool) -> Arc<Applied> {
        // A timeout leaves nothing better than what there is.
        let _waited = tokio::time::timeout(ON_ITS_WAY, self.until(wanted)).await;
        self.applied()
    }

    /// Resolves once the configuration is `wanted`.
    pub(crate) async fn until(&self, wanted: impl Fn(&Applied) -> bool) {
        let mut changed = self.0.changed.subscribe();
        // Never an error: `self` holds the sender.
        while !wanted(&self.look()) && changed.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_never_sinks_within_an_epoch() {
        let at = |epoch, number| Revision { epoch, number };
        let current = Current::nothing();
        let table = [(at(1, 3), at(1, 3)), (at(1, 2), at(1, 3)), (at(1, 4), at(1, 4)), (at(2, 1), at(2, 1))];
        for (raise, floor) in table {
            current.raise_floor(raise);
            assert_eq!(current.floor(), floor);
        }
    }

    #[test]
    fn what_is_known_gets_stale_and_a_clock_that_was_set_back_proves_nothing() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let (current, applied) = (Current::nothing(), Applied::default());
        assert!(current.is_stale(&applied, second(100)), "nothing was heard yet");
        current.heard(second(100));
        for (now, stale) in [(99, true), (100, false), (109, false), (110, true), (1000, true)] {
            assert_eq!(current.is_stale(&applied, second(now)), stale, "{now}");
        }
    }
}
