//! One request to an upstream, and its response back.
//!
//! Both directions go on at once: an upstream may answer before it has all of a body, and a body may depend on what
//! the answer says.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use daemon::Lifecycle;
use http::StatusCode;
use tokio::time::Instant;

use super::buffer::Buffer;
use super::downstream::{After, Downstream};
use super::forward::Forward;
use super::pipe::{Framing, Pipe, PipeError, poll_write_all};
use super::request_head::RequestHead;
use super::response_head::{Onward, ResponseHead};
use crate::chunks::Chunks;
use crate::endpoints::Endpoint;
use crate::exchange::{Direction, Record};
use crate::framing::{BodyLength, HeadMax, Malformed};
use crate::pool::Connection;
use crate::request::Way;
use crate::respond::Refusal;
use crate::standing::{Revoked, Standing, Watch};
use crate::tcp;
use crate::tunnel::{self, End, Ended};
use crate::upstream::{Attempts, Failure, INTERIM_MAX, TOO_MANY_INTERIM, UpstreamError};

/// How long neither side of a body may do anything. Streams of events are silent for minutes.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// A request, and where it goes.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    pub request: &'a RequestHead,
    pub forward: &'a Forward,
    pub way: &'a Way,
    pub direction: Direction,
    /// The decision that let it in.
    pub standing: &'a Standing<'a>,
    pub lifecycle: &'a Lifecycle,
}

/// The upstream's side of an exchange.
struct Upstream {
    endpoint: Arc<Endpoint>,
    connection: Connection,
    /// Read, and not yet used.
    read: Buffer,
    upload: Pipe,
    sent: Sent,
    /// How large the response's head may be.
    max: HeadMax,
}

/// How much of the request has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Not all of it so far.
    Part,
    /// All of it.
    All,
    /// Not all of it, and no more will be: the upstream takes no more.
    NoMore,
}

/// Why there is no response's head.
enum Trouble {
    /// The caller went away.
    CallerGone,
    /// The caller's body is not well-formed.
    Malformed,
    /// It took too long.
    Timeout,
    /// It would not be let in any more.
    Revoked(Revoked),
    /// The upstream's connection failed.
    Upstream(Failure, String),
}

/// Sends the request and passes the response back. Refused while nothing of a response has been written.
pub(crate) async fn run(
    relay: &Relay<'_>,
    down: &mut Downstream,
    record: &mut Record<'_>,
    has_ended: &(dyn Fn() -> bool + Sync),
) -> Result<After, Refusal> {
    let name = || relay.way.service.name.clone();
    let metrics = &record.observers().metrics;
    let mut attempts = Attempts::new(relay.way, metrics, relay.request.is_repeatable());
    down.deadline.set(Instant::now(), relay.way.timeout);
    loop {
        let Some((endpoint, connection)) = relay.connect(&mut attempts, down).await? else {
            return Err(UpstreamError::NoneHealthy { service: name() }.into());
        };
        let reused = connection.reused;
        let mut up = relay.begin(endpoint, connection);
        record.request_bytes = 0;
        if !relay.ask_for_body(down, &up).await {
            return Ok(After::Close);
        }
        match up.head(down, relay.request.is_http_10, relay.standing).await {
            Ok(response) => {
                record.upstream = Some(Arc::clone(&up.endpoint));
                return relay.respond(response, up, down, record, has_ended).await;
            }
            Err(Trouble::CallerGone) => return Ok(After::Close),
            Err(Trouble::Malformed) => return Err(Malformed::Chunks.into()),
            Err(Trouble::Timeout) => return Err(relay.way.too_late()),
            Err(Trouble::Revoked(Revoked { checked, refusal })) => {
                record.decided_again(checked);
                return Err(refusal);
            }
            Err(Trouble::Upstream(failure, why)) => {
                let is_whole = up.upload.passed == 0;
                if !(is_whole && attempts.may_retry(up.endpoint, failure, reused)) {
                    return Err(UpstreamError::Failed { service: name(), why }.into());
                }
            }
        }
    }
}

impl Relay<'_> {
    async fn connect(
        &self,
        attempts: &mut Attempts<'_>,
        down: &mut Downstream,
    ) -> Result<Option<(Arc<Endpoint>, Connection)>, Refusal> {
        let mut connecting = pin!(attempts.connect());
        poll_fn(|cx| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(Ok(connected));
            }
            down.deadline.poll(cx).map(|()| Err(self.way.too_late()))
        })
        .await
    }

    fn begin(&self, endpoint: Arc<Endpoint>, connection: Connection) -> Upstream {
        let framing = match self.request.body {
            BodyLength::Exactly(length) => Framing::Exactly(length),
            BodyLength::Chunked => Framing::Chunked(Chunks::default()),
        };
        let mut head = Buffer::default();
        head.extend(self.forward.bytes());
        let upload = Pipe::new(head, framing);
        let max = HeadMax::of_response(self.direction);
        Upstream { endpoint, connection, read: Buffer::default(), upload, sent: Sent::Part, max }
    }

    /// A caller that waits to be asked for its body is asked, now that there is an upstream for it.
    async fn ask_for_body(&self, down: &mut Downstream, up: &Upstream) -> bool {
        if up.upload.is_read() || !down.read.is_empty() || !self.request.expects_continue() {
            return true;
        }
        let mut ask = Buffer::default();
        ask.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
        let asked = down.write(ask).await;
        down.deadline.set(Instant::now(), self.way.timeout);
        asked
    }

    /// Passes a response on.
    async fn respond(
        &self,
        response: ResponseHead,
        mut up: Upstream,
        down: &mut Downstream,
        record: &mut Record<'_>,
        has_ended: &(dyn Fn() -> bool + Sync),
    ) -> Result<After, Refusal> {
        let service = || self.way.service.name.clone();
        let framing = response.framing(self.request.method() == "HEAD", self.request.is_http_10);
        let framing = framing.map_err(|bad| UpstreamError::Failed {
            service: service(),
            why: format!("its response is refused: {bad}"),
        })?;
        let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if switches && self.request.upgrade().is_none() {
            return Err(UpstreamError::Unexpected { service: service(), status: response.status }.into());
        }
        let ends_itself = matches!(framing, Framing::UntilClose | Framing::Decoded(_));
        let keeps_alive = self.request.keeps_alive() && !ends_itself && !switches && !has_ended();
        let is_reusable = response.keeps_alive() && !ends_itself && !switches;
        let mut head = Buffer::default();
        let onward = Onward {
            keeps_alive,
            to_http_10: self.request.is_http_10,
            strips_own: self.direction != Direction::Outbound,
            balances: &self.way.balances,
        };
        response.write(onward, head.vec());
        record.answered(response.status);
        drop(response);
        let mut download = Pipe::new(head, framing);
        let passed = up.pass(&mut download, down, self.standing).await;
        (record.request_bytes, record.response_bytes) = (up.upload.passed, download.passed);
        if let Err(revoked) = passed {
            revoked.into_iter().for_each(|revoked| record.revoked(revoked));
            return Ok(After::Close);
        }
        if switches {
            let above = End { stream: &mut up.connection.stream, read: &mut up.read };
            let below = End { stream: &mut down.stream, read: &mut down.read };
            let tell = |passed| (record.request_bytes, record.response_bytes) = passed;
            let cut = async {
                tokio::select! {
                    revoked = self.standing.watch().revoked() => Some(revoked),
                    () = tcp::drained(self.lifecycle) => None,
                }
            };
            match Box::pin(tunnel::run(below, above, self.way.idle_timeout, tell, cut)).await {
                Ended::Whole => record.completed(),
                Ended::Cut(Some(revoked)) => record.revoked(revoked),
                Ended::Broken | Ended::Idle | Ended::Cut(None) => {}
            }
            return Ok(After::Close);
        }
        record.completed();
        let is_sent = up.sent == Sent::All;
        if is_sent && is_reusable && up.read.is_empty() {
            up.endpoint.pool.keep(up.connection, Instant::now());
        }
        Ok(match (keeps_alive, is_sent) {
            (true, true) => After::Next,
            (false, true) => After::Close,
            (_, false) => After::Linger,
        })
    }
}

impl Upstream {
    /// Sends the request, until the response's head is there.
    async fn head(
        &mut self,
        down: &mut Downstream,
        to_http_10: bool,
        standing: &Standing<'_>,
    ) -> Result<ResponseHead, Trouble> {
        let mut watch = standing.watch();
        for _ in 0..=INTERIM_MAX {
            let response = poll_fn(|cx| self.poll_head(cx, down, &mut watch)).await?;
            if !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            // The caller was asked for its body by us; and HTTP/1.0 knows no interim responses (RFC 9110 15.2).
            if response.status != StatusCode::CONTINUE && !to_http_10 {
                let onward = Onward { keeps_alive: true, to_http_10, strips_own: false, balances: &[] };
                let mut interim = Buffer::default();
                response.write(onward, interim.vec());
                poll_fn(|cx| match poll_write_all(cx, &mut interim, &mut down.stream) {
                    Poll::Ready(written) => Poll::Ready(written.map_err(|_gone| Trouble::CallerGone)),
                    Poll::Pending => down.deadline.poll(cx).map(|()| Err(Trouble::Timeout)),
                })
                .await?;
            }
        }
        Err(Trouble::Upstream(Failure::Broken, TOO_MANY_INTERIM.to_owned()))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Downstream,
        watch: &mut Watch<'_>,
    ) -> Poll<Result<ResponseHead, Trouble>> {
        if let Some(trouble) = self.poll_upload(cx, down) {
            return Poll::Ready(Err(trouble));
        }
        loop {
            match ResponseHead::take(&mut self.read, self.max) {
                Ok(Some(response)) => return Poll::Ready(Ok(response)),
                Ok(None) => {}
                Err(bad) => {
                    let why = format!("its response is refused: {bad}");
                    return Poll::Ready(Err(Trouble::Upstream(Failure::Broken, why)));
                }
            }
            let silent = if self.read.is_empty() { Failure::Silent } else { Failure::Broken };
            match self.read.poll_fill(cx, &mut self.connection.stream) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => {
                    let why = "it closed the connection before it answered".to_owned();
                    return Poll::Ready(Err(Trouble::Upstream(silent, why)));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Trouble::Upstream(silent, error.to_string())));
                }
                Poll::Pending => break,
            }
        }
        if self.sent == Sent::All && poll_gone(cx, down).is_ready() {
            return Poll::Ready(Err(Trouble::CallerGone));
        }
        // What was sent as a whole is soon answered, or given up.
        if self.sent == Sent::Part
            && let Poll::Ready(revoked) = watch.poll(cx)
        {
            return Poll::Ready(Err(Trouble::Revoked(revoked)));
        }
        down.deadline.poll(cx).map(|()| Err(Trouble::Timeout))
    }

    /// Gets on with the request's way up; tells of trouble that ends the exchange.
    fn poll_upload(&mut self, cx: &mut Context<'_>, down: &mut Downstream) -> Option<Trouble> {
        if self.sent != Sent::Part {
            return None;
        }
        match self.upload.poll(cx, &mut down.stream, &mut down.read, &mut self.connection.stream) {
            Poll::Ready(Ok(())) => self.sent = Sent::All,
            Poll::Ready(Err(PipeError::Receiver(error))) => {
                // It may have answered without reading on: what it says is read next.
                if !self.upload.has_written() {
                    return Some(Trouble::Upstream(Failure::Unsent, error.to_string()));
                }
                self.sent = Sent::NoMore;
            }
            Poll::Ready(Err(PipeError::Sender(_))) => return Some(Trouble::CallerGone),
            Poll::Ready(Err(PipeError::Chunks)) => return Some(Trouble::Malformed),
            Poll::Pending => {}
        }
        None
    }

    /// Passes the response's body on, and the rest of the request's.
    /// If it was revoked, that is the error; another one is not told.
    async fn pass(
        &mut self,
        download: &mut Pipe,
        down: &mut Downstream,
        standing: &Standing<'_>,
    ) -> Result<(), Option<Revoked>> {
        let mut watch = standing.watch();
        // Together with the head, if it came together with it.
        download.take(&mut self.read).map_err(|_broken| None)?;
        let mut progress = (0, 0);
        let cut_at = self.connection.credentials.as_ref().map(|made| made.cut_at);
        let patience = |now: Instant| {
            let left = cut_at.map(|cut_at| cut_at.saturating_duration_since(now));
            left.map_or(STALL_TIMEOUT, |left| left.min(STALL_TIMEOUT))
        };
        let now = Instant::now();
        down.deadline.set(now, patience(now));
        poll_fn(|cx| {
            let passed = download.poll(cx, &mut self.connection.stream, &mut self.read, &mut down.stream);
            if let Poll::Ready(passed) = passed {
                return Poll::Ready(passed.map_err(|_failed| None));
            }
            if self.poll_upload(cx, down).is_some() {
                return Poll::Ready(Err(None));
            }
            if let Poll::Ready(revoked) = watch.poll(cx) {
                return Poll::Ready(Err(Some(revoked)));
            }
            let now = (self.upload.passed, download.passed);
            down.deadline.poll_stalled(cx, patience, &mut progress, now).map(|()| Err(None))
        })
        .await
    }
}

/// Ready when the caller has gone away. What it sends already of its next request is kept.
fn poll_gone(cx: &mut Context<'_>, down: &mut Downstream) -> Poll<()> {
    // With something kept it is not looked any further: that is the back-pressure.
    while down.read.is_empty() && down.stream.poll_readable(cx).is_ready() {
        match down.read.poll_fill(cx, &mut down.stream) {
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(_ended) => return Poll::Ready(()),
            Poll::Pending => {}
        }
    }
    Poll::Pending
}
