//! One request's way, whatever protocol it came by: who sent it, where it goes, and whether it may.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::config::{Mtls, Protocol};
use daemon::Clock;
use http::Response;
use identity::tls::Peer;
use identity::{Source, Tenure};
use model::{Action, Principal};
use tokio::time::Instant;

use crate::admission;
use crate::applied::{Applied, Current};
use crate::attributes::Head;
use crate::check::Checker;
use crate::cutter::Cutter;
use crate::egress::{Egress, Gate};
use crate::endpoints::Service;
use crate::exchange::{Arrival, Direction, Observers, Record};
use crate::framing::Malformed;
use crate::http1::{Forward, RequestHead};
use crate::http2::grpc;
use crate::intercept::{Interception, Original};
use crate::introduction::{Forwarding, Introduction};
use crate::limits::Balance;
use crate::load::Load;
use crate::policy_client::Policyd;
use crate::proxy_protocol::{Greeting, ProxyProtocol, Version};
use crate::respond::{self, Refusal};
use crate::standing::Admitted;
use crate::upstream::UpstreamError;

/// Everything that serving a request takes.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The service that this proxy enforces for.
    pub service: String,
    /// The application behind it.
    pub application: Arc<Service>,
    pub interception: Interception,
    /// What callers of the ingress begin with, if anything.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What is believed of earlier hops.
    pub forwarding: Forwarding,
    /// What connections to the application begin with, if anything.
    pub greets_application: Option<Version>,
    pub source: Source,
    pub policyd: Arc<dyn Policyd>,
    pub current: Current,
    pub checker: Checker,
    /// What decides on calls that leave the mesh.
    pub egress: Egress,
    pub observers: Arc<Observers>,
    /// The connections that are to be cut.
    pub cutter: Cutter,
    pub clock: Clock,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub direction: Direction,
    pub protocol: Protocol,
    pub caller: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// Who is at the other end, if it was verified.
    pub peer: Option<Peer>,
    /// How long it may be used, by the peer's certificate; for ever without one.
    pub tenure: Option<Tenure>,
    /// The requests that have come the same way.
    pub load: Load,
    /// Where it was meant to go, if the kernel has redirected it here.
    pub original: Option<Original>,
}

impl Connection {
    /// Whether it came to the port for other sidecars, and from none that is known.
    pub(crate) const fn is_in_the_clear(&self) -> bool {
        matches!(self.direction, Direction::Inbound) && self.peer.is_none()
    }
}

/// Where a request may go.
#[derive(Debug)]
pub(crate) struct Way {
    pub service: Arc<Service>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// How long the response's head may take.
    pub timeout: Duration,
    /// How long a tunnel may be silent.
    pub idle_timeout: Duration,
    /// The limits it was charged to.
    pub balances: Vec<Balance>,
    /// What it was decided on, if it was decided here.
    pub admitted: Option<Admitted>,
    /// What its connection has to have begun with.
    pub greeting: Option<Greeting>,
}

impl Way {
    /// To `service`, by `protocol`.
    pub(crate) fn to(service: Arc<Service>, protocol: Protocol) -> Self {
        let (timeout, idle_timeout) = (service.timeout, service.idle_timeout);
        Self {
            service,
            protocol,
            timeout,
            idle_timeout,
            balances: Vec::new(),
            admitted: None,
            greeting: None,
        }
    }

    /// To `application`, with the time that its service, `own`, has in the mesh if it is known there.
    pub(crate) fn to_application(
        application: &Arc<Service>,
        own: Option<&Arc<Service>>,
        protocol: Protocol,
    ) -> Self {
        let Service { timeout, idle_timeout, .. } = **own.unwrap_or(application);
        Self { timeout, idle_timeout, ..Self::to(Arc::clone(application), protocol) }
    }

    /// What to say when the response's head has taken too long.
    pub(crate) fn too_late(&self) -> Refusal {
        UpstreamError::Timeout { service: self.service.name.clone(), timeout: self.timeout }.into()
    }

    /// The same for a caller that waits no longer than `patience`.
    pub(crate) fn within(mut self, patience: Option<Duration>) -> Self {
        self.timeout = patience.unwrap_or(self.timeout).min(self.timeout);
        self
    }
}

impl Proxy {
    /// Finds where `forward`, the form of `request`, may go, or refuses it.
    pub(crate) async fn route<'a>(
        &'a self,
        record: &mut Record<'a>,
        connection: &Connection,
        applied: &'a Applied,
        request: &RequestHead,
        forward: &'a Forward,
    ) -> Result<Way, Refusal> {
        record.client = forward.client().unwrap_or(record.client);
        match connection.direction {
            Direction::Outbound => {
                let way = self.find(record, connection, applied, forward)?;
                if way.service.external.is_some() {
                    self.let_out(record, way, forward).await
                } else {
                    Ok(way)
                }
            }
            Direction::Inbound | Direction::Ingress => {
                self.let_in(record, connection, applied, request, forward).await
            }
        }
    }

    /// From the application to a service of the mesh, whose own sidecar decides; or beyond, if it may call there.
    fn find<'a>(
        &self,
        record: &mut Record<'a>,
        connection: &Connection,
        applied: &'a Applied,
        forward: &'a Forward,
    ) -> Result<Way, Refusal> {
        let host = forward.host();
        let (name, service) = match applied.services.get(host.as_ref()) {
            Some(service) => (service.name.as_str(), Arc::clone(service)),
            None => self.interception.elsewhere(connection.original.as_ref(), applied, &host)?,
        };
        record.service = name;
        if service.protocol == Protocol::Tcp {
            return Err(Refusal::NoRequests(name.to_owned()));
        }
        // The other sidecar speaks both, and translates for its application.
        Ok(Way::to(service, connection.protocol))
    }

    /// From the application to a service outside of the mesh, if policies and limits allow it.
    async fn let_out(&self, record: &mut Record<'_>, way: Way, forward: &Forward) -> Result<Way, Refusal> {
        let gate = self.gate(&way.service.name)?;
        let applied = gate.current.applied();
        let operation = applied.operations.find(forward.method(), forward.path());
        let protocol = way.service.protocol;
        let host = forward.host();
        let action = action(forward, protocol, operation)?;
        // It leaves by TLS, and its caller is as well known as any.
        let caller = (record.principal, record.client, true);
        let head = Head::of_connection(caller, action, &way.service.name, record.arrived);
        let head = Head { operation, ..head.with_request(forward, &host)? };
        let balances = Box::pin(self.admit((&gate.current, &gate.checker), record, &head)).await?;
        drop(applied);
        let admitted = Some(Admitted { action, claims: None, revision: record.revision(), gate: Some(gate) });
        Ok(Way { protocol, balances, admitted, ..way })
    }

    /// What decides on calls to `service`, which is outside of the mesh.
    pub(crate) fn gate(&self, service: &str) -> Result<Arc<Gate>, Refusal> {
        let untold =
            || Refusal::PolicyUnavailable("policyd has not sent this service's policies yet".to_owned());
        self.egress.of(service).ok_or_else(untold)
    }

    /// From a caller to the application, if policies and limits allow it.
    async fn let_in<'a>(
        &'a self,
        record: &mut Record<'a>,
        connection: &Connection,
        applied: &'a Applied,
        request: &RequestHead,
        forward: &'a Forward,
    ) -> Result<Way, Refusal> {
        record.service = &self.service;
        let application = self.interception.application(connection.original.as_ref(), &self.application)?;
        let operation = applied.operations.find(forward.method(), forward.path());
        record.operation = operation;
        let claims = self.end_user(record, applied, request).await?;
        let own = applied.services.get(&self.service);
        let protocol = own.map(|service| service.protocol).unwrap_or_default();
        if protocol == Protocol::Tcp {
            // Its connection was opened before the service had this protocol.
            return Err(Refusal::NoRequests(self.service.clone()));
        }
        let action = action(forward, protocol, operation)?;
        self.not_in_the_clear(connection)?;
        let host = forward.host();
        let caller = (record.principal, record.client, connection.peer.is_some());
        let head = Head::of_connection(caller, action, &self.service, record.arrived);
        let head = Head { claims: claims.as_deref(), operation, ..head.with_request(forward, &host)? };
        let balances = self.admit((&self.current, &self.checker), record, &head).await?;
        let greeting = self.greeting(connection, forward.client());
        let admitted = Some(Admitted { action, claims, revision: record.revision(), gate: None });
        Ok(Way { balances, admitted, greeting, ..Way::to_application(application, own, protocol) })
    }

    /// That a connection came as the callers of this proxy's service have to come.
    ///
    /// # Errors
    /// If it came from another sidecar's place in the clear, and that is not taken any more.
    pub(crate) fn not_in_the_clear(&self, connection: &Connection) -> Result<(), Refusal> {
        let is_strict = connection.is_in_the_clear() && self.mtls() == Mtls::Strict;
        if is_strict { Err(Refusal::InTheClear) } else { Ok(()) }
    }

    /// What the application is told of a caller before its first word, if it wants that. `client` is whom a load
    /// balancer named.
    pub(crate) fn greeting(&self, connection: &Connection, client: Option<IpAddr>) -> Option<Greeting> {
        self.greets_application.map(|version| {
            let source = client.map_or(connection.caller, |client| SocketAddr::new(client, 0));
            Greeting::new(version, source, connection.local)
        })
    }

    /// The answer to a call of gRPC that is refused.
    pub(crate) fn refuse_call(&self, record: &mut Record<'_>, refusal: &Refusal) -> Response<Vec<u8>> {
        let answer = self.refuse(record, refusal);
        let message = respond::message(refusal, answer.headers().contains_key(respond::POLICY));
        let is_identified = matches!(record.principal, Principal::Workload(_));
        grpc::refusal(grpc::code(refusal, is_identified), &message, answer)
    }

    /// Notes that a raw connection is refused.
    pub(crate) fn turn_away(&self, record: &mut Record<'_>, refusal: &Refusal) {
        record.error = Some(refusal.code());
        admission::tell_of(record, refusal, "denied", "refused");
    }

    /// The answer to a request that is refused.
    pub(crate) fn refuse(&self, record: &mut Record<'_>, refusal: &Refusal) -> Response<Vec<u8>> {
        record.error = Some(refusal.code());
        let gate =
            (record.direction == Direction::Outbound).then(|| self.egress.of(record.service)).flatten();
        let applied = gate.as_ref().map_or(&self.current, |gate| &gate.current).look();
        let exposure = applied.enforced.as_ref().map(|enforced| enforced.denial_exposure).unwrap_or_default();
        admission::tell_of(record, refusal, "denied", "refused");
        respond::refuse(refusal, record.request_id, exposure.tells(record.principal))
    }

    /// What this proxy takes of others. Nothing in the clear before policyd has said that it may.
    pub(crate) fn mtls(&self) -> Mtls {
        self.current.look().services.get(&self.service).map(|own| own.mtls).unwrap_or_default()
    }

    /// Who sends the requests that come over `connection`.
    pub(crate) fn caller(&self, connection: &Connection) -> Principal {
        match (&connection.peer, connection.direction) {
            (Some(peer), _) => Principal::Workload(peer.id.clone()),
            (None, Direction::Outbound) => Principal::Workload(self.source.current().svid.id.clone()),
            (None, _) => Principal::Unauthenticated,
        }
    }

    /// A request or raw connection of `principal` that arrives now, by `connection`.
    pub(crate) fn arrival<'a>(&self, connection: &Connection, principal: &'a Principal) -> Arrival<'a> {
        Arrival {
            started: Instant::now(),
            at: self.clock.now(),
            direction: connection.direction,
            principal,
            client: connection.caller.ip(),
            is_mutual: connection.peer.is_some(),
        }
    }

    /// What the application is told of the caller at the other end of `connection`.
    pub(crate) fn introduction(&self, connection: &Connection) -> Introduction {
        let address = connection.caller.ip();
        let Forwarding { trusted_hops, appends_client_cert } = self.forwarding;
        match (&connection.peer, connection.direction) {
            (_, Direction::Outbound) => Introduction::Nothing { passes_client_cert: appends_client_cert },
            (Some(peer), _) => {
                let client_cert = format!("By={};URI={}", self.source.current().svid.id, peer.id);
                Introduction::Mesh { address, client_cert, appends_client_cert }
            }
            (None, Direction::Ingress) => Introduction::Outside { address, trusted_hops },
            // The hops that are trusted stand before the ingress.
            (None, Direction::Inbound) => Introduction::Outside { address, trusted_hops: 0 },
        }
    }
}

/// What a request asks for. Its caller chooses the content type, so that is believed only where it makes a difference to
/// the application too: a call of gRPC needs HTTP/2. What is declared as an operation is that operation.
pub(crate) fn action(
    forward: &Forward,
    protocol: Protocol,
    operation: Option<&str>,
) -> Result<Action, Malformed> {
    if protocol != Protocol::Http2 || operation.is_some() || !grpc::is_call(forward.fields()) {
        return Ok(Action::Http);
    }
    if forward.fields().named("content-type").nth(1).is_some() {
        return Err(Malformed::ContentTypes);
    }
    Ok(if forward.method() == "POST" { Action::Grpc } else { Action::Http })
}
