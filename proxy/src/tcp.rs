//! Raw connections: decided on once, when they are opened, and passed on as they are.
//!
//! On the way out a local address, or the one that was meant before the kernel redirected it, says which service is
//! called; an instance of it is connected to by mutual TLS, for this one connection. On the way in the decision is on
//! [`Action::Tcp`], for there is nothing in the bytes that policies could read.

mod metrics;

use std::sync::Arc;
use std::time::Duration;

use api::config::{IDLE_TIMEOUT, Protocol};
use daemon::Lifecycle;
use model::{Action, Principal};
use tokio::net::TcpStream;

use crate::applied::Applied;
use crate::attributes::Head;
use crate::exchange::{Direction, Record};
use crate::http1::Buffer;
use crate::ids;
use crate::metrics::Memo;
use crate::request::{Connection, Proxy, Way};
use crate::respond::Refusal;
use crate::standing::{Admitted, REVOKED, Revoked, Standing, Subject};
use crate::stream::Stream;
use crate::tunnel::{self, End, Ended};
use crate::upstream::{Attempts, UpstreamError};
pub(crate) use metrics::Metrics;

/// How long a raw connection may go on once the proxy stops: less than a drain takes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a raw connection goes.
#[derive(Debug)]
pub(crate) enum Target {
    /// To the application behind this proxy. Its caller asked for this server name.
    Own { sni: Option<String> },
    /// To this service.
    Service(String),
}

impl Target {
    fn sni(&self) -> Option<&str> {
        match self {
            Self::Own { sni } => sni.as_deref(),
            Self::Service(_) => None,
        }
    }
}

/// Whether the application behind this proxy takes raw connections.
pub(crate) fn is_own(proxy: &Proxy) -> bool {
    is_raw(&proxy.current.look(), &proxy.service)
}

/// Where a connection in the clear goes, if it is a raw one: one to the local address of a service, one that was meant
/// for an instance of such a service, or one from outside of the mesh to such an application.
pub(crate) fn target(proxy: &Proxy, connection: &Connection, local: Option<&Arc<str>>) -> Option<Target> {
    if let Some(service) = local {
        return Some(Target::Service(service.as_ref().to_owned()));
    }
    if connection.direction != Direction::Outbound {
        return is_own(proxy).then_some(Target::Own { sni: None });
    }
    let applied = proxy.current.look();
    let meant = proxy.interception.meant(connection.original.as_ref(), &applied)?;
    (meant.protocol == Protocol::Tcp).then(|| Target::Service(meant.name.clone()))
}

fn is_raw(applied: &Applied, service: &str) -> bool {
    applied.services.get(service).is_some_and(|service| service.protocol == Protocol::Tcp)
}

/// Serves one raw connection, until it has ended.
pub(crate) async fn serve(
    mut stream: Stream,
    connection: &Connection,
    target: &Target,
    proxy: &Proxy,
    lifecycle: &Lifecycle,
) {
    let principal = proxy.caller(connection);
    let arrival = proxy.arrival(connection, &principal);
    let id = ids::new_request_id();
    let id = std::str::from_utf8(&id).unwrap_or_default();
    let mut memo = Memo::default();
    let mut record = Record::begin(&proxy.observers, &mut memo, arrival, (id, ""));
    record.is_raw = true;
    record.service = match target {
        Target::Own { .. } => &proxy.service,
        Target::Service(service) => service,
    };
    let metrics = &proxy.observers.metrics.tcp;
    let routed = match target {
        Target::Own { .. } => proxy.let_connect(&mut record, connection, &principal, target.sni()).await,
        Target::Service(service) => proxy.find_raw(&mut record, connection, &principal, service).await,
    };
    let served = match routed {
        Ok(way) => {
            let subject = Subject::Connection { sni: target.sni(), port: way.service.port() };
            let standing = Standing::new(proxy, connection, &record, way.admitted.as_ref(), subject);
            pass(&mut stream, &way, &mut record, &standing, lifecycle).await
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = served {
        metrics.refused(connection.direction, record.service, &refusal);
        proxy.turn_away(&mut record, &refusal);
        stream.abort();
    }
}

impl Proxy {
    /// From the application to a service of the mesh, whose own sidecar decides, or to one outside of it, for which this
    /// one does.
    async fn find_raw(
        &self,
        record: &mut Record<'_>,
        connection: &Connection,
        principal: &Principal,
        name: &str,
    ) -> Result<Way, Refusal> {
        let applied = self.current.applied();
        if applied.services.is_empty() {
            return Err(Refusal::NoConfig);
        }
        let service = applied.services.get(name).ok_or_else(|| Refusal::NoSuchService(name.to_owned()))?;
        if service.protocol != Protocol::Tcp {
            return Err(Refusal::NoConnections(name.to_owned()));
        }
        self.interception.not_back(connection.original.as_ref())?;
        let way = Way::to(Arc::clone(service), Protocol::Tcp);
        if way.service.external.is_none() {
            return Ok(way);
        }
        let gate = self.gate(name)?;
        // It leaves by TLS, and its caller is as well known as any.
        let caller = (principal, connection.caller.ip(), true);
        let head = Head::of_connection(caller, Action::Tcp, name, record.arrived);
        let head = Head { destination_port: way.service.port(), ..head };
        let _balances = self.admit((&gate.current, &gate.checker), record, &head).await?;
        let revision = record.revision();
        let admitted = Some(Admitted { action: Action::Tcp, claims: None, revision, gate: Some(gate) });
        Ok(Way { admitted, ..way })
    }

    /// From a caller to the application, if policies and limits allow it.
    async fn let_connect(
        &self,
        record: &mut Record<'_>,
        connection: &Connection,
        principal: &Principal,
        sni: Option<&str>,
    ) -> Result<Way, Refusal> {
        self.not_in_the_clear(connection)?;
        let application = self.interception.application(connection.original.as_ref(), &self.application)?;
        let caller = (principal, connection.caller.ip(), connection.peer.is_some());
        let head = Head::of_connection(caller, Action::Tcp, &self.service, record.arrived);
        let head = Head { sni, destination_port: application.port(), ..head };
        // What a limit has left is told to callers of HTTP alone.
        let _balances = self.admit((&self.current, &self.checker), record, &head).await?;
        let applied = self.current.look();
        let own = applied.services.get(&self.service);
        let greeting = self.greeting(connection, None);
        let revision = record.revision();
        let admitted = Some(Admitted { action: Action::Tcp, claims: None, revision, gate: None });
        Ok(Way { admitted, greeting, ..Way::to_application(application, own, Protocol::Tcp) })
    }
}

/// Connects, and passes everything on. Refused while nothing has been passed on.
async fn pass(
    stream: &mut Stream,
    way: &Way,
    record: &mut Record<'_>,
    standing: &Standing<'_>,
    lifecycle: &Lifecycle,
) -> Result<(), Refusal> {
    let proxy = standing.proxy;
    let name = || way.service.name.clone();
    let mut attempts = Attempts::new(way, &proxy.observers.metrics, false);
    let dialled = tokio::time::timeout(way.timeout, attempts.dial()).await;
    let dialled =
        dialled.map_err(|_late| UpstreamError::Timeout { service: name(), timeout: way.timeout })?;
    let (endpoint, mut up) = dialled.ok_or_else(|| UpstreamError::NoneHealthy { service: name() })?;
    record.upstream = Some(endpoint);
    let counts = proxy.observers.metrics.tcp.opened(record.direction, record.service);
    let (mut read, mut read_above) = (Buffer::default(), Buffer::default());
    let (started, tenure) = (&mut *record, up.tenure());
    let below = End { stream, read: &mut read };
    let above = End { stream: &mut up.stream, read: &mut read_above };
    let tell = |passed| {
        counts.passed((started.request_bytes, started.response_bytes), passed);
        (started.request_bytes, started.response_bytes) = passed;
    };
    let cut = async {
        tokio::select! {
            revoked = standing.watch().revoked() => Cut::Revoked(revoked),
            () = drained(lifecycle) => Cut::Because("stopping"),
            () = ended(proxy, tenure) => Cut::Because("certificate_ended"),
        }
    };
    let ended = tunnel::run(below, above, way.idle_timeout, tell, cut).await;
    record.error = match ended {
        Ended::Whole => {
            record.completed();
            return Ok(());
        }
        Ended::Broken => Some("broken"),
        Ended::Idle => Some("idle_timeout"),
        Ended::Cut(Cut::Because(why)) => Some(why),
        Ended::Cut(Cut::Revoked(revoked)) => {
            proxy.observers.metrics.tcp.ended(record.direction, record.service, REVOKED);
            record.revoked(revoked);
            Some(REVOKED)
        }
    };
    // Neither side may take what it has got for all.
    stream.abort();
    up.stream.abort();
    Ok(())
}

/// Why a raw connection is not to go on.
enum Cut {
    Because(&'static str),
    Revoked(Revoked),
}

/// Resolves when a connection has had its time after the proxy has begun to stop.
pub(crate) async fn drained(lifecycle: &Lifecycle) {
    lifecycle.stopping().await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}

/// Passes on what an application has said to a host outside of the mesh, called `service` in logs, and what that says.
pub(crate) async fn relay_outside(
    stream: &mut Stream,
    server: TcpStream,
    service: &'static str,
    connection: &Connection,
    proxy: &Proxy,
    lifecycle: &Lifecycle,
) {
    let principal = proxy.caller(connection);
    let arrival = proxy.arrival(connection, &principal);
    let id = ids::new_request_id();
    let mut memo = Memo::default();
    let id = std::str::from_utf8(&id).unwrap_or_default();
    let mut record = Record::begin(&proxy.observers, &mut memo, arrival, (id, ""));
    (record.is_raw, record.service) = (true, service);
    let counts = proxy.observers.metrics.tcp.opened(record.direction, service);
    let (mut up, mut read, mut read_above) = (Stream::Plain(server), Buffer::default(), Buffer::default());
    let tell = |passed| {
        counts.passed((record.request_bytes, record.response_bytes), passed);
        (record.request_bytes, record.response_bytes) = passed;
    };
    let below = End { stream: &mut *stream, read: &mut read };
    let above = End { stream: &mut up, read: &mut read_above };
    match tunnel::run(below, above, IDLE_TIMEOUT, tell, drained(lifecycle)).await {
        Ended::Whole => return record.completed(),
        Ended::Broken => record.error = Some("broken"),
        Ended::Idle => record.error = Some("idle_timeout"),
        Ended::Cut(()) => record.error = Some("stopping"),
    }
    stream.abort();
    up.abort();
}

async fn ended(proxy: &Proxy, tenure: Option<identity::Tenure>) {
    match tenure {
        Some(tenure) => proxy.clock.sleep_until(tenure.cut_at).await,
        None => std::future::pending().await,
    }
}
