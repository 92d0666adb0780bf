//! The life of one request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::Clock;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use identity::Source;
use identity::tls::Peer;
use model::Principal;

use crate::admission;
use crate::applied::Current;
use crate::attributes::Head;
use crate::body::{self, Body};
use crate::check::Checker;
use crate::endpoints::Service;
use crate::exchange::{Direction, Observers, Record};
use crate::framing::{self, Malformed};
use crate::headers;
use crate::path::{self, Query};
use crate::policy_client::Policyd;
use crate::respond::{self, Refusal};
use crate::upstream;

/// Everything that serving a request takes.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The service that this proxy enforces for.
    pub service: String,
    /// The application behind it.
    pub application: Service,
    pub source: Source,
    pub policyd: Arc<dyn Policyd>,
    pub current: Current,
    pub checker: Checker,
    pub observers: Arc<Observers>,
    pub clock: Clock,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub direction: Direction,
    pub address: IpAddr,
    /// Who is at the other end, if it was verified.
    pub peer: Option<Peer>,
}

/// A request in the form in which it is decided on and forwarded.
struct Prepared {
    request: Request<Body>,
    host: String,
    path: String,
    query: String,
}

impl Proxy {
    /// Answers `request`; `malformed` says that it only stands for one that was refused at the gate.
    pub(crate) async fn serve(
        &self,
        connection: &Connection,
        mut request: Request<Incoming>,
        malformed: Option<Malformed>,
    ) -> Response<Body> {
        let ids = headers::ids(request.headers_mut());
        let mut record = Record::begin(&self.observers, connection.direction, self.caller(connection), ids);
        let answer = match malformed {
            Some(malformed) => Err(malformed.into()),
            None => self.answer(&mut record, connection, request).await,
        };
        let response = answer.unwrap_or_else(|refusal| self.refuse(&mut record, &refusal));
        record.answered(response.status());
        response.map(|body| body::recorded(body, record))
    }

    async fn answer(
        &self,
        record: &mut Record,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        record.method = request.method().to_string();
        record.path = request.uri().path().to_owned();
        let prepared = prepare(request, record)?;
        record.path.clone_from(&prepared.path);
        match connection.direction {
            Direction::Outbound => self.send_out(record, prepared).await,
            Direction::Inbound | Direction::Ingress => self.let_in(record, connection, prepared).await,
        }
    }

    /// From the application to a service of the mesh. The service's own sidecar decides.
    async fn send_out(&self, record: &mut Record, prepared: Prepared) -> Result<Response<Body>, Refusal> {
        let applied = self.current.applied();
        let Some(service) = applied.services.get(&prepared.host) else {
            return Err(if applied.services.is_empty() {
                Refusal::NoConfig
            } else {
                Refusal::NoSuchService(prepared.host)
            });
        };
        record.service.clone_from(&service.name);
        self.forward(record, service, service.timeout, prepared.request).await
    }

    /// From a caller to the application, if policies and limits allow it.
    async fn let_in(
        &self,
        record: &mut Record,
        connection: &Connection,
        mut prepared: Prepared,
    ) -> Result<Response<Body>, Refusal> {
        record.service.clone_from(&self.service);
        self.introduce(connection, &mut prepared.request);
        let principal = record.principal.clone();
        let applied = self.current.applied();
        let head = Head {
            principal: &principal,
            service: &self.service,
            method: prepared.request.method(),
            path: &prepared.path,
            query: Query::new(&prepared.query)?,
            host: &prepared.host,
            headers: prepared.request.headers(),
            operation: applied.operations.find(prepared.request.method().as_str(), &prepared.path),
            source_ip: connection.address.to_canonical(),
            tls: connection.peer.is_some(),
            time: record.arrived,
        };
        let balances = self.admit(record, &head).await?;
        let timeout = self.current.applied().services.get(&self.service).map(|service| service.timeout);
        let timeout = timeout.unwrap_or(self.application.timeout);
        let mut response = self.forward(record, &self.application, timeout, prepared.request).await?;
        headers::strip_own(response.headers_mut());
        respond::set_rate_limit(response.headers_mut(), &balances);
        Ok(response)
    }

    /// Tells the application who calls, and through whom.
    fn introduce(&self, connection: &Connection, request: &mut Request<Body>) {
        let headers = request.headers_mut();
        match &connection.peer {
            Some(peer) => {
                headers::forwarded_in_mesh(headers, connection.address);
                headers::set_client_cert(headers, &self.source.current().svid.id, &peer.id);
            }
            None => headers::forwarded_from_outside(headers, connection.address),
        }
    }

    async fn forward(
        &self,
        record: &mut Record,
        service: &Service,
        timeout: Duration,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let answer = upstream::forward(service, timeout, request, &self.observers.metrics).await?;
        record.upstream = Some(answer.endpoint);
        let mut response = answer.response;
        headers::strip_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    fn refuse(&self, record: &mut Record, refusal: &Refusal) -> Response<Body> {
        record.error = Some(refusal.code());
        let exposure = self
            .current
            .applied()
            .enforced
            .as_ref()
            .map(|enforced| enforced.denial_exposure)
            .unwrap_or_default();
        admission::tell_of(record, refusal, "denied", "refused");
        respond::refuse(refusal, &record.ids.request_id, respond::shows_policy(exposure, &record.principal))
    }

    fn caller(&self, connection: &Connection) -> Principal {
        match (&connection.peer, connection.direction) {
            (Some(peer), _) => Principal::Workload(peer.id.clone()),
            (None, Direction::Outbound) => Principal::Workload(self.source.current().svid.id.clone()),
            (None, _) => Principal::Unauthenticated,
        }
    }
}

/// Brings a request into the form in which it is decided on and forwarded: they must be the same.
fn prepare(request: Request<Incoming>, record: &Record) -> Result<Prepared, Refusal> {
    let (mut parts, incoming) = request.into_parts();
    let authority = match parts.uri.authority() {
        // RFC 9112 3.2.2: the authority of a target in absolute form replaces Host.
        Some(authority) => {
            let value = HeaderValue::from_str(authority.as_str()).map_err(|_error| Malformed::Host)?;
            parts.headers.insert(header::HOST, value);
            authority.as_str().to_owned()
        }
        None => {
            parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned()
        }
    };
    // HTTP/1.0 may come without Host.
    let host = framing::host_name(&authority).unwrap_or_default();
    let path = path::normalise(parts.uri.path())?;
    let query = parts.uri.query().map(str::to_owned);
    let target = query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let target: PathAndQuery = target.parse().map_err(|_error| Malformed::Target)?;
    parts.uri = Uri::from(target);
    parts.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_own(&mut parts.headers);
    let body = body::counted(incoming, Arc::clone(&record.request_bytes));
    Ok(Prepared { request: Request::from_parts(parts, body), host, path, query: query.unwrap_or_default() })
}
