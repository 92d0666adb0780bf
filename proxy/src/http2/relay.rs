//! One request to an upstream, and its response back, where one of the two sides speaks HTTP/2, or both do.
//!
//! Both directions go on at once: an upstream may answer before it has all of a body, and a body may depend on what
//! the answer says.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use api::config::Protocol;
use h2::Reason;
use http::StatusCode;
use tokio::time::Instant;

use super::callee::{Answer, Callee, Trouble, is_interim};
use super::caller::Caller;
use super::exchange::Exchange;
use super::flow::Flow;
use super::head;
use super::links::Lease;
use crate::chunks::Chunks;
use crate::endpoints::Endpoint;
use crate::exchange::{Direction, Record};
use crate::framing::{BodyLength, HeadMax, Malformed};
use crate::http1::{After, Buffer, Deadline, Downstream, Forward, Framing, RequestHead};
use crate::pool::Connection;
use crate::request::Way;
use crate::respond::Refusal;
use crate::standing::{Revoked, Standing};
use crate::upstream::{Attempts, Failure, INTERIM_MAX, TOO_MANY_INTERIM, UpstreamError};

/// A request, and where it goes.
pub(crate) struct Relay<'a> {
    pub request: &'a RequestHead,
    pub forward: &'a Forward,
    pub way: &'a Way,
    pub direction: Direction,
    /// When its caller gives it up, if that is known.
    pub until: Option<Instant>,
    /// Whether its connection is to take no more requests.
    pub has_ended: &'a (dyn Fn() -> bool + Sync),
    /// The decision that let it in.
    pub standing: &'a Standing<'a>,
}

/// What came of an exchange in which something of a response was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// Less than a response, or the caller went away.
    Cut,
    /// All of it. A caller that speaks HTTP/1.1 may send its next request if it `keeps_alive`, and all of this one
    /// was taken.
    Whole {
        /// Whether it was told so.
        keeps_alive: bool,
        /// Whether the upstream took all of the request.
        is_sent: bool,
    },
}

/// A connection, or a stream of one.
#[derive(Debug)]
enum Link {
    Http1(Connection),
    Http2(Lease),
}

/// Why an attempt ended without a response's head.
enum Stop {
    Trouble(Trouble),
    Timeout,
    Revoked(Revoked),
}

impl Relay<'_> {
    /// Sends the request of a caller that speaks HTTP/1.1, and passes the response back. Refused while nothing of a
    /// response has been written.
    pub(crate) async fn run_for_http1(
        &self,
        down: &mut Downstream,
        record: &mut Record<'_>,
    ) -> Result<After, Refusal> {
        let body = match self.request.body {
            BodyLength::Exactly(length) => Framing::Exactly(length),
            BodyLength::Chunked => Framing::Chunked(Chunks::default()),
        };
        let Downstream { stream, read, deadline } = down;
        let mut caller = Caller::of_connection(stream, read, body, !self.request.is_http_10);
        Ok(match self.run(&mut caller, deadline, record).await? {
            Passed::Cut => After::Close,
            Passed::Whole { keeps_alive: true, is_sent: true } => After::Next,
            Passed::Whole { keeps_alive: false, is_sent: true } => After::Close,
            Passed::Whole { is_sent: false, .. } => After::Linger,
        })
    }

    /// The same for any caller.
    pub(super) async fn run(
        &self,
        caller: &mut Caller<'_>,
        deadline: &mut Deadline,
        record: &mut Record<'_>,
    ) -> Result<Passed, Refusal> {
        let name = || self.way.service.name.clone();
        let metrics = &record.observers().metrics;
        let mut attempts = Attempts::new(self.way, metrics, self.request.is_repeatable());
        deadline.set(Instant::now(), self.way.timeout);
        let mut upload = Flow::repeatable();
        let mut is_asked = !self.request.expects_continue();
        loop {
            let Some((endpoint, mut link)) = self.connect(&mut attempts, deadline).await? else {
                return Err(UpstreamError::NoneHealthy { service: name() }.into());
            };
            if !std::mem::replace(&mut is_asked, true) {
                caller.ask();
            }
            let (reused, mut read) = (link.is_reused(), Buffer::default());
            let stop = match self.begin(&mut link, &mut read, &mut upload)? {
                Ok(mut callee) => match self.head(&mut callee, &mut upload, caller, deadline).await {
                    Ok(answer) => {
                        record.upstream = Some(Arc::clone(&endpoint));
                        let exchange = Exchange { relay: self, upload, callee };
                        let (passed, is_reusable) =
                            exchange.respond(answer, caller, deadline, record).await?;
                        link.keep(&endpoint, is_reusable && read.is_empty());
                        return Ok(passed);
                    }
                    Err(stop) => {
                        callee.side.reset(Reason::CANCEL);
                        stop
                    }
                },
                Err((failure, why)) => Stop::Trouble(Trouble::Upstream(failure, why)),
            };
            match stop {
                Stop::Trouble(Trouble::CallerGone) => return Ok(Passed::Cut),
                Stop::Trouble(Trouble::Malformed) => return Err(Malformed::Chunks.into()),
                Stop::Timeout => return Err(self.way.too_late()),
                Stop::Revoked(revoked) => {
                    let Revoked { checked, refusal } = revoked;
                    record.decided_again(checked);
                    return Err(refusal);
                }
                Stop::Trouble(Trouble::Upstream(failure, why)) => {
                    let may_retry = attempts.may_retry(endpoint, failure, reused);
                    if !(may_retry && upload.restart(&mut caller.side)) {
                        return Err(UpstreamError::Failed { service: name(), why }.into());
                    }
                }
            }
        }
    }

    async fn connect(
        &self,
        attempts: &mut Attempts<'_>,
        deadline: &mut Deadline,
    ) -> Result<Option<(Arc<Endpoint>, Link)>, Refusal> {
        let mut connecting = pin!(async {
            Some(match self.way.protocol {
                Protocol::Http1 => {
                    let (endpoint, connection) = attempts.connect().await?;
                    (endpoint, Link::Http1(connection))
                }
                Protocol::Http2 => {
                    let (endpoint, lease) = attempts.lease().await?;
                    (endpoint, Link::Http2(lease))
                }
                // Such requests have been refused.
                Protocol::Tcp => return None,
            })
        });
        poll_fn(|cx| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(Ok(connected));
            }
            deadline.poll(cx).map(|()| Err(self.way.too_late()))
        })
        .await
    }

    /// Begins to send the request. What it was refused for is no fault of the upstream's.
    fn begin<'l>(
        &self,
        link: &'l mut Link,
        read: &'l mut Buffer,
        upload: &mut Flow,
    ) -> Result<Result<Callee<'l>, (Failure, String)>, Refusal> {
        let (body, max) = (self.request.body, HeadMax::of_response(self.direction));
        Ok(match link {
            Link::Http1(connection) => {
                Ok(Callee::of_connection(&mut connection.stream, read, self.forward, (body, max)))
            }
            Link::Http2(lease) => {
                let request = head::to_request(self.forward, self.direction == Direction::Outbound);
                let request = request.ok_or(Malformed::Target)?;
                if body == BodyLength::Exactly(0) {
                    upload.skip();
                }
                Callee::of_stream(lease, request, (body, max))
            }
        })
    }

    /// Sends the request, until the response's head is there. Interim ones are passed on.
    async fn head(
        &self,
        callee: &mut Callee<'_>,
        upload: &mut Flow,
        caller: &mut Caller<'_>,
        deadline: &mut Deadline,
    ) -> Result<Answer, Stop> {
        let mut interim = 0;
        let mut watch = self.standing.watch();
        poll_fn(|cx| {
            loop {
                // What was told the caller in between.
                if let Poll::Ready(Err(_gone)) = caller.side.poll_clear(cx) {
                    return Poll::Ready(Err(Stop::Trouble(Trouble::CallerGone)));
                }
                match callee.poll_head(cx, upload, caller) {
                    Poll::Ready(Ok(Answer { head, .. })) if is_interim(head.status) => {
                        interim += 1;
                        if interim > INTERIM_MAX {
                            let trouble = Trouble::Upstream(Failure::Broken, TOO_MANY_INTERIM.to_owned());
                            return Poll::Ready(Err(Stop::Trouble(trouble)));
                        }
                        // The caller was asked for its body by us.
                        if head.status != StatusCode::CONTINUE {
                            caller.inform(&head);
                        }
                    }
                    Poll::Ready(head) => return Poll::Ready(head.map_err(Stop::Trouble)),
                    Poll::Pending => {
                        // What was sent as a whole is soon answered, or given up.
                        if !callee.has_all()
                            && let Poll::Ready(revoked) = watch.poll(cx)
                        {
                            return Poll::Ready(Err(Stop::Revoked(revoked)));
                        }
                        return deadline.poll(cx).map(|()| Err(Stop::Timeout));
                    }
                }
            }
        })
        .await
    }
}

impl Link {
    const fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.reused,
            Self::Http2(lease) => lease.reused,
        }
    }

    /// An exchange has ended on it.
    fn keep(self, endpoint: &Endpoint, is_reusable: bool) {
        match self {
            Self::Http1(connection) if is_reusable => endpoint.pool.keep(connection, Instant::now()),
            Self::Http1(_) => {}
            Self::Http2(lease) => lease.served(),
        }
    }
}
