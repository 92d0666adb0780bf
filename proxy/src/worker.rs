//! Threads that serve connections, each by itself.
//!
//! A connection stays with the thread that accepted it, and so do the connections to upstreams that it uses: nothing
//! on a request's way is shared between cores but what all of them only read. The kernel deals new connections out.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use daemon::Lifecycle;
use tokio::net::TcpSocket;
use tokio::runtime;

use crate::listener::Listener;
use crate::request::Proxy;

/// The most threads.
pub(crate) const WORKERS_MAX: u64 = 64;
/// How many callers may wait to be accepted, for each thread and address.
const BACKLOG: u32 = 1024;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// The number of the worker that runs this; 0 elsewhere.
pub(crate) fn number() -> usize {
    NUMBER.get()
}

/// Sockets for as many `workers`, at least one, that all listen at `address`.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // First by one socket alone: sockets that share would hide that another process has the address.
    let first = listen(address, false)?;
    if workers <= 1 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..workers).map(|_| listen(address, true)).collect()
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Serves `listeners` on a thread of their own, until the proxy stops and the last of their connections has ended.
pub(crate) fn start(
    number: usize,
    listeners: Vec<Listener>,
    proxy: Arc<Proxy>,
    lifecycle: Lifecycle,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        NUMBER.set(number);
        runtime.block_on(async {
            let serving = listeners.into_iter().map(|listener| {
                lifecycle.spawn(listener.serve_until_stopped(Arc::clone(&proxy), lifecycle.clone()))
            });
            for serving in serving.collect::<Vec<_>>() {
                // A panic there was told of by the panic itself.
                let _ended = serving.await;
            }
        });
    };
    thread::Builder::new().name(format!("worker-{number}")).spawn(serve).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_share_an_address_that_nobody_else_has() {
        let any = "127.0.0.1:0".parse().unwrap();
        let sockets = bind(any, 3).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, [addresses[0]; 3]);
        let taken = bind(addresses[0], 2).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
