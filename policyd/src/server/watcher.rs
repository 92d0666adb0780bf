//! One proxy that watches: what concerns it, as soon as that changes, and answers to its Pings.
//!
//! A part of a Config is left out only if the proxy has acknowledged it, or has named it in its Hello. So it is
//! never wrong about what is left out, also if it has refused a Config in between.

use std::collections::VecDeque;
use std::sync::Arc;

use api::config::Part;
use api::policy as wire;
use daemon::{Clock, Lifecycle};
use identity::tls::Peer;
use model::Revision;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::proxies::Place;
use crate::publish::{Parts, Publisher};
use crate::snapshot::{Current, Snapshot};

/// How much of a proxy's error message is logged and shown, in characters.
const ERROR_SHOWN_MAX: usize = 1000;
/// The most Configs that wait for an acknowledgement; that of an older one counts for nothing.
const UNACKNOWLEDGED_MAX: usize = 16;

pub(super) struct Watcher {
    pub(super) peer: Peer,
    pub(super) clock: Clock,
    pub(super) instance: String,
    /// Sorted, each once.
    pub(super) services: Vec<String>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) current: Current,
    pub(super) metrics: Arc<Metrics>,
    pub(super) place: Place,
    /// What the proxy surely has.
    pub(super) has: Parts,
    pub(super) incoming: Streaming<wire::WatchRequest>,
    pub(super) outgoing: mpsc::Sender<Result<wire::WatchResponse, Status>>,
}

/// What was sent.
struct Sent {
    /// All of it so far. None after a refusal: then everything is sent again with the next change.
    parts: Option<Parts>,
    /// The newest snapshot that was looked at.
    seen: Arc<Snapshot>,
    unacknowledged: VecDeque<(Revision, Parts)>,
}

impl Watcher {
    /// Returns when the proxy is gone, its certificate has ended or policyd stops, also while the proxy reads nothing.
    pub(super) async fn run(mut self, lifecycle: Lifecycle) {
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
        let seen = snapshots.borrow().clone();
        let mut sent = Sent { parts: Some(self.has), seen, unacknowledged: VecDeque::new() };
        // The Hello asks as a Ping does.
        let mut asked = Some(0);
        let outgoing = self.outgoing.clone();
        loop {
            // Room first: what a slow proxy is sent then is the newest there is, and never a backlog.
            let Ok(room) = outgoing.reserve().await else { return };
            let message = tokio::select! {
                // A Ping is answered after whatever was published before it came.
                biased;
                changed = snapshots.changed() => {
                    let Ok(()) = changed else { return };
                    sent.seen = snapshots.borrow_and_update().clone();
                    let Some(config) = self.config(&mut sent) else { continue };
                    wire::watch_response::Message::Config(config)
                }
                () = std::future::ready(()), if asked.is_some() => {
                    let number = asked.take().unwrap_or_default();
                    wire::watch_response::Message::Heartbeat(self.heartbeat(number, &sent.seen))
                }
                request = self.incoming.message() => match request {
                    Ok(Some(request)) => {
                        asked = self.take_in(request, &mut sent);
                        continue;
                    }
                    Ok(None) | Err(_) => return,
                },
            };
            room.send(Ok(wire::WatchResponse { message: Some(message) }));
        }
    }

    /// What the proxy has to be told of the newest snapshot, if anything.
    fn config(&self, sent: &mut Sent) -> Option<wire::Config> {
        let snapshot = &sent.seen;
        let parts = Parts::of(snapshot, &self.services);
        if sent.parts == Some(parts) {
            if sent.unacknowledged.is_empty() {
                self.place.in_step(snapshot.revision);
            }
            return None;
        }
        let mesh = (self.has.mesh != parts.mesh).then(|| self.publisher.mesh(snapshot));
        let policies = (self.has.policies != parts.policies)
            .then(|| self.publisher.policies(snapshot, &self.peer.id, &self.services));
        let size = |part: &Option<Part>| part.as_ref().map_or(0, |part| part.content.len());
        self.metrics.config_sent(size(&mesh) + size(&policies));
        sent.parts = Some(parts);
        if sent.unacknowledged.len() == UNACKNOWLEDGED_MAX {
            sent.unacknowledged.pop_front();
        }
        sent.unacknowledged.push_back((snapshot.revision, parts));
        let (mesh, policies) = (mesh.map(Into::into), policies.map(Into::into));
        Some(wire::Config { revision: Some(snapshot.revision.into()), mesh, policies })
    }

    /// Of the snapshot that the proxy was told of: with the floor of a newer one it would key new decisions by
    /// old atoms.
    fn heartbeat(&self, number: u64, seen: &Snapshot) -> wire::Heartbeat {
        let floor = |service: &String| wire::Floor {
            service: service.clone(),
            revision: Some(seen.decisions_since(service).into()),
        };
        let floors = self.services.iter().chain(seen.bundle.mesh.externals()).map(floor).collect();
        wire::Heartbeat { number, revision: Some(seen.revision.into()), floors }
    }

    /// Returns the number of the Ping to answer, if it is one.
    fn take_in(&mut self, request: wire::WatchRequest, sent: &mut Sent) -> Option<u64> {
        match request.message? {
            wire::watch_request::Message::Ping(ping) => {
                self.place.heard();
                Some(ping.number)
            }
            wire::watch_request::Message::Ack(ack) => {
                self.acknowledged(&ack, sent);
                None
            }
            wire::watch_request::Message::Hello(_) => None,
        }
    }

    fn acknowledged(&mut self, ack: &wire::Ack, sent: &mut Sent) {
        let revision = Revision::from(ack.revision.unwrap_or_default());
        let Some(place) = sent.unacknowledged.iter().position(|(sent, _)| *sent == revision) else { return };
        // Acknowledgements come in order.
        let Some((_, parts)) = sent.unacknowledged.drain(..=place).next_back() else { return };
        let is_newest = sent.unacknowledged.is_empty();
        self.metrics.acknowledged(ack.error.is_empty());
        if ack.error.is_empty() {
            self.has = parts;
            debug!(instance = self.instance, %revision, "acknowledged");
            self.place.acknowledged(revision, is_newest.then_some(sent.seen.revision));
        } else {
            let error: String = ack.error.chars().take(ERROR_SHOWN_MAX).collect();
            warn!(instance = self.instance, %revision, error, "a proxy could not apply a revision");
            if is_newest {
                sent.parts = None;
                self.place.refused(sent.seen.revision, error);
            }
        }
    }
}
