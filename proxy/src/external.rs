//! Servers outside of the mesh that the bundle names: found by DNS, and known by their public names.
//!
//! A name is resolved again every half minute, when a connection is needed. While that fails the addresses found last
//! are used: a server does not move because nobody can be asked where it is.

mod roots;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::config::{self, Protocol};
use daemon::Clock;
use identity::public::{self, RootsError};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use roots::Secured;
pub(crate) use roots::SystemRoots;

/// For how long a name's addresses are used before it is resolved again.
const RESOLVED_FOR: Duration = Duration::from_secs(30);
/// How long that may take while there are addresses from before.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most addresses of a name that are used.
const ADDRESSES_MAX: usize = 64;

/// One server, or several under one name.
#[derive(Debug)]
pub(crate) struct External {
    host: String,
    port: u16,
    name: ServerName<'static>,
    believed: Believed,
    found: Mutex<Found>,
}

/// Who vouches for a server.
#[derive(Debug)]
enum Believed {
    /// The authorities that the bundle names.
    By(Secured),
    /// Those of this host's system.
    BySystem(Arc<SystemRoots>),
}

/// Where it was found last.
#[derive(Debug, Default)]
struct Found {
    addresses: Vec<SocketAddr>,
    /// When it was asked.
    asked: Option<Instant>,
    /// Which address comes first.
    turn: usize,
}

/// A server can't be called as the configuration has it.
#[derive(Debug, thiserror::Error)]
#[error("the service `{service}` can't be called: {why}")]
pub(crate) struct ExternalError {
    service: String,
    why: String,
}

/// The servers outside of the mesh among `services`, by the name of the service.
///
/// # Errors
/// When a name or a root can't be used.
pub(crate) async fn of(
    services: &[config::Service],
    of_system: &Arc<SystemRoots>,
    clock: &Clock,
) -> Result<HashMap<String, Arc<External>>, ExternalError> {
    let outside = || services.iter().filter_map(|service| Some((service, service.external.as_ref()?)));
    if outside().any(|(_, external)| external.roots.is_none()) {
        // Now, so that the first request need not wait for it, and the log tells early that there are none.
        of_system.secured(Instant::now()).await;
    }
    let made = outside().map(|(service, external)| {
        let made = External::new(external, of_system, clock);
        let made = made.map_err(|why| ExternalError { service: service.name.clone(), why })?;
        Ok((service.name.clone(), Arc::new(made)))
    });
    made.collect()
}

impl External {
    fn new(config: &config::External, of_system: &Arc<SystemRoots>, clock: &Clock) -> Result<Self, String> {
        let believed = match &config.roots {
            Some(pem) => {
                let roots = public::roots(pem.as_bytes()).map_err(|error: RootsError| error.to_string())?;
                Believed::By(Secured::by(roots, clock))
            }
            None => Believed::BySystem(Arc::clone(of_system)),
        };
        let name = ServerName::try_from(config.name.clone());
        let name = name.map_err(|_error| format!("`{}` is no name of a server", config.name))?;
        Ok(Self { host: config.host.clone(), port: config.port, name, believed, found: Mutex::default() })
    }

    /// A new connection, on which this protocol is spoken.
    pub(crate) async fn connect(&self, protocol: Protocol) -> io::Result<TlsStream<TcpStream>> {
        let lookup = async {
            Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.take(ADDRESSES_MAX).collect())
        };
        let addresses = self.resolve(Instant::now(), lookup).await?;
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        let Secured { http1, http2, tcp } = match &self.believed {
            Believed::By(secured) => secured.clone(),
            Believed::BySystem(roots) => roots.secured(Instant::now()).await,
        };
        let tls = match protocol {
            Protocol::Http1 => http1,
            Protocol::Http2 => http2,
            Protocol::Tcp => tcp,
        };
        let stream = TlsConnector::from(tls).connect(self.name.clone(), stream).await?;
        // A server that knows nothing of ALPN speaks HTTP/1.1.
        match stream.get_ref().1.alpn_protocol() {
            None if protocol == Protocol::Http2 => Err(io::Error::other("the server does not speak HTTP/2")),
            _ => Ok(stream),
        }
    }

    /// Where it is, by `lookup` if it is time to ask again at `now`; another address first each time.
    async fn resolve(
        &self,
        now: Instant,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Vec<SocketAddr>> {
        let is_known = {
            let found = self.found();
            let is_due = found.asked.is_none_or(|asked| now.duration_since(asked) >= RESOLVED_FOR);
            if !is_due && !found.addresses.is_empty() {
                drop(found);
                return Ok(self.in_turn());
            }
            !found.addresses.is_empty()
        };
        let looked = if is_known {
            tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await.unwrap_or_else(|late| Err(late.into()))
        } else {
            lookup.await
        };
        let looked = match looked {
            Ok(none) if none.is_empty() => Err(io::Error::other("the name has no address")),
            looked => looked,
        };
        let mut found = self.found();
        found.asked = Some(now);
        match looked {
            Ok(addresses) => found.addresses = addresses,
            Err(error) if found.addresses.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(host = self.host, %error, "a name can't be resolved; its addresses from before are used");
            }
        }
        drop(found);
        Ok(self.in_turn())
    }

    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut found = self.found();
        found.turn = found.turn.wrapping_add(1);
        let mut addresses = found.addresses.clone();
        let first = found.turn.checked_rem(addresses.len()).unwrap_or_default();
        addresses.rotate_left(first);
        addresses
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external() -> External {
        let config = config::External {
            host: "api.example".into(),
            port: 443,
            name: "api.example".into(),
            roots: None,
        };
        let roots = Arc::new(SystemRoots::new(Clock::system()));
        External::new(&config, &roots, &Clock::system()).unwrap()
    }

    #[tokio::test]
    async fn a_name_is_resolved_again_and_keeps_its_addresses_while_that_fails() {
        let (external, start) = (external(), Instant::now());
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (one, two) = (at("10.0.0.1:443"), at("10.0.0.2:443"));
        let fails = async || Err(io::Error::other("no answer"));
        assert!(external.resolve(start, fails()).await.is_err(), "nothing is known yet");
        let finds = |addresses: Vec<SocketAddr>| async move { Ok(addresses) };
        assert_eq!(external.resolve(start, finds(vec![one])).await.unwrap(), [one]);
        let soon = start + RESOLVED_FOR / 2;
        assert_eq!(external.resolve(soon, finds(vec![two])).await.unwrap(), [one], "it is not asked so soon");
        let later = start + RESOLVED_FOR;
        assert_eq!(external.resolve(later, fails()).await.unwrap(), [one]);
        assert_eq!(external.resolve(later + RESOLVED_FOR, finds(vec![])).await.unwrap(), [one]);
        let last = later + 2 * RESOLVED_FOR;
        let first = external.resolve(last, finds(vec![one, two])).await.unwrap();
        let next = external.resolve(last, finds(vec![])).await.unwrap();
        assert_eq!((first[0], first[1]), (next[1], next[0]), "each comes first in its turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_takes_too_long_is_not_waited_for_where_addresses_are_known() {
        let (external, start) = (external(), Instant::now());
        let one: SocketAddr = "10.0.0.1:443".parse().unwrap();
        external.resolve(start, async { Ok(vec![one]) }).await.unwrap();
        let later = start + RESOLVED_FOR;
        assert_eq!(external.resolve(later, std::future::pending()).await.unwrap(), [one]);
        assert_eq!(start.elapsed(), RESOLVE_TIMEOUT);
    }
}
