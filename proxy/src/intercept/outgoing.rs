//! What this process has open to hosts outside of the mesh, so that it knows its own connections if they come back.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpSocket, TcpStream};

/// The ports of such connections. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing(Arc<Mutex<HashSet<u16>>>);

/// The port of one, until it is dropped.
#[derive(Debug)]
pub(crate) struct Leaving {
    port: u16,
    outgoing: Outgoing,
}

impl Outgoing {
    /// Connects from a port that is noted before anyone can see it.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<(TcpStream, Leaving)> {
        let (socket, any) = if to.is_ipv4() {
            (TcpSocket::new_v4()?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
        } else {
            (TcpSocket::new_v6()?, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        };
        socket.bind(any)?;
        let port = socket.local_addr()?.port();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        let leaving = Leaving { port, outgoing: self.clone() };
        Ok((socket.connect(to).await?, leaving))
    }

    /// Whether a connection from `port` is one of these.
    pub(super) fn has(&self, port: u16) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.outgoing.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.port);
    }
}
