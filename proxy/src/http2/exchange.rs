//! An exchange whose response has begun.

use std::future::poll_fn;
use std::task::Poll;

use h2::Reason;
use http::StatusCode;
use model::Action;
use tokio::time::Instant;

use super::callee::{Answer, Callee};
use super::caller::Caller;
use super::flow::Flow;
use super::grpc;
use super::relay::{Passed, Relay};
use super::settings::STALL_TIMEOUT;
use super::side::{Outgoing, Side};
use crate::exchange::{Direction, Record};
use crate::http1::{Deadline, Framing, Onward, ResponseHead};
use crate::respond::Refusal;
use crate::standing::Revoked;
use crate::upstream::UpstreamError;

/// A request of which some, or all, was sent.
pub(super) struct Exchange<'a> {
    pub relay: &'a Relay<'a>,
    pub upload: Flow,
    pub callee: Callee<'a>,
}

/// Why a response was not passed on to its end.
enum Cut {
    /// One of the sides failed, or nothing has moved for too long.
    Failed,
    /// The caller has said that it does not wait any longer.
    Late,
    /// It would not be let in any more.
    Revoked(Revoked),
}

impl Exchange<'_> {
    /// Passes a response on; says whether the upstream's connection takes another request.
    pub(super) async fn respond(
        mut self,
        Answer { head, is_all }: Answer,
        caller: &mut Caller<'_>,
        deadline: &mut Deadline,
        record: &mut Record<'_>,
    ) -> Result<(Passed, bool), Refusal> {
        let framing = if is_all { Framing::Exactly(0) } else { self.framing(&head)? };
        let outgoing = match &framing {
            Framing::Exactly(length) => Outgoing::Exactly(*length),
            Framing::Chunked(_) if caller.knows_chunks => Outgoing::Chunked,
            _ => Outgoing::UntilClose,
        };
        let is_whole = matches!(framing, Framing::Exactly(0));
        let ends_itself = outgoing == Outgoing::UntilClose;
        let is_reusable = head.keeps_alive() && !matches!(framing, Framing::UntilClose);
        let keeps_alive = self.relay.request.keeps_alive() && !ends_itself && !(self.relay.has_ended)();
        let onward = Onward {
            keeps_alive: keeps_alive || caller.is_http2(),
            to_http_10: !caller.knows_chunks,
            strips_own: self.relay.direction != Direction::Outbound,
            balances: &self.relay.way.balances,
        };
        self.upload.forget();
        record.answered(head.status);
        let begun = caller.begin(&head, onward, outgoing, is_whole);
        drop(head);
        if let Side::Http1(side) = &mut self.callee.side {
            side.expect(framing);
        }
        let mut download = Flow::new();
        if is_whole {
            download.skip();
        }
        let passed = match begun {
            Ok(()) => self.pass(&mut download, caller, deadline).await,
            Err(_gone) => Err(Cut::Failed),
        };
        (record.request_bytes, record.response_bytes) = (self.upload.passed, download.passed);
        if let Err(cut) = passed {
            self.callee.side.reset(Reason::CANCEL);
            match cut {
                Cut::Failed => caller.side.reset(Reason::INTERNAL_ERROR),
                Cut::Late => {
                    caller.give_up(grpc::Code::DeadlineExceeded, "the call took longer than its caller waits")
                }
                Cut::Revoked(revoked) => {
                    let action = self.relay.way.admitted.as_ref().map(|admitted| admitted.action);
                    if action == Some(Action::Grpc) {
                        caller.give_up(grpc::Code::PermissionDenied, "the call would be refused now");
                    } else {
                        caller.side.reset(Reason::CANCEL);
                    }
                    record.revoked(revoked);
                }
            }
            return Ok((Passed::Cut, false));
        }
        record.completed();
        let is_sent = self.callee.has_all();
        Ok((Passed::Whole { keeps_alive, is_sent }, is_sent && is_reusable))
    }

    fn framing(&self, response: &ResponseHead) -> Result<Framing, Refusal> {
        let service = || self.relay.way.service.name.clone();
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Unexpected { service: service(), status: response.status }.into());
        }
        let framing = response.framing(self.relay.request.method() == "HEAD", false);
        framing.map_err(|bad| {
            UpstreamError::Failed { service: service(), why: format!("its response is refused: {bad}") }
                .into()
        })
    }

    /// Passes the response's body on, and the rest of the request's.
    async fn pass(
        &mut self,
        download: &mut Flow,
        caller: &mut Caller<'_>,
        deadline: &mut Deadline,
    ) -> Result<(), Cut> {
        let (mut progress, mut watch) = ((0, 0), self.relay.standing.watch());
        self.wait(deadline);
        poll_fn(|cx| {
            if let Poll::Ready(passed) = download.poll(cx, &mut self.callee.side, &mut caller.side) {
                return Poll::Ready(passed.map_err(|_failed| Cut::Failed));
            }
            let has_trouble = self.callee.poll_upload(cx, &mut self.upload, caller).is_some();
            if has_trouble || caller.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Cut::Failed));
            }
            if let Poll::Ready(revoked) = watch.poll(cx) {
                return Poll::Ready(Err(Cut::Revoked(revoked)));
            }
            while deadline.poll(cx).is_ready() {
                let now = (self.upload.passed, download.passed);
                if self.relay.until.is_some_and(|until| until <= Instant::now()) {
                    return Poll::Ready(Err(Cut::Late));
                }
                if now == progress {
                    return Poll::Ready(Err(Cut::Failed));
                }
                progress = now;
                self.wait(deadline);
            }
            Poll::Pending
        })
        .await
    }

    /// Sets the deadline to when the exchange has to have gone on.
    fn wait(&self, deadline: &mut Deadline) {
        let now = Instant::now();
        let left = self.relay.until.map(|until| until.saturating_duration_since(now));
        deadline.set(now, left.unwrap_or(STALL_TIMEOUT).min(STALL_TIMEOUT));
    }
}
