//! Connections that the kernel has redirected to this proxy: where they were meant to go, and what may become of them.
//!
//! `Host` names the service, as ever. Where it names none, the address counts that the application meant; what is
//! no service by either lies outside of the mesh, and is passed on only if the configuration says so.
//!
//! Nothing may come back to where it came from. The kernel's rules leave alone what this proxy sends; should they be
//! wrong, what comes back is known by the port that it was sent from ([`Outgoing`]).

mod outgoing;
mod relay;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::applied::Applied;
use crate::endpoints::Service;
use crate::pool::Pool;
use crate::respond::Refusal;
pub(crate) use outgoing::{Leaving, Outgoing};
pub(crate) use relay::http_or_relayed;

/// How long a host outside of the mesh may take for a response's head.
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(60);
/// What hosts outside of the mesh are called in metrics and answers: one name, for there is no end to them.
const OUTSIDE: &str = "outside";

/// What to do with connections that were redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// Where the application may call.
    pub outbound_to: OutboundTo,
    /// The application's ports on loopback, when it has more than one or all are meant as they come: a connection
    /// goes to the one it was meant for; one that was not redirected goes to the first.
    pub ports: Vec<u16>,
}

/// Where an application may call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundTo {
    /// The services of the mesh.
    #[default]
    RegistryOnly,
    /// Whatever is not of the mesh as well, as it is and unprotected.
    AllowAny,
}

/// What a proxy knows of connections that are redirected to it.
#[derive(Debug)]
pub(crate) struct Interception {
    /// Nothing is redirected without.
    outbound_to: Option<OutboundTo>,
    /// The application at each of its ports; empty if it has one address, whatever was meant.
    applications: Vec<(u16, Arc<Service>)>,
    /// Where this proxy listens itself.
    listeners: Vec<SocketAddr>,
    /// What it has open to hosts outside of the mesh.
    outgoing: Outgoing,
}

/// Where a redirected connection was meant to go.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    pub address: SocketAddr,
    /// Whether it is this proxy's own connection to there.
    is_own: bool,
    /// Whoever is there, if that is outside of the mesh. Its connections end with this one.
    outside: OnceLock<Arc<Service>>,
}

impl Interception {
    /// As `config` says, for the application called `instance` behind a proxy that listens at `listeners`.
    pub(crate) fn new(
        config: Option<&Intercept>,
        instance: &str,
        timeout: Duration,
        listeners: Vec<SocketAddr>,
    ) -> Self {
        let ports = config.map(|config| config.ports.as_slice()).unwrap_or_default();
        let application = |port: &u16| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            (*port, Arc::new(Service::application(instance.to_owned(), address.to_string(), timeout)))
        };
        Self {
            outbound_to: config.map(|config| config.outbound_to),
            applications: ports.iter().map(application).collect(),
            listeners,
            outgoing: Outgoing::default(),
        }
    }

    /// Where `stream`, which comes from `caller`, was meant to go, if it was redirected here.
    pub(crate) fn original(&self, stream: &TcpStream, caller: SocketAddr) -> Option<Original> {
        self.outbound_to?;
        let local = canonical(stream.local_addr().ok()?);
        let socket = SockRef::from(stream);
        // The kernel knows none if it tracks no connections.
        let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        let address = canonical(original.ok()?.as_socket()?);
        let is_own = self.outgoing.has(caller.port());
        (address != local).then(|| Original { address, is_own, outside: OnceLock::new() })
    }

    /// The application that a caller from the mesh meant; `otherwise` if there is but one.
    ///
    /// # Errors
    /// When the application has no such port.
    pub(crate) fn application<'a>(
        &'a self,
        original: Option<&Original>,
        otherwise: &'a Arc<Service>,
    ) -> Result<&'a Arc<Service>, Refusal> {
        let (Some(original), false) = (original, self.applications.is_empty()) else { return Ok(otherwise) };
        let meant = original.address.port();
        let application = self.applications.iter().find(|(port, _)| *port == meant);
        application.map(|(_, application)| application).ok_or(Refusal::NoSuchPort(meant))
    }

    /// The service of the mesh whose instance a redirected connection was meant for.
    pub(crate) fn meant<'a>(
        &self,
        original: Option<&Original>,
        applied: &'a Applied,
    ) -> Option<&'a Arc<Service>> {
        service_at(applied, original?.address)
    }

    /// That a redirected connection does not come from this proxy itself, nor leads to it.
    ///
    /// # Errors
    /// If it does.
    pub(crate) fn not_back(&self, original: Option<&Original>) -> Result<(), Refusal> {
        match original.filter(|original| original.is_own || self.is_own(original.address)) {
            Some(original) => Err(Refusal::Loop(original.address)),
            None => Ok(()),
        }
    }

    /// Who gets a request whose `host` names no service, and what that is called.
    ///
    /// # Errors
    /// When nobody does.
    pub(crate) fn elsewhere<'a>(
        &self,
        original: Option<&Original>,
        applied: &'a Applied,
        host: &str,
    ) -> Result<(&'a str, Arc<Service>), Refusal> {
        if applied.services.is_empty() {
            return Err(Refusal::NoConfig);
        }
        let nowhere = || Refusal::NoSuchService(host.to_owned());
        let original = original.ok_or_else(nowhere)?;
        self.not_back(Some(original))?;
        if let Some(service) = service_at(applied, original.address) {
            return Ok((&service.name, Arc::clone(service)));
        }
        if self.outbound_to != Some(OutboundTo::AllowAny) {
            return Err(nowhere());
        }
        let outside = original.outside.get_or_init(|| {
            let pool = Pool::to_outside(original.address, self.outgoing.clone());
            let address = original.address.to_string();
            Arc::new(Service::alone(OUTSIDE, OUTSIDE.to_owned(), address, OUTSIDE_TIMEOUT, pool))
        });
        Ok((OUTSIDE, Arc::clone(outside)))
    }

    /// Closes connections to the application that were idle for too long at `now`.
    pub(crate) fn sweep(&self, now: Instant) {
        self.applications.iter().for_each(|(_, application)| application.sweep(now));
    }

    /// Whether `address` is one of this proxy's own listeners.
    fn is_own(&self, address: SocketAddr) -> bool {
        is_one_of(&self.listeners, address, is_of_this_host)
    }
}

fn is_one_of(listeners: &[SocketAddr], address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
    listeners.iter().any(|listener| {
        listener.port() == address.port()
            && (listener.ip() == address.ip() || listener.ip().is_unspecified() && is_local(address.ip()))
    })
}

/// Whether this host has the address: only then can a socket be bound to it.
fn is_of_this_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The service that has an instance at `address`.
fn service_at(applied: &Applied, address: SocketAddr) -> Option<&Arc<Service>> {
    let services = applied.config.mesh.services.iter();
    let mut has_it = services.filter(|service| service.endpoints.iter().any(|end| end.address == address));
    applied.services.get(&has_it.next()?.name)
}

/// An IPv4 address is one, though it came through a socket for IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
