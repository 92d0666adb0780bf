//! Wires policyd and its door to Envoy.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use daemon::Clock;
use identity::grpc::{Address, Listener};
use policyd::config::{Config, Door, Envoy};

use crate::decide::Decider;
use crate::door;
use crate::metrics::Metrics;

/// The addresses at which Envoys will ask: bound, and not served yet.
#[derive(Debug)]
pub struct Doors {
    listeners: Vec<(Listener, Door)>,
    config: Envoy,
}

/// Starts policyd, and lets Envoys ask it where its configuration says so.
///
/// # Errors
/// [`daemon::Findings`] when the bundle has mistakes; else why it can't start. Nothing is left running then.
pub async fn build(mut config: Config, clock: Clock) -> Result<policyd::app::Bound> {
    let doors = match config.envoy.take() {
        Some(envoy) => Some(bind(envoy).await?),
        None => None,
    };
    let policyd = policyd::app::build(config, clock.clone()).await?;
    if let Some(doors) = doors {
        doors.open(&policyd, clock);
    }
    Ok(policyd)
}

/// Binds what `config` says; port 0 takes a free one.
///
/// # Errors
/// When an address can't be bound.
pub async fn bind(config: Envoy) -> Result<Doors> {
    let mut listeners = Vec::new();
    let tcp = config.listen.map(|(address, door)| (Address::Tcp(address), door));
    let unix = config.socket.clone().map(|path| (Address::Unix(path), Door::Open));
    for (address, door) in tcp.into_iter().chain(unix) {
        let listener = identity::grpc::bind(&address).await;
        listeners.push((listener.with_context(|| format!("`{address}` can't be bound for Envoys"))?, door));
    }
    Ok(Doors { listeners, config })
}

impl Doors {
    /// The TCP address, with its real port, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.iter().find_map(|(listener, _)| match listener.address() {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        })
    }

    /// Has `policyd` answer here until it stops. Returns at once.
    pub fn open(self, policyd: &policyd::app::Bound, clock: Clock) {
        let Envoy { gateways, service_by_host, path_prefix, .. } = self.config;
        let decider = Arc::new(Decider {
            current: policyd.current.clone(),
            clock,
            metrics: Metrics::new(&policyd.registry),
            gateways,
            service_by_host,
        });
        for (listener, door) in self.listeners {
            tracing::info!(address = %listener.address(), ?door, "policyd serves Envoys");
            door::open(listener, door, &decider, path_prefix.as_deref(), policyd);
        }
    }
}
