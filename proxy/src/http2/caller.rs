//! The end of an exchange that the request comes from.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::StatusCode;

use super::side::{Broken, Http1, Http2, Outgoing, Side};
use super::{grpc, head};
use crate::http1::{Buffer, Framing, Onward, ResponseHead};
use crate::stream::Stream;

/// Who has sent a request, and waits for the response.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(super) side: Side<'a>,
    /// Of a stream, until the response begins.
    pub(super) respond: Option<SendResponse<Bytes>>,
    pub(super) knows_chunks: bool,
}

impl<'a> Caller<'a> {
    /// A stream of HTTP/2.
    pub(super) fn of_stream(receive: RecvStream, respond: SendResponse<Bytes>) -> Self {
        let side = Side::Http2(Http2 { receive: Some(receive), send: None });
        Self { side, respond: Some(respond), knows_chunks: false }
    }

    /// A connection of HTTP/1.1.
    pub(crate) fn of_connection(
        stream: &'a mut Stream,
        read: &'a mut Buffer,
        body: Framing,
        knows_chunks: bool,
    ) -> Self {
        Self { side: Side::Http1(Http1::new(stream, read, body)), respond: None, knows_chunks }
    }

    /// Whether it speaks HTTP/2.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self.side, Side::Http2(_))
    }

    /// Ready when it has gone away, or has given this request up.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (&mut self.side, &mut self.respond) {
            (Side::Http2(Http2 { send: Some(send), .. }), _) => send.poll_reset(cx).map(|_reason| ()),
            (_, Some(respond)) => respond.poll_reset(cx).map(|_reason| ()),
            (Side::Http1(side), None) => poll_closed(cx, side),
            (Side::Http2(_), None) => Poll::Pending,
        }
    }

    /// Tells it the head of the response, after which a body comes unless the response `is_whole`.
    pub(super) fn begin(
        &mut self,
        response: &ResponseHead,
        onward: Onward<'_>,
        outgoing: Outgoing,
        is_whole: bool,
    ) -> Result<(), Broken> {
        match &mut self.side {
            Side::Http1(side) => {
                side.outgoing = outgoing;
                response.write(onward, side.pending.vec());
                Ok(())
            }
            Side::Http2(side) => {
                let head = head::to_response(response, onward).ok_or(Broken::Malformed)?;
                let respond = self.respond.as_mut().ok_or(Broken::Malformed)?;
                let sent = respond.send_response(head, is_whole);
                side.send = Some(sent.map_err(|error| Broken::Gone(error.to_string()))?);
                Ok(())
            }
        }
    }

    /// Tells it an interim response.
    pub(super) fn inform(&mut self, response: &ResponseHead) {
        let onward = Onward { keeps_alive: true, to_http_10: false, strips_own: false, balances: &[] };
        match &mut self.side {
            Side::Http1(side) if self.knows_chunks => response.write(onward, side.pending.vec()),
            Side::Http1(_) => {}
            Side::Http2(_) => {
                if let (Some(head), Some(respond)) =
                    (head::to_response(response, onward), self.respond.as_mut())
                {
                    // The final response tells if it is gone.
                    let _sent = respond.send_informational(head);
                }
            }
        }
    }

    /// Asks it for the body that it waits to be asked for.
    pub(super) fn ask(&mut self) {
        match &mut self.side {
            Side::Http1(side) => side.pending.extend(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Side::Http2(_) => {
                let mut response = http::Response::new(());
                *response.status_mut() = StatusCode::CONTINUE;
                if let Some(respond) = &mut self.respond {
                    // The final response tells if it is gone.
                    let _sent = respond.send_informational(response);
                }
            }
        }
    }

    /// Tells it why the call, whose response has begun, was given up.
    pub(super) fn give_up(&mut self, code: grpc::Code, why: &str) {
        if let Side::Http2(Http2 { send: Some(send), .. }) = &mut self.side
            && send.send_trailers(grpc::status(code, why)).is_err()
        {
            send.send_reset(Reason::CANCEL);
        }
    }
}

/// Ready when the connection has been closed. What it sends already of its next request is kept.
fn poll_closed(cx: &mut Context<'_>, side: &mut Http1<'_>) -> Poll<()> {
    // With something kept it is not looked any further: that is the back-pressure.
    while side.read.is_empty() && side.stream.poll_readable(cx).is_ready() {
        match side.read.poll_fill(cx, side.stream) {
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(_ended) => return Poll::Ready(()),
            Poll::Pending => {}
        }
    }
    Poll::Pending
}
