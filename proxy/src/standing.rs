//! Decisions that stand for as long as what they let in goes on: a raw connection, a tunnel, a stream.
//!
//! Each is decided on again, with the facts of before, when a new revision of its service's decisions comes, and when
//! policyd falls silent for too long or speaks again: then it is the fail mode that may have the say. Limits are not
//! charged again. What would be refused now ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::config::Enforcement;
use jiff::Timestamp;
use model::{Action, Principal, Revision};

use crate::admission;
use crate::applied::{Applied, Current};
use crate::attributes::Head;
use crate::check::{Checked, Checker};
use crate::egress::Gate;
use crate::exchange::Record;
use crate::http1::{Forward, RequestHead};
use crate::jwt::Claims;
use crate::request::{Connection, Proxy, Way};
use crate::respond::Refusal;

/// The error of what has ended so.
pub(crate) const REVOKED: &str = "revoked";

/// What a decision was made from, but for what lies in the request itself.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub action: Action,
    /// Nothing also where nobody has looked for them, for the service was not protected then.
    pub claims: Option<Arc<Claims>>,
    /// Of the decision; none was made where the service is not protected.
    pub revision: Revision,
    /// What decided, unless it was on a call of this proxy's own service.
    pub gate: Option<Arc<Gate>>,
}

/// What was let in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    /// A request, as it came, and in the form that was decided on.
    Request { request: &'a RequestHead, forward: &'a Forward },
    /// A raw connection.
    Connection { sni: Option<&'a str>, port: u16 },
}

/// A decision that stands.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub proxy: &'a Proxy,
    /// Nothing if it was for somebody else to decide.
    admitted: Option<&'a Admitted>,
    subject: Subject<'a>,
    principal: &'a Principal,
    /// The service that is called.
    service: &'a str,
    request_id: &'a str,
    source_ip: std::net::IpAddr,
    tls: bool,
    arrived: Timestamp,
}

/// The decision that ended it.
#[derive(Debug)]
pub(crate) struct Revoked {
    /// Nothing if it did not come to one.
    pub checked: Option<Checked>,
    pub refusal: Refusal,
}

/// Waits for a decision's end, and takes no room before it is asked for.
pub(crate) struct Watch<'a> {
    standing: &'a Standing<'a>,
    waiting: Option<Pin<Box<dyn Future<Output = Revoked> + Send + 'a>>>,
}

impl<'a> Standing<'a> {
    /// The decision that is in `record`.
    pub(crate) fn new(
        proxy: &'a Proxy,
        connection: &Connection,
        record: &Record<'a>,
        admitted: Option<&'a Admitted>,
        subject: Subject<'a>,
    ) -> Self {
        Self {
            proxy,
            admitted,
            subject,
            principal: record.principal,
            service: record.service,
            request_id: record.request_id,
            source_ip: record.client,
            // What leaves the mesh leaves by TLS, and its caller is as well known as any.
            tls: connection.peer.is_some() || admitted.is_some_and(|admitted| admitted.gate.is_some()),
            arrived: record.arrived,
        }
    }

    /// The same, of a request that was `routed` so.
    pub(crate) fn of_request(
        proxy: &'a Proxy,
        connection: &Connection,
        record: &Record<'a>,
        routed: &'a Result<Way, Refusal>,
        (request, forward): (&'a RequestHead, &'a Forward),
    ) -> Self {
        let admitted = routed.as_ref().ok().and_then(|way| way.admitted.as_ref());
        Self::new(proxy, connection, record, admitted, Subject::Request { request, forward })
    }

    /// What waits for its end.
    pub(crate) const fn watch(&'a self) -> Watch<'a> {
        Watch { standing: self, waiting: None }
    }

    /// What decides: what policyd said last, and what decides with that.
    fn judge<'j>(&'j self, admitted: &'j Admitted) -> (&'j Current, &'j Checker) {
        match &admitted.gate {
            Some(gate) => (&gate.current, &gate.checker),
            None => (&self.proxy.current, &self.proxy.checker),
        }
    }

    async fn revoked(&self, admitted: &Admitted) -> Revoked {
        let (current, _) = self.judge(admitted);
        let mut changes = current.changes();
        let mut last = (admitted.revision, false);
        loop {
            let applied = current.applied();
            let now = applied.enforced.as_ref().map(|enforced| {
                let is_stale = current.is_stale(&applied, self.proxy.clock.now());
                (enforced.enforcement, (enforced.revision, is_stale))
            });
            drop(applied);
            match now {
                Some((enforcement, now)) if now != last => {
                    last = now;
                    if enforcement == Enforcement::Enforce
                        && let Some(revoked) = Box::pin(self.decide_again(admitted)).await
                    {
                        return revoked;
                    }
                }
                // The bundle names this server no more, and what nobody permits does not leave.
                None if admitted.gate.is_some() => {
                    let refusal = Refusal::NoSuchService(self.service.to_owned());
                    return Revoked { checked: None, refusal };
                }
                _ => {
                    // Never an error: the proxy holds the sender, and so does what was let in.
                    let _changed = changes.changed().await;
                }
            }
        }
    }

    async fn decide_again(&self, admitted: &Admitted) -> Option<Revoked> {
        let (current, checker) = self.judge(admitted);
        let applied = current.applied();
        let claims = match self.end_user(admitted, &applied).await {
            Ok(claims) => claims,
            Err(refusal) => return Some(Revoked { checked: None, refusal }),
        };
        let host = match self.subject {
            Subject::Request { forward, .. } => forward.host(),
            Subject::Connection { .. } => "".into(),
        };
        let head = Head { claims: claims.as_deref(), ..self.head(admitted.action, &applied, &host)? };
        let checked = checker.decide(&head, self.proxy.clock.now(), Head::to_attributes).await;
        self.proxy.observers.decided_again(current, self.request_id, &head, &checked);
        let refusal = admission::refused(&checked)?;
        Some(Revoked { checked: Some(checked), refusal })
    }

    /// Who the end user is. Where nobody was found before, its token is looked for now, as of when it came: its service
    /// may have taken none then, or not have been protected.
    async fn end_user(&self, admitted: &Admitted, applied: &Applied) -> Result<Option<Arc<Claims>>, Refusal> {
        let Subject::Request { request, .. } = self.subject else { return Ok(None) };
        if admitted.claims.is_some() || applied.jwt.takes_none() {
            return Ok(admitted.claims.clone());
        }
        let query = request.target()?.query.unwrap_or_default();
        Ok(applied.jwt.identify(request.fields(), query, self.arrived).await?)
    }

    /// The facts of before. Nothing if there is no request in them, which there was.
    fn head<'h>(&'h self, action: Action, applied: &'h Applied, host: &'h str) -> Option<Head<'h>> {
        let caller = (self.principal, self.source_ip, self.tls);
        let head = Head::of_connection(caller, action, self.service, self.arrived);
        Some(match self.subject {
            Subject::Connection { sni, port } => Head { sni, destination_port: port, ..head },
            Subject::Request { forward, .. } => {
                let operation = applied.operations.find(forward.method(), forward.path());
                Head { operation, ..head.with_request(forward, host).ok()? }
            }
        })
    }
}

impl Watch<'_> {
    /// Ready once what was let in would be refused.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Revoked> {
        let standing = self.standing;
        let Some(admitted) = standing.admitted else { return Poll::Pending };
        self.waiting.get_or_insert_with(|| Box::pin(standing.revoked(admitted))).as_mut().poll(cx)
    }

    /// The same, for who awaits it.
    pub(crate) async fn revoked(mut self) -> Revoked {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}
