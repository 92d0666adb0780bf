//! The end of an exchange that the request goes to.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{Method, StatusCode};

use super::caller::Caller;
use super::flow::{Flow, FlowError};
use super::head::{self, Body};
use super::links::Lease;
use super::side::{Broken, Http1, Http2, Outgoing, Side};
use crate::framing::{BodyLength, HeadMax};
use crate::http1::{BadResponse, Buffer, Forward, Framing, ResponseHead};
use crate::stream::Stream;
use crate::upstream::Failure;

/// Who gets a request, and answers it.
#[derive(Debug)]
pub(super) struct Callee<'a> {
    pub side: Side<'a>,
    sent: Sent,
    /// Of a stream, until the response begins.
    response: Option<ResponseFuture>,
    to_head: bool,
    /// How large the response's head may be.
    max: HeadMax,
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Answer {
    pub head: ResponseHead,
    /// Whether the stream ended with it, whatever it says of a body.
    pub is_all: bool,
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
#[derive(Debug)]
pub(super) enum Trouble {
    /// The caller went away.
    CallerGone,
    /// The caller's body is not well-formed.
    Malformed,
    /// The upstream failed.
    Upstream(Failure, String),
}

impl<'a> Callee<'a> {
    /// A connection of HTTP/1.1, which gets `forward` first, and a body of this length.
    pub(super) fn of_connection(
        stream: &'a mut Stream,
        read: &'a mut Buffer,
        forward: &Forward,
        (body, max): (BodyLength, HeadMax),
    ) -> Self {
        let mut side = Http1::new(stream, read, Framing::UntilClose);
        side.pending.extend(forward.bytes());
        side.outgoing = match body {
            BodyLength::Exactly(length) => Outgoing::Exactly(length),
            BodyLength::Chunked => Outgoing::Chunked,
        };
        Self { side: Side::Http1(side), sent: Sent::Part, response: None, to_head: false, max }
    }

    /// A stream of HTTP/2.
    pub(super) fn of_stream(
        lease: &Lease,
        request: http::Request<()>,
        (body, max): (BodyLength, HeadMax),
    ) -> Result<Self, (Failure, String)> {
        let has_none = body == BodyLength::Exactly(0);
        let to_head = request.method() == Method::HEAD;
        let sent = lease.sender().send_request(request, has_none);
        let (response, send) = sent.map_err(|error| failed(&error, Failure::Unsent))?;
        let side = Side::Http2(Http2 { receive: None, send: Some(send) });
        let sent = if has_none { Sent::All } else { Sent::Part };
        Ok(Self { side, sent, response: Some(response), to_head, max })
    }

    /// Whether all of the request was sent.
    pub(super) fn has_all(&self) -> bool {
        self.sent == Sent::All
    }

    /// Gets on with the request's way up; tells of trouble that ends the exchange.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Flow,
        caller: &mut Caller<'_>,
    ) -> Option<Trouble> {
        if self.sent != Sent::Part {
            return None;
        }
        match upload.poll(cx, &mut caller.side, &mut self.side) {
            Poll::Ready(Ok(())) => self.sent = Sent::All,
            Poll::Ready(Err(FlowError::Receiver(error))) => {
                if matches!(&self.side, Side::Http1(side) if !side.has_written) {
                    return Some(Trouble::Upstream(Failure::Unsent, error.to_string()));
                }
                // It may have answered without reading on: what it says is read next.
                self.sent = Sent::NoMore;
            }
            Poll::Ready(Err(FlowError::Sender(Broken::Malformed))) => {
                return Some(Trouble::Malformed);
            }
            Poll::Ready(Err(FlowError::Sender(_))) => return Some(Trouble::CallerGone),
            Poll::Pending => {}
        }
        None
    }

    /// Sends the request, until the head of a response is there: of the final one, or of an interim one.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Flow,
        caller: &mut Caller<'_>,
    ) -> Poll<Result<Answer, Trouble>> {
        if let Some(trouble) = self.poll_upload(cx, upload, caller) {
            return Poll::Ready(Err(trouble));
        }
        let head = match (&mut self.side, &mut self.response) {
            (Side::Http1(side), _) => {
                poll_text(cx, side, self.max).map(|head| head.map(|head| Answer { head, is_all: false }))
            }
            (Side::Http2(side), Some(response)) => {
                // HTTP/1.1 has to be told that nothing follows.
                poll_stream(cx, side, response, (!caller.is_http2() && !self.to_head, self.max))
            }
            (Side::Http2(_), None) => Poll::Pending,
        };
        if head.is_ready() {
            return head;
        }
        if self.sent == Sent::All && caller.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Trouble::CallerGone));
        }
        Poll::Pending
    }
}

/// Reads a head of HTTP/2, as the text that says the same.
fn poll_stream(
    cx: &mut Context<'_>,
    side: &mut Http2,
    response: &mut ResponseFuture,
    (tells_length, max): (bool, HeadMax),
) -> Poll<Result<Answer, Trouble>> {
    let (parts, receive) = match ready!(poll_any(cx, response)) {
        Ok(response) => response,
        Err(error) => {
            let (failure, why) = failed(&error, Failure::Silent);
            return Poll::Ready(Err(Trouble::Upstream(failure, why)));
        }
    };
    let is_all = receive.as_ref().is_some_and(RecvStream::is_end_stream);
    let body = match (&receive, is_all) {
        (Some(_), false) => Body::Some,
        (Some(_), true) if tells_length => Body::Empty,
        _ => Body::None,
    };
    let mut text = head::of_response(&parts, body);
    if receive.is_some() {
        side.receive = receive;
    }
    Poll::Ready(match ResponseHead::take(&mut text, max) {
        Ok(Some(head)) => Ok(Answer { head, is_all }),
        Ok(None) => Err(refused(BadResponse::Syntax)),
        Err(bad) => Err(refused(bad)),
    })
}

/// The next head, of the final response or of an interim one.
fn poll_any(
    cx: &mut Context<'_>,
    response: &mut ResponseFuture,
) -> Poll<Result<(http::response::Parts, Option<RecvStream>), h2::Error>> {
    if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
        return Poll::Ready(Ok((interim.into_parts().0, None)));
    }
    let (parts, receive) = ready!(Pin::new(response).poll(cx))?.into_parts();
    Poll::Ready(Ok((parts, Some(receive))))
}

fn refused(bad: BadResponse) -> Trouble {
    Trouble::Upstream(Failure::Broken, format!("its response is refused: {bad}"))
}

/// What an error of a stream means, of whose response nothing came.
fn failed(error: &h2::Error, otherwise: Failure) -> (Failure, String) {
    // A stream after the last one that a GOAWAY names, or one that was refused, was not looked at (RFC 9113 8.7).
    let is_refused = error.is_remote()
        && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)));
    let failure = match otherwise {
        _ if is_refused => Failure::Refused,
        // What a reset means only its sender knows: it may have done what it was asked for.
        Failure::Silent if error.is_reset() => Failure::Broken,
        otherwise => otherwise,
    };
    (failure, error.to_string())
}

/// Reads a head of HTTP/1.1.
fn poll_text(
    cx: &mut Context<'_>,
    side: &mut Http1<'_>,
    max: HeadMax,
) -> Poll<Result<ResponseHead, Trouble>> {
    loop {
        match ResponseHead::take(side.read, max) {
            Ok(Some(head)) => return Poll::Ready(Ok(head)),
            Ok(None) => {}
            Err(bad) => return Poll::Ready(Err(refused(bad))),
        }
        let failure = if side.read.is_empty() { Failure::Silent } else { Failure::Broken };
        match ready!(side.read.poll_fill(cx, side.stream)) {
            Ok(1..) => {}
            Ok(0) => {
                let why = "it closed the connection before it answered".to_owned();
                return Poll::Ready(Err(Trouble::Upstream(failure, why)));
            }
            Err(error) => return Poll::Ready(Err(Trouble::Upstream(failure, error.to_string()))),
        }
    }
}

/// Whether a response is only a word before the response.
pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
