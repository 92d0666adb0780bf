//! The sockets that a proxy listens on, bound by itself or taken over from the process before.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use daemon::Admin;

use crate::config::Config;
use crate::exchange::Direction;
use crate::handover::{Predecessor, Role};
use crate::worker;

/// Sockets that are bound but not served yet, so that addresses are known before anything starts.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) sockets: Sockets,
    pub(crate) admin: Admin,
    pub(crate) probes: Option<Admin>,
    /// Who has to be told once they are served.
    pub(crate) predecessor: Option<Predecessor>,
}

#[derive(Debug)]
pub(crate) struct Sockets {
    /// For each worker, and each way in.
    pub of_workers: Vec<Vec<(Entry, TcpListener)>>,
    pub addresses: Addresses,
    /// The services that have a local address, and these.
    pub tcp: Vec<(String, SocketAddr)>,
    /// All of them once more, with the admin port's, for the process that comes after.
    pub again: Vec<(Role, OwnedFd)>,
}

/// Which way in, and the service whose local address it is.
pub(crate) type Entry = (Direction, Option<Arc<str>>);

/// The addresses bound, with their real ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For other sidecars: mutual TLS.
    pub inbound: SocketAddr,
    /// For the application.
    pub outbound: SocketAddr,
    /// For callers from outside the mesh.
    pub ingress: Option<SocketAddr>,
    /// For the probes of an orchestrator.
    pub probes: Option<SocketAddr>,
    /// For operators: `/metrics`, `/healthz`, `/readyz`.
    pub admin: SocketAddr,
}

/// Binds the sockets that `config` asks for, or takes them over from the process that has them.
///
/// # Errors
/// When an address can't be bound; the error names it. When the process before does not give its place.
pub async fn bind(config: &Config) -> io::Result<Listeners> {
    let mut predecessor = None;
    if let Some(path) = &config.hand_over {
        predecessor = Predecessor::ask(path, &config.instance).await.map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, format!("`{}`: the place can't be taken over: {error}", path.display()))
        })?;
    }
    let workers = config.workers.max(1);
    let mut binding = Binding { predecessor: predecessor.as_mut(), workers };
    let inbound = binding.sockets(Role::Inbound, config.inbound)?;
    let outbound = binding.sockets(Role::Outbound, config.outbound)?;
    let ingress = config.ingress.map(|address| binding.sockets(Role::Ingress, address)).transpose()?;
    let at = address_of(&outbound, config.outbound)?;
    let is_redirected = config.intercept.is_some() && at.ip() == Ipv4Addr::LOCALHOST;
    let twin = if is_redirected { binding.v6_loopback(at.port())? } else { Vec::new() };
    let admin = binding.admin(Role::Admin, config.admin).await?;
    let probes = match &config.probes {
        Some(probes) => Some(binding.admin(Role::Probes, probes.listen).await?),
        None => None,
    };
    let addresses = Addresses {
        inbound: address_of(&inbound, config.inbound)?,
        outbound: at,
        ingress: ingress.as_deref().zip(config.ingress).map(|(all, at)| address_of(all, at)).transpose()?,
        probes: probes.as_ref().map(Admin::address),
        admin: admin.address(),
    };
    let mut ways = vec![
        ((Direction::Inbound, None), Role::Inbound, inbound),
        ((Direction::Outbound, None), Role::Outbound, outbound),
        ((Direction::Ingress, None), Role::Ingress, ingress.unwrap_or_default()),
        ((Direction::Outbound, None), Role::Outbound, twin),
    ];
    let mut tcp = Vec::new();
    for local in &config.tcp {
        let sockets = binding.sockets(Role::Outbound, local.listen)?;
        tcp.push((local.service.clone(), address_of(&sockets, local.listen)?));
        ways.push(((Direction::Outbound, Some(local.service.as_str().into())), Role::Outbound, sockets));
    }
    let mut of_workers: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let mut again = Vec::new();
    for (entry, role, sockets) in ways {
        if config.hand_over.is_some() {
            let copies = sockets.iter().map(|socket| Ok((role, socket.try_clone()?.into())));
            again.extend(copies.collect::<io::Result<Vec<_>>>()?);
        }
        deal(&entry, sockets, &mut of_workers)?;
    }
    if config.hand_over.is_some() {
        again.push((Role::Admin, admin.socket()?));
        if let Some(probes) = &probes {
            again.push((Role::Probes, probes.socket()?));
        }
    }
    Ok(Listeners { sockets: Sockets { of_workers, addresses, tcp, again }, admin, probes, predecessor })
}

impl Listeners {
    /// The addresses bound, with their real ports.
    pub const fn addresses(&self) -> Addresses {
        self.sockets.addresses
    }

    /// The services of raw connections that have a local address, and these.
    pub fn tcp(&self) -> &[(String, SocketAddr)] {
        &self.sockets.tcp
    }
}

impl Addresses {
    pub(crate) fn all(self) -> impl Iterator<Item = SocketAddr> {
        [self.inbound, self.outbound, self.admin].into_iter().chain(self.ingress).chain(self.probes)
    }
}

/// Where sockets come from.
struct Binding<'a> {
    predecessor: Option<&'a mut Predecessor>,
    workers: usize,
}

impl Binding<'_> {
    fn taken(&mut self, role: Role, address: SocketAddr) -> Vec<TcpListener> {
        self.predecessor.as_mut().map(|predecessor| predecessor.take(role, address)).unwrap_or_default()
    }

    fn sockets(&mut self, role: Role, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
        match self.taken(role, address) {
            none if none.is_empty() => {
                worker::bind(address, self.workers).map_err(|error| unbound(address, &error))
            }
            taken => Ok(taken),
        }
    }

    /// The kernel redirects IPv6 to `::1`, where nobody listens who was told `127.0.0.1` alone. None without IPv6.
    fn v6_loopback(&mut self, port: u16) -> io::Result<Vec<TcpListener>> {
        match self.sockets(Role::Outbound, SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
            Err(error) if is_without_v6(&error) => Ok(Vec::new()),
            bound => bound,
        }
    }

    async fn admin(&mut self, role: Role, address: SocketAddr) -> io::Result<Admin> {
        match self.taken(role, address).pop() {
            Some(taken) => taken.try_into(),
            None => daemon::admin::bind(address).await.map_err(|error| unbound(address, &error)),
        }
    }
}

/// Deals `sockets` out. None is left over, for callers may wait on each; and whoever gets none shares one.
fn deal(
    entry: &Entry,
    sockets: Vec<TcpListener>,
    of_workers: &mut [Vec<(Entry, TcpListener)>],
) -> io::Result<()> {
    let (workers, count) = (of_workers.len(), sockets.len());
    for (worker, of_worker) in of_workers.iter_mut().enumerate().skip(count) {
        if let Some(shared) = worker.checked_rem(count).and_then(|which| sockets.get(which)) {
            of_worker.push((entry.clone(), shared.try_clone()?));
        }
    }
    for (number, socket) in sockets.into_iter().enumerate() {
        if let Some(of_worker) = of_workers.get_mut(number % workers.max(1)) {
            of_worker.push((entry.clone(), socket));
        }
    }
    Ok(())
}

fn address_of(sockets: &[TcpListener], wanted: SocketAddr) -> io::Result<SocketAddr> {
    sockets.first().map_or(Ok(wanted), TcpListener::local_addr)
}

fn is_without_v6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}

fn unbound(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{address}` can't be bound: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_is_served_and_every_worker_serves() {
        for (sockets, workers, expected) in [
            (2, 2, vec![1, 1]),
            (3, 2, vec![2, 1]),
            (1, 3, vec![1, 1, 1]),
            (2, 3, vec![1, 1, 1]),
            (0, 2, vec![0, 0]),
        ] {
            let bound = (0..sockets).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let mut of_workers: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
            deal(&(Direction::Ingress, None), bound, &mut of_workers).unwrap();
            let counts: Vec<usize> = of_workers.iter().map(Vec::len).collect();
            assert_eq!(counts, expected, "{sockets} sockets for {workers} workers");
        }
    }
}
