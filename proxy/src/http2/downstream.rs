//! A caller's connection, and the streams on it.
//!
//! All streams of a connection are served by the task that serves the connection. So they go on first, and what they
//! have to say leaves together.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use daemon::Lifecycle;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::RecvStream;
use h2::server::{Connection as Http2, SendResponse};
use tokio::time::Instant;

use super::answer;
use super::caller::Caller;
use super::guard::Guard;
use super::relay::{Passed, Relay};
use super::settings::{self, GOODBYE_TIMEOUT, IDLE_TIMEOUT, PREFACE_TIMEOUT};
use super::transport::Transport;
use super::{grpc, head};
use crate::applied::Applied;
use crate::exchange::{Arrival, Record};
use crate::framing::HeadMax;
use crate::http1::{Buffer, Deadline, Forward, Line, RequestHead, Session};
use crate::metrics::Memo;
use crate::request::{Connection, Proxy};
use crate::respond::Refusal;
use crate::standing::Standing;
use crate::stream::Stream;

/// Serves the streams that come over `stream`, of which `read` was read before.
pub(crate) async fn serve(
    stream: Stream,
    read: Buffer,
    connection: &Connection,
    proxy: &Proxy,
    lifecycle: &Lifecycle,
) {
    let now = Instant::now();
    let (transport, outlet) = Transport::new(stream, read, Guard::of_server(now));
    let mut handshake = pin!(settings::server().handshake(transport));
    let session = Session::new(proxy, connection, lifecycle);
    let (mut end, mut close) = (pin!(session.end()), pin!(session.close()));
    let mut deadline = Deadline::new(now, PREFACE_TIMEOUT);
    let shaken = poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        outlet.flush(cx);
        match polled {
            Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
            Poll::Pending if close.as_mut().poll(cx).is_ready() => Poll::Ready(None),
            Poll::Pending => deadline.poll(cx).map(|()| None),
        }
    });
    let Some(http2) = shaken.await else { return };
    let memos = Memos::default();
    let serving = |stream| serve_stream(&session, &memos, stream);
    let mut streams = Streams { http2, open: FuturesUnordered::new(), deadline, state: State::Idle };
    poll_fn(|cx| {
        let polled = streams.poll(cx, end.as_mut(), &serving);
        outlet.flush(cx);
        polled
    })
    .await;
}

/// Where the last requests were counted, one for each stream that was open at the same time.
#[derive(Debug, Default)]
struct Memos(Mutex<Vec<Memo>>);

type Opened = (http::Request<RecvStream>, SendResponse<Bytes>);

/// A connection's streams.
struct Streams<F> {
    http2: Http2<Transport, Bytes>,
    open: FuturesUnordered<F>,
    deadline: Deadline,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Streams are open.
    Busy,
    /// None is, until the deadline.
    Idle,
    /// The caller was told to open no more.
    Ending,
    /// None is left either, until the deadline.
    Ended,
}

impl<F: Future<Output = ()>> Streams<F> {
    /// Ready at the end of the connection.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut end: Pin<&mut impl Future<Output = ()>>,
        serve: &impl Fn(Opened) -> F,
    ) -> Poll<()> {
        loop {
            // What they write is sent below.
            while let Poll::Ready(Some(())) = self.open.poll_next_unpin(cx) {}
            let mut has_new = false;
            loop {
                match self.http2.poll_accept(cx) {
                    Poll::Ready(Some(Ok(opened))) => self.open.push(serve(opened)),
                    Poll::Ready(Some(Err(error))) => {
                        tracing::debug!(%error, "a connection failed");
                        return Poll::Ready(());
                    }
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
                has_new = true;
            }
            if has_new {
                continue;
            }
            let is_ending = matches!(self.state, State::Ending | State::Ended);
            if !is_ending && end.as_mut().poll(cx).is_ready() {
                self.end();
                continue;
            }
            return self.poll_deadline(cx);
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.state = match (self.state, self.open.is_empty()) {
            (State::Busy | State::Idle, false) => State::Busy,
            (State::Ending | State::Ended, false) => State::Ending,
            (State::Busy, true) => {
                self.deadline.set(Instant::now(), IDLE_TIMEOUT);
                State::Idle
            }
            (State::Ending, true) => {
                self.deadline.set(Instant::now(), GOODBYE_TIMEOUT);
                State::Ended
            }
            (waiting, true) => waiting,
        };
        if matches!(self.state, State::Busy | State::Ending) || self.deadline.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.state == State::Ended {
            return Poll::Ready(());
        }
        self.end();
        self.deadline.set(Instant::now(), GOODBYE_TIMEOUT);
        self.state = State::Ended;
        // It is polled again for what is to be sent now.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Tells the caller to open no more streams.
    fn end(&mut self) {
        self.http2.graceful_shutdown();
        self.state = State::Ending;
    }
}

/// Serves one stream.
async fn serve_stream(session: &Session<'_>, memos: &Memos, (request, mut respond): Opened) {
    let mut memo = memos.take();
    let (parts, body) = request.into_parts();
    let arrival = session.arrival();
    let to_head = parts.method == http::Method::HEAD;
    let max = HeadMax::of_request(session.connection.direction);
    let read =
        head::of_request(&parts, !body.is_end_stream(), max).and_then(|text| RequestHead::read(text, max));
    let refused = match read {
        Ok(request) => {
            let line = Line::of(&request);
            let under_way = session.connection.load.begin();
            let applied = session.proxy.current.applied();
            let kept = applied.jwt.kept_back(session.connection.direction);
            let slashes = applied.slashes(session.connection.direction);
            let forward = match under_way {
                Some(_) => Forward::of(&request, &session.introduction, kept, slashes),
                None => Err(Refusal::Overloaded),
            };
            match forward {
                Ok(forward) => {
                    let caller = Caller::of_stream(body, respond);
                    pass(session, &mut memo, arrival, &applied, (&request, &forward), caller).await;
                    return memos.put(memo);
                }
                Err(refusal) => session.refuse_early(&mut memo, arrival, line, &refusal),
            }
        }
        Err(malformed) => {
            let line = Line { is_call: grpc::is_call_of(&parts.headers), ..Line::default() };
            session.refuse_early(&mut memo, arrival, line, &malformed.into())
        }
    };
    answer::send(&mut respond, refused, arrival.at, to_head);
    memos.put(memo);
}

/// Lets a request pass, and its response back, or refuses it.
async fn pass(
    session: &Session<'_>,
    memo: &mut Memo,
    arrival: Arrival<'_>,
    applied: &Applied,
    (request, forward): (&RequestHead, &Forward),
    mut caller: Caller<'_>,
) {
    let proxy = session.proxy;
    let ids = (forward.request_id(), forward.trace_id());
    let mut record = Record::begin(&proxy.observers, memo, arrival, ids);
    (record.method, record.path) = (forward.method(), forward.path());
    let routed = proxy.route(&mut record, session.connection, applied, request, forward).await;
    let is_call = grpc::is_call(forward.fields());
    let timeout = if is_call { grpc::timeout(forward.fields()) } else { None };
    let until = timeout.map(|timeout| arrival.started + timeout);
    let routed = routed.map(|way| way.within(timeout));
    let came = (request, forward);
    let standing = Standing::of_request(proxy, session.connection, &record, &routed, came);
    let passed = match &routed {
        Ok(way) => {
            let direction = session.connection.direction;
            let relay =
                Relay { request, forward, way, direction, until, has_ended: &|| false, standing: &standing };
            let mut deadline = Deadline::new(arrival.started, way.timeout);
            relay.run(&mut caller, &mut deadline, &mut record).await
        }
        Err(_) => Ok(Passed::Cut),
    };
    let ((Err(refusal), _) | (Ok(_), Err(refusal))) = (routed, passed) else { return };
    let answer =
        if is_call { proxy.refuse_call(&mut record, &refusal) } else { proxy.refuse(&mut record, &refusal) };
    record.answered(answer.status());
    let length = answer.body().len() as u64;
    let to_head = request.method() == "HEAD";
    if caller.respond.as_mut().is_some_and(|respond| answer::send(respond, answer, arrival.at, to_head)) {
        record.response_bytes = length;
        record.completed();
    }
}

impl Memos {
    fn take(&self) -> Memo {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn put(&self, memo: Memo) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(memo);
    }
}
