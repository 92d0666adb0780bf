//! Who vouches for servers outside of the mesh: the authorities of this host's system.
//!
//! An operator may add one, and the system's updates take some away. So they are read again now and then, when a
//! connection is needed; a connection that is open stays as it is.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::Clock;
use futures_util::future::BoxFuture;
use identity::public;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use crate::pool::{ALPN_HTTP1, ALPN_HTTP2};

/// For how long they are used before they are read again.
const READ_FOR: Duration = Duration::from_secs(300);
/// What an operator can do.
const FIX: &str = "install `ca-certificates`, set `SSL_CERT_FILE`, or name `roots` in mesh.yaml";

/// How connections are secured for which the same authorities vouch.
#[derive(Clone, Debug)]
pub(crate) struct Secured {
    pub http1: Arc<ClientConfig>,
    pub http2: Arc<ClientConfig>,
    /// For raw connections, in which what is spoken has no name.
    pub tcp: Arc<ClientConfig>,
}

/// The system's authorities, as they were read last.
pub(crate) struct SystemRoots {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
    clock: Clock,
    last: Mutex<Option<Last>>,
    /// One reads at a time.
    reading: tokio::sync::Mutex<()>,
}

type Reading = BoxFuture<'static, io::Result<RootCertStore>>;

/// When they were read, and what came of it.
struct Last {
    at: Instant,
    roots: RootCertStore,
    secured: Secured,
}

impl Secured {
    /// Servers are believed by `roots`.
    pub(crate) fn by(roots: RootCertStore, clock: &Clock) -> Self {
        Self {
            http1: public::client_config(roots.clone(), clock.clone(), ALPN_HTTP1),
            http2: public::client_config(roots.clone(), clock.clone(), ALPN_HTTP2),
            tcp: public::client_config(roots, clock.clone(), &[]),
        }
    }
}

impl SystemRoots {
    /// Those of this host.
    pub(crate) fn new(clock: Clock) -> Self {
        Self::read_by(|| Box::pin(of_this_host()), clock)
    }

    fn read_by(read: impl Fn() -> Reading + Send + Sync + 'static, clock: Clock) -> Self {
        Self { read: Box::new(read), clock, last: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// How connections are secured at `now`. Without authorities no server is believed.
    pub(crate) async fn secured(&self, now: Instant) -> Secured {
        if let Some(secured) = self.fresh(now) {
            return secured;
        }
        let _alone = self.reading.lock().await;
        if let Some(secured) = self.fresh(now) {
            return secured;
        }
        let read = (self.read)().await;
        let mut last = self.last();
        let next = match (read, last.take()) {
            (Ok(roots), Some(known)) if roots.roots == known.roots.roots => Last { at: now, ..known },
            (Ok(roots), _) => {
                tracing::info!(authorities = roots.len(), "the system's root certificates were read");
                Last::of(roots, &self.clock, now)
            }
            (Err(error), Some(known)) => {
                tracing::warn!(%error, "the system's root certificates can't be read; those from before are used");
                Last { at: now, ..known }
            }
            (Err(error), None) => {
                tracing::warn!(%error, "no server outside of the mesh is believed: {FIX}");
                Last::of(RootCertStore::empty(), &self.clock, now)
            }
        };
        last.insert(next).secured.clone()
    }

    fn fresh(&self, now: Instant) -> Option<Secured> {
        let last = self.last();
        let fresh = last.as_ref().filter(|last| now.saturating_duration_since(last.at) < READ_FOR);
        fresh.map(|last| last.secured.clone())
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Last {
    fn of(roots: RootCertStore, clock: &Clock, at: Instant) -> Self {
        Self { at, secured: Secured::by(roots.clone(), clock), roots }
    }
}

impl std::fmt::Debug for SystemRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemRoots").finish_non_exhaustive()
    }
}

/// An error if there are none.
async fn of_this_host() -> io::Result<RootCertStore> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(io::Error::other(why));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn authority() -> RootCertStore {
        let certificate = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        roots
    }

    /// What each reading finds, and how often it was read.
    fn system(found: Vec<Option<RootCertStore>>) -> (SystemRoots, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let read = move || -> Reading {
            let found = found[counted.fetch_add(1, Ordering::Relaxed)].clone();
            Box::pin(async { found.ok_or_else(|| io::Error::other("no such file")) })
        };
        (SystemRoots::read_by(read, Clock::system()), count)
    }

    #[tokio::test]
    async fn they_are_read_again_after_a_while_and_kept_while_that_fails() {
        let (first, second) = (authority(), authority());
        let (roots, count) =
            system(vec![Some(first.clone()), Some(first), None, Some(second.clone()), Some(second)]);
        let start = Instant::now();
        let mut before = roots.secured(start).await;
        for (periods, reads, is_same) in
            [(0, 1, true), (1, 2, true), (2, 3, true), (3, 4, false), (4, 5, true)]
        {
            for _ in 0..2 {
                let now = roots.secured(start + periods * READ_FOR + READ_FOR / 2).await;
                let at = roots.secured(start + periods * READ_FOR).await;
                assert!(Arc::ptr_eq(&at.http1, &now.http1), "{periods}");
                assert_eq!(Arc::ptr_eq(&before.tcp, &now.tcp), is_same, "{periods}");
            }
            before = roots.secured(start + periods * READ_FOR).await;
            assert_eq!(count.load(Ordering::Relaxed), reads, "{periods}");
        }
    }

    #[tokio::test]
    async fn without_any_nobody_is_believed_until_there_are_some() {
        let (roots, _) = system(vec![None, Some(authority())]);
        let start = Instant::now();
        let none = roots.secured(start).await;
        let some = roots.secured(start + READ_FOR).await;
        assert!(!Arc::ptr_eq(&none.http2, &some.http2));
    }
}
