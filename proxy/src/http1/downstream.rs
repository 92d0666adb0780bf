//! A caller's connection: one request after the other, until it ends.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::config::{Mtls, Protocol};
use daemon::Lifecycle;
use http::Response;
use identity::Tenure;
use jiff::Timestamp;
use model::Principal;
use tokio::time::Instant;

use super::buffer::Buffer;
use super::deadline::Deadline;
use super::forward::Forward;
use super::pipe::poll_write_all;
use super::relay::{self, Relay};
use super::request_head::RequestHead;
use super::response_head::write_own;
use crate::applied::Applied;
use crate::exchange::{Arrival, Record};
use crate::framing::{self, BodyLength, HeadMax, Malformed};
use crate::http2::{self, grpc};
use crate::ids;
use crate::introduction::Introduction;
use crate::metrics::Memo;
use crate::request::{Connection, Proxy};
use crate::respond::Refusal;
use crate::standing::Standing;
use crate::stream::Stream;

/// How long a connection may be without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer of our own may take to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long, and for how many bytes, we wait for the caller to stop sending after our last byte.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// The caller's side of an exchange.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub stream: Stream,
    /// Read, and not yet used.
    pub read: Buffer,
    pub deadline: Deadline,
}

/// What follows an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The next one.
    Next,
    /// The end: all was said.
    Close,
    /// The end, though the caller may still be sending.
    Linger,
}

/// What is known of a request that is refused before it has a form.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Whether its caller reads the answer as one to a call of gRPC.
    pub is_call: bool,
}

/// What the next head is.
type Received = Result<Buffer, (Malformed, bool)>;

/// All that a connection's requests have in common.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub proxy: &'a Proxy,
    pub connection: &'a Connection,
    lifecycle: &'a Lifecycle,
    pub principal: Principal,
    pub introduction: Introduction,
}

/// Serves the requests that come over `stream`.
pub(crate) async fn serve(stream: Stream, connection: Connection, proxy: &Proxy, lifecycle: &Lifecycle) {
    let session = Session::new(proxy, &connection, lifecycle);
    let deadline = Deadline::new(Instant::now(), IDLE_TIMEOUT);
    let mut down = Downstream { stream, read: Buffer::default(), deadline };
    let mut memo = Memo::default();
    let mut end = pin!(session.close());
    let mut is_first = connection.peer.is_none();
    let max = HeadMax::of_request(connection.direction);
    while let Some(received) = down.next_head(max, end.as_mut()).await {
        if std::mem::take(&mut is_first)
            && let Ok(head) = &received
            && head.unused() == http2::PREFACE
        {
            let Downstream { stream, read, .. } = down;
            let mut all = Buffer::default();
            [http2::PREFACE, read.unused()].into_iter().for_each(|bytes| all.extend(bytes));
            let connection = Connection { protocol: Protocol::Http2, ..connection.clone() };
            return Box::pin(http2::serve(stream, all, &connection, proxy, lifecycle)).await;
        }
        match session.exchange(&mut down, &mut memo, received).await {
            After::Next => {}
            After::Close => return down.close(false).await,
            After::Linger => return down.close(true).await,
        }
    }
    down.close(false).await;
}

impl<'a> Session<'a> {
    pub(crate) fn new(proxy: &'a Proxy, connection: &'a Connection, lifecycle: &'a Lifecycle) -> Self {
        let (principal, introduction) = (proxy.caller(connection), proxy.introduction(connection));
        Self { proxy, connection, lifecycle, principal, introduction }
    }

    /// A request that arrives now.
    pub(crate) fn arrival(&self) -> Arrival<'_> {
        self.proxy.arrival(self.connection, &self.principal)
    }

    /// When the connection is to take no more requests: when the proxy stops, or when its tenure nears its end. The
    /// peer connects again, with its next certificate.
    pub(crate) async fn end(&self) {
        tokio::select! {
            () = self.lifecycle.stopping() => {}
            () = self.expiry() => {}
        }
    }

    /// When it is to be closed if it is idle: by a protocol that can't say beforehand that it will be, a request may just
    /// be on its way. So a proxy whose place another one has taken waits for that one, and says it in the response.
    pub(crate) async fn close(&self) {
        tokio::select! {
            () = self.lifecycle.closing() => {}
            () = self.expiry() => {}
        }
    }

    async fn expiry(&self) {
        match &self.connection.tenure {
            Some(tenure) => self.proxy.clock.sleep_until(tenure.drain_from).await,
            None => std::future::pending().await,
        }
    }

    /// Whether it takes no more requests now.
    fn has_ended(&self) -> bool {
        let drains = |tenure: &Tenure| self.proxy.clock.now() >= tenure.drain_from;
        self.lifecycle.is_stopping()
            || self.connection.tenure.as_ref().is_some_and(drains)
            || (self.connection.is_in_the_clear() && self.proxy.mtls() == Mtls::Strict)
    }

    async fn exchange(&self, down: &mut Downstream, memo: &mut Memo, received: Received) -> After {
        let arrival = self.arrival();
        let request = match received {
            Ok(bytes) => {
                let is_head = bytes.unused().starts_with(b"HEAD ");
                let max = HeadMax::of_request(self.connection.direction);
                RequestHead::read(bytes, max).map_err(|malformed| (malformed, is_head))
            }
            Err(refused) => Err(refused),
        };
        let request = match request {
            Ok(request) => request,
            Err((malformed, is_head)) => {
                let answer = self.refuse_early(memo, arrival, Line::default(), &malformed.into());
                // What follows has no sure start.
                down.read = Buffer::default();
                return down.answer(&answer, arrival.at, is_head, After::Linger).await;
            }
        };
        let under_way = self.connection.load.begin();
        let applied = self.proxy.current.applied();
        let kept = applied.jwt.kept_back(self.connection.direction);
        let slashes = applied.slashes(self.connection.direction);
        let forward = match under_way {
            Some(_) => Forward::of(&request, &self.introduction, kept, slashes),
            None => Err(Refusal::Overloaded),
        };
        match forward {
            Ok(forward) => self.pass(down, memo, arrival, &applied, (&request, &forward)).await,
            Err(refusal) => {
                // No call of gRPC comes by HTTP/1.1.
                let line = Line { is_call: false, ..Line::of(&request) };
                let answer = self.refuse_early(memo, arrival, line, &refusal);
                let after = self.after_refusal(down, &request);
                down.answer(&answer, arrival.at, request.method() == "HEAD", after).await
            }
        }
    }

    /// Lets a request pass, and its response back, or refuses it.
    async fn pass(
        &self,
        down: &mut Downstream,
        memo: &mut Memo,
        arrival: Arrival<'_>,
        applied: &Applied,
        (request, forward): (&RequestHead, &Forward),
    ) -> After {
        let ids = (forward.request_id(), forward.trace_id());
        let mut record = Record::begin(&self.proxy.observers, memo, arrival, ids);
        (record.method, record.path) = (forward.method(), forward.path());
        let routed = self.proxy.route(&mut record, self.connection, applied, request, forward).await;
        let standing =
            &Standing::of_request(self.proxy, self.connection, &record, &routed, (request, forward));
        let (direction, has_ended) = (self.connection.direction, &|| self.has_ended());
        let passed = match &routed {
            Ok(way) if way.protocol == Protocol::Http2 => {
                let relay =
                    http2::Relay { request, forward, way, direction, until: None, has_ended, standing };
                Box::pin(relay.run_for_http1(down, &mut record)).await
            }
            Ok(way) => {
                let relay = Relay { request, forward, way, direction, standing, lifecycle: self.lifecycle };
                relay::run(&relay, down, &mut record, has_ended).await
            }
            Err(_) => Ok(After::Close),
        };
        let refusal = match (routed, passed) {
            (Ok(_), Ok(after)) => return after,
            (Err(refusal), _) | (Ok(_), Err(refusal)) => refusal,
        };
        let answer = self.proxy.refuse(&mut record, &refusal);
        record.answered(answer.status());
        let after = self.after_refusal(down, request);
        let after = down.answer(&answer, arrival.at, request.method() == "HEAD", after).await;
        record.response_bytes = answer.body().len() as u64;
        record.completed();
        after
    }

    /// The answer to a request that is refused before it has a form.
    pub(crate) fn refuse_early(
        &self,
        memo: &mut Memo,
        arrival: Arrival<'_>,
        line: Line<'_>,
        refusal: &Refusal,
    ) -> Response<Vec<u8>> {
        let (id, traceparent) = (ids::new_request_id(), ids::new_traceparent());
        let id = std::str::from_utf8(&id).unwrap_or_default();
        let trace = std::str::from_utf8(&traceparent).ok().and_then(ids::trace_id).unwrap_or_default();
        let mut record = Record::begin(&self.proxy.observers, memo, arrival, (id, trace));
        (record.method, record.path) = (line.method, line.path);
        let answer = if line.is_call {
            self.proxy.refuse_call(&mut record, refusal)
        } else {
            self.proxy.refuse(&mut record, refusal)
        };
        record.answered(answer.status());
        record.response_bytes = answer.body().len() as u64;
        record.completed();
        answer
    }

    /// What follows a refusal: the next request, if the body of this one is here to be skipped.
    fn after_refusal(&self, down: &mut Downstream, request: &RequestHead) -> After {
        let length = match request.body {
            BodyLength::Exactly(length) => usize::try_from(length).ok(),
            BodyLength::Chunked => None,
        };
        match length.filter(|length| *length <= down.read.unused().len()) {
            Some(length) if request.keeps_alive() && !self.has_ended() => {
                down.read.consume(length);
                After::Next
            }
            Some(0) => After::Close,
            _ => After::Linger,
        }
    }
}

impl<'a> Line<'a> {
    pub(crate) fn of(request: &'a RequestHead) -> Self {
        let path = request.target().map_or("", |target| target.path);
        Self { method: request.method(), path, is_call: grpc::is_call(request.fields()) }
    }
}

impl Downstream {
    /// The next request's head; nothing at the end of the connection.
    async fn next_head(
        &mut self,
        max: HeadMax,
        mut end: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<Received> {
        self.deadline.set(Instant::now(), IDLE_TIMEOUT);
        let (mut scanned, mut begun) = (0, false);
        poll_fn(|cx| {
            loop {
                // A robust server ignores empty lines before a request line (RFC 9112 2.2).
                while self.read.unused().starts_with(b"\r\n") {
                    self.read.consume(2);
                    scanned = 0;
                }
                let is_head = self.read.unused().starts_with(b"HEAD ");
                match framing::head_length(self.read.unused(), scanned, max.bytes) {
                    Ok(Some(length)) => return Poll::Ready(Some(Ok(self.read.take(length)))),
                    Ok(None) => scanned = self.read.unused().len(),
                    Err(malformed) => return Poll::Ready(Some(Err((malformed, is_head)))),
                }
                match self.read.poll_fill(cx, &mut self.stream) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_ended) => return Poll::Ready(None),
                    Poll::Pending => {
                        return self.poll_wait(cx, &mut begun, end.as_mut(), is_head);
                    }
                }
            }
        })
        .await
    }

    /// Nothing more has arrived of the next head.
    fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        begun: &mut bool,
        end: Pin<&mut impl Future<Output = ()>>,
        is_head: bool,
    ) -> Poll<Option<Received>> {
        if self.read.is_empty() {
            if end.poll(cx).is_ready() {
                return Poll::Ready(None);
            }
        } else if !*begun {
            *begun = true;
            self.deadline.set(Instant::now(), HEAD_TIMEOUT);
        }
        ready!(self.deadline.poll(cx));
        Poll::Ready((!self.read.is_empty()).then_some(Err((Malformed::HeadTimeout, is_head))))
    }

    /// Writes an answer of our own, made at `now`; says what follows.
    async fn answer(
        &mut self,
        answer: &Response<Vec<u8>>,
        now: Timestamp,
        to_head: bool,
        after: After,
    ) -> After {
        let mut out = Buffer::default();
        write_own(answer, now, to_head, after == After::Next, out.vec());
        if self.write(out).await { after } else { After::Close }
    }

    /// Writes `bytes`; false if they were not taken.
    pub(crate) async fn write(&mut self, mut bytes: Buffer) -> bool {
        self.deadline.set(Instant::now(), ANSWER_TIMEOUT);
        poll_fn(|cx| {
            if let Poll::Ready(written) = poll_write_all(cx, &mut bytes, &mut self.stream) {
                return Poll::Ready(written.is_ok());
            }
            self.deadline.poll(cx).map(|()| false)
        })
        .await
    }

    /// Ends the connection. Closing it with bytes unread would reset it, and the caller might never see our last
    /// answer: so what may still come is discarded for a while.
    async fn close(mut self, lingers: bool) {
        self.deadline.set(Instant::now(), LINGER);
        let mut left = LINGER_BYTES;
        let mut is_shut = false;
        poll_fn(|cx| {
            if !is_shut {
                let shut = tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), cx);
                if shut.is_pending() {
                    return self.deadline.poll(cx);
                }
                is_shut = true;
            }
            while lingers && left > 0 {
                match super::buffer::poll_read(cx, &mut self.stream, |_, bytes| bytes.len()) {
                    Poll::Ready(Ok(read @ 1..)) => left = left.saturating_sub(read),
                    Poll::Ready(_ended) => return Poll::Ready(()),
                    Poll::Pending => return self.deadline.poll(cx),
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Our side of a connection, on which `read` has come so far, and the caller's.
    async fn connection(read: &[u8]) -> (Downstream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut kept = Buffer::default();
        kept.extend(read);
        let deadline = Deadline::new(Instant::now(), IDLE_TIMEOUT);
        (Downstream { stream: Stream::Plain(stream), read: kept, deadline }, caller)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_was_begun_has_to_end_soon() {
        for (begun, patience, refused) in [
            ("GET / HTTP/1.1\r\nHost:", HEAD_TIMEOUT, Some((Malformed::HeadTimeout, false))),
            ("HEAD / HT", HEAD_TIMEOUT, Some((Malformed::HeadTimeout, true))),
            ("", IDLE_TIMEOUT, None),
            ("\r\n\r\n", IDLE_TIMEOUT, None),
        ] {
            let (mut down, _caller) = connection(begun.as_bytes()).await;
            let start = Instant::now();
            let received = down.next_head(HeadMax::OF_OTHERS, pin!(std::future::pending())).await;
            assert_eq!(received.map(Result::unwrap_err), refused, "{begun:?}");
            assert_eq!(start.elapsed(), patience, "{begun:?}");
        }
    }

    #[tokio::test]
    async fn an_end_is_met_between_two_requests_only() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (mut down, mut caller) = connection(&head[..9]).await;
        caller.write_all(&head[9..]).await.unwrap();
        let received = down.next_head(HeadMax::OF_OTHERS, pin!(async {})).await;
        assert_eq!(received.unwrap().unwrap().unused(), head);
        assert!(down.next_head(HeadMax::OF_OTHERS, pin!(async {})).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_is_not_waited_for_long() {
        let (mut down, _caller) = connection(b"").await;
        let mut much = Buffer::default();
        much.extend(&vec![b'x'; 64 * 1024 * 1024]);
        let start = Instant::now();
        assert!(!down.write(much).await);
        assert_eq!(start.elapsed(), ANSWER_TIMEOUT);
        // Nor does it say that it has nothing more to say.
        let start = Instant::now();
        down.close(true).await;
        assert_eq!(start.elapsed(), LINGER);
    }
}
