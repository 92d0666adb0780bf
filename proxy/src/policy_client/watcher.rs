//! One task keeps the Watch stream. Each Config is applied as a whole and acknowledged, or refused with the reason,
//! and then the one before stays. While policyd is away the last Config stays in use.
//!
//! In between the proxy pings. The answer says that what it was told still held when the Ping was sent, and not
//! only when the answer came: a message may wait for long in buffers. From that moment on [`Current`] counts how
//! old its knowledge is.

use std::sync::Arc;
use std::time::Duration;

use api::ConvertError;
use api::config::Config;
use api::policy as wire;
use backon::{BackoffBuilder, ExponentialBuilder};
use daemon::{BlockReady, Clock, Lifecycle};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::{watch_request, watch_response};

use super::Client;
use crate::applied::{Applier, Current};
use crate::metrics::Metrics;

/// The largest Config accepted, in bytes.
const CONFIG_MAX: usize = 64 * 1024 * 1024;
/// Between tries to reach policyd.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between the answer to a Ping and the next Ping, at most.
const PING_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Or this part of the time after which what is known is stale, if that is less.
const PINGS_UNTIL_STALE: u32 = 4;

/// Keeps the Watch stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// The way to policyd.
    pub client: Arc<Client>,
    /// This proxy's name, for policyd's logs.
    pub instance: String,
    /// The service it enforces for.
    pub service: String,
    /// Puts a Config to use.
    pub applier: Applier,
    /// What is in use.
    pub current: Current,
    /// The time.
    pub clock: Clock,
    /// Where the connection's state is shown.
    pub metrics: Metrics,
    /// Dropped with the first Config.
    pub first_config: Option<BlockReady>,
    /// Since when the parts in use are what they are.
    pub has: Parts,
}

/// The revisions of the parts of the Config in use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts {
    mesh: Option<wire::Revision>,
    policies: Option<wire::Revision>,
}

/// Both directions of an open Watch.
struct Stream {
    sender: mpsc::Sender<wire::WatchRequest>,
    responses: tonic::Streaming<wire::WatchResponse>,
    pings: Pings,
    /// The last Config was refused.
    refused: bool,
}

/// One Ping at a time.
struct Pings {
    number: u64,
    sent_at: Timestamp,
    /// None while the last one is not answered.
    next_at: Option<Timestamp>,
}

/// How a stream ended, or failed to start.
struct Ended {
    was_open: bool,
    why: tonic::Status,
}

impl Watcher {
    /// Watches until the proxy stops.
    pub(crate) async fn watch_until_stopped(mut self, lifecycle: Lifecycle) {
        let mut identity = self.client.source.subscribe();
        let backoff = ExponentialBuilder::new()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_jitter()
            .without_max_times();
        let mut delays = backoff.build();
        loop {
            let ended = tokio::select! {
                () = lifecycle.stopping() => return,
                // Our certificate was renewed: the connection is made anew with it, at once.
                Ok(()) = identity.changed() => {
                    self.client.reconnect();
                    continue;
                }
                ended = self.watch() => ended,
            };
            self.metrics.policyd_connected(false);
            if ended.was_open {
                delays = backoff.build();
            }
            let delay = delays.next().unwrap_or(RETRY_MAX);
            tracing::warn!(error = ended.why.message(), retry_in = ?delay, "policyd can't be watched");
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One stream, from its start to its end.
    async fn watch(&mut self) -> Ended {
        match self.open().await {
            Ok(stream) => {
                self.metrics.policyd_connected(true);
                Ended { was_open: true, why: self.follow(stream).await }
            }
            Err(why) => Ended { was_open: false, why },
        }
    }

    async fn open(&self) -> Result<Stream, tonic::Status> {
        // Room for the Hello and, while it is being sent, a Ping and an Ack.
        let (sender, messages) = mpsc::channel(3);
        let hello = wire::Hello {
            instance: self.instance.clone(),
            services: vec![self.service.clone()],
            mesh: self.has.mesh,
            policies: self.has.policies,
        };
        // The Hello asks as a Ping does.
        let pings = Pings { number: 0, sent_at: self.clock.now(), next_at: None };
        send(&sender, watch_request::Message::Hello(hello)).await?;
        let mut service = self.client.service().max_decoding_message_size(CONFIG_MAX);
        let responses = service.watch(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Stream { sender, responses, pings, refused: false })
    }

    async fn follow(&mut self, mut stream: Stream) -> tonic::Status {
        loop {
            let next_ping = stream.pings.next_at.unwrap_or(Timestamp::MAX);
            let request = tokio::select! {
                response = stream.responses.message() => match response {
                    Ok(Some(wire::WatchResponse { message: Some(message) })) => {
                        self.take_in(message, &mut stream).await
                    }
                    Ok(Some(_says_nothing)) => None,
                    Ok(None) => return ended(),
                    Err(status) => return status,
                },
                () = self.clock.sleep_until(next_ping), if stream.pings.next_at.is_some() => {
                    Some(stream.pings.next(self.clock.now()))
                }
            };
            let Some(request) = request else { continue };
            if let Err(status) = send(&stream.sender, request).await {
                return status;
            }
        }
    }

    async fn take_in(
        &mut self,
        message: watch_response::Message,
        stream: &mut Stream,
    ) -> Option<watch_request::Message> {
        match message {
            watch_response::Message::Heartbeat(heartbeat) => {
                self.heard(&heartbeat, stream);
                None
            }
            watch_response::Message::Config(config) => {
                let revision = config.revision;
                let error = self.apply(config).await.err().unwrap_or_default();
                stream.refused = !error.is_empty();
                if stream.pings.number == 0 {
                    // Nothing is sent before the Hello came.
                    self.applier.egress.heard(stream.pings.sent_at);
                    self.current.heard(stream.pings.sent_at);
                }
                if error.is_empty() {
                    self.first_config = None;
                } else {
                    tracing::error!(error, "a configuration can't be applied; the one before stays");
                }
                Some(watch_request::Message::Ack(wire::Ack { revision, error }))
            }
        }
    }

    fn heard(&self, heartbeat: &wire::Heartbeat, stream: &mut Stream) {
        let own = heartbeat.floors.iter().filter(|floor| floor.service == self.service);
        own.filter_map(|floor| floor.revision).for_each(|floor| self.current.raise_floor(floor.into()));
        for floor in &heartbeat.floors {
            self.applier.egress.raise_floor(&floor.service, floor.revision.unwrap_or_default().into());
        }
        if heartbeat.number != stream.pings.number || stream.pings.next_at.is_some() {
            return;
        }
        // Its own last: who waits for that looks at all of them.
        self.applier.egress.heard(stream.pings.sent_at);
        self.current.heard(stream.pings.sent_at);
        if let Some(revision) = heartbeat.revision.filter(|_| !stream.refused) {
            self.metrics.configured(revision.into());
        }
        let stale_after = self.current.applied().config.policies.stale_after;
        let pause = PING_PAUSE_MAX.min(stale_after / PINGS_UNTIL_STALE);
        stream.pings.next_at = Some(self.clock.now().checked_add(pause).unwrap_or(Timestamp::MAX));
    }

    async fn apply(&mut self, config: wire::Config) -> Result<(), String> {
        let since = |part: &Option<wire::Part>| part.as_ref().and_then(|part| part.since);
        let (mesh, policies) = (since(&config.mesh), since(&config.policies));
        let before = self.current.applied();
        let config: Config = before.config.with(config).map_err(|error: ConvertError| error.to_string())?;
        // At once: making ready what reports need may take a while, and the policies of before are out of date.
        let own = config.policies.services.iter().filter(|enforced| enforced.service == self.service);
        own.for_each(|enforced| self.current.raise_floor(enforced.revision));
        for enforced in &config.policies.services {
            self.applier.egress.raise_floor(&enforced.service, enforced.revision);
        }
        let revision = config.revision;
        self.applier.apply(config).await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        self.has = Parts { mesh: mesh.or(self.has.mesh), policies: policies.or(self.has.policies) };
        self.metrics.configured(revision);
        tracing::info!(%revision, "configuration applied");
        Ok(())
    }
}

impl Pings {
    fn next(&mut self, now: Timestamp) -> watch_request::Message {
        *self = Self { number: self.number + 1, sent_at: now, next_at: None };
        watch_request::Message::Ping(wire::Ping { number: self.number })
    }
}

async fn send(
    sender: &mpsc::Sender<wire::WatchRequest>,
    message: watch_request::Message,
) -> Result<(), tonic::Status> {
    let request = wire::WatchRequest { message: Some(message) };
    sender.send(request).await.map_err(|_error| ended())
}

fn ended() -> tonic::Status {
    tonic::Status::unavailable("policyd ended the stream")
}
