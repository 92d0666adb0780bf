//! One proxy that watches: a Config at once and on every change, heartbeats in between.

use std::sync::Arc;
use std::time::Duration;

use api::policy as wire;
use daemon::{Clock, Lifecycle};
use identity::tls::Peer;
use model::Revision;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::publish::{self, Addresses};
use crate::snapshot::{Current, Snapshot};

/// How often a proxy hears that nothing has changed.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How much of a proxy's error message is logged, in characters.
const ERROR_SHOWN_MAX: usize = 1000;

pub(super) struct Watcher {
    pub(super) peer: Peer,
    pub(super) clock: Clock,
    pub(super) instance: String,
    pub(super) services: Vec<String>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) current: Current,
    pub(super) metrics: Arc<Metrics>,
    pub(super) incoming: Streaming<wire::WatchRequest>,
    pub(super) outgoing: mpsc::Sender<Result<wire::WatchResponse, Status>>,
}

impl Watcher {
    /// Returns when the proxy is gone, its certificate has ended or policyd stops, also while the proxy reads nothing.
    pub(super) async fn run(mut self, lifecycle: Lifecycle) {
        let _connected = self.metrics.proxy_connected();
        info!(instance = self.instance, peer = %self.peer.id, services = ?self.services, "a proxy watches");
        let (clock, certificate_end) = (self.clock.clone(), self.peer.not_after);
        tokio::select! {
            () = lifecycle.stopping() => {}
            () = clock.sleep_until(certificate_end) => {}
            () = self.tell() => {}
        }
        info!(instance = self.instance, "a proxy stopped watching");
    }

    async fn tell(&mut self) {
        let mut snapshots = self.current.subscribe();
        snapshots.mark_changed();
        let mut told = Revision::default();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Room first: what a slow proxy is sent then is the newest there is, and never a backlog.
            let Ok(room) = self.outgoing.reserve().await else { return };
            let message = tokio::select! {
                biased;
                changed = snapshots.changed() => {
                    let Ok(()) = changed else { return };
                    let snapshot = snapshots.borrow_and_update().clone();
                    told = snapshot.revision;
                    self.config(&snapshot)
                }
                // Of the state that the proxy was told of: with the floor of a newer one it would key new
                // decisions by old atoms.
                _ = heartbeat.tick() => heartbeat_of(told),
                request = self.incoming.message() => match request {
                    Ok(Some(request)) => {
                        self.acknowledged(request);
                        continue;
                    }
                    Ok(None) | Err(_) => return,
                },
            };
            room.send(Ok(message));
        }
    }

    fn config(&self, snapshot: &Snapshot) -> wire::WatchResponse {
        let config = publish::config(snapshot, &self.peer.id, &self.services, &self.addresses);
        wire::WatchResponse { message: Some(wire::watch_response::Message::Config((&config).into())) }
    }

    fn acknowledged(&self, request: wire::WatchRequest) {
        let Some(wire::watch_request::Message::Ack(ack)) = request.message else { return };
        let revision = Revision::from(ack.revision.unwrap_or_default());
        self.metrics.acknowledged(ack.error.is_empty());
        if ack.error.is_empty() {
            debug!(instance = self.instance, %revision, "acknowledged");
        } else {
            let error: String = ack.error.chars().take(ERROR_SHOWN_MAX).collect();
            warn!(instance = self.instance, %revision, error, "a proxy could not apply a revision");
        }
    }
}

fn heartbeat_of(revision: Revision) -> wire::WatchResponse {
    let heartbeat = wire::Heartbeat { floor: Some(revision.into()) };
    wire::WatchResponse { message: Some(wire::watch_response::Message::Heartbeat(heartbeat)) }
}
