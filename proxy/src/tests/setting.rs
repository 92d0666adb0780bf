//! The setting of the tests: certificates, a stand-in policyd, applications, proxies and a raw HTTP client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::config::{self, Config as MeshConfig, Endpoint, Exposure};
use api::policy as wire;
use api::policy::policy_service_server::{PolicyService, PolicyServiceServer};
use bytes::Bytes;
use daemon::{Clock, Lifecycle};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use identity::tls::ClientAuth;
use identity::{Identity, Source, Svid, TrustBundle};
use model::{AtomSet, Attributes, Decision, FailMode, Revision, SpiffeId, Verdict};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use crate::app::{self, Bound};
use crate::config::{AccessLogDestination, Address, Config};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn id(account: &str) -> SpiffeId {
    format!("spiffe://test.example/ns/test/sa/{account}").parse().unwrap()
}

/// One certificate authority.
pub(super) struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    clock: Clock,
}

impl Pki {
    fn new(clock: &Clock) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names = vec![SanType::URI("spiffe://test.example".try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { root, clock: clock.clone() }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new("test.example".parse().unwrap(), [self.root.der().clone()]).unwrap()
    }

    /// A new certificate of `id` that is valid for `life` from now.
    pub(super) fn identity(&self, id: &SpiffeId, life: Duration) -> Identity {
        let now = self.clock.now();
        let time = |time: jiff::Timestamp| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_second().unsigned_abs())
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (time(now - Duration::from_secs(30)), time(now + life));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.root).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { svid: Svid::new(vec![leaf.into()], &key).unwrap(), bundle: self.bundle() }
    }
}

type Decide = Box<dyn Fn(&Attributes, Revision) -> Decision + Send + Sync>;

/// A policyd that says what a test wants.
pub(super) struct FakePolicyd {
    pub(super) address: SocketAddr,
    config: watch::Sender<MeshConfig>,
    decide: Mutex<Decide>,
    take: Mutex<VecDeque<wire::TakeResponse>>,
    pub(super) checks: Mutex<Vec<Attributes>>,
    pub(super) takes: Mutex<Vec<wire::TakeRequest>>,
    acks: mpsc::UnboundedSender<wire::Ack>,
    acked: tokio::sync::Mutex<mpsc::UnboundedReceiver<wire::Ack>>,
    pub(super) lifecycle: Lifecycle,
}

pub(super) fn allow(revision: Revision) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        reasons: vec!["acl.cedar#0".into()],
        message: String::new(),
        limits: vec![],
        rules: vec![],
        valid_for: Duration::from_secs(60),
        revision,
        degraded: false,
    }
}

pub(super) fn deny(revision: Revision) -> Decision {
    Decision { verdict: Verdict::Deny, reasons: vec!["acl.cedar#2".into()], ..allow(revision) }
}

impl FakePolicyd {
    async fn start(pki: &Pki, config: MeshConfig) -> Arc<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (acks, acked) = mpsc::unbounded_channel();
        let policyd = Arc::new(Self {
            address: socket.local_addr().unwrap(),
            config: watch::Sender::new(config),
            decide: Mutex::new(Box::new(|_, revision| allow(revision))),
            take: Mutex::default(),
            checks: Mutex::default(),
            takes: Mutex::default(),
            acks,
            acked: tokio::sync::Mutex::new(acked),
            lifecycle: Lifecycle::new(),
        });
        policyd.serve(socket, pki);
        policyd
    }

    fn serve(self: &Arc<Self>, socket: TcpListener, pki: &Pki) {
        let source = Source::fixed(pki.identity(&id("policyd"), 24 * HOUR));
        let tls =
            identity::tls::server_config(&source, pki.clock.clone(), ClientAuth::Required, identity::tls::H2);
        let incoming = identity::grpc::incoming(socket, tls, &self.lifecycle);
        let service = PolicyServiceServer::from_arc(Arc::clone(self));
        let lifecycle = self.lifecycle.clone();
        drop(self.lifecycle.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, lifecycle.stopping()).await.unwrap();
        }));
    }

    /// What policyd says of a request at its revision of that time.
    pub(super) fn decide(&self, decide: impl Fn(&Attributes, Revision) -> Decision + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    pub(super) fn will_take(&self, response: wire::TakeResponse) {
        self.take.lock().unwrap().push_back(response);
    }

    /// Changes the configuration and waits until a proxy says what it made of it.
    pub(super) async fn change(&self, change: impl FnOnce(&mut MeshConfig)) -> wire::Ack {
        self.config.send_modify(|config| {
            config.revision = config.revision.next();
            change(config);
        });
        let revision: wire::Revision = self.config.borrow().revision.into();
        let mut acked = self.acked.lock().await;
        loop {
            let ack = acked.recv().await.unwrap();
            if ack.revision == Some(revision) {
                return ack;
            }
        }
    }
}

#[tonic::async_trait]
impl PolicyService for FakePolicyd {
    async fn check(
        &self,
        request: tonic::Request<wire::CheckRequest>,
    ) -> Result<tonic::Response<wire::CheckResponse>, Status> {
        let attributes: Attributes = request.into_inner().attributes.unwrap().try_into().unwrap();
        let revision = self.config.borrow().revision;
        let decision = (self.decide.lock().unwrap())(&attributes, revision);
        self.checks.lock().unwrap().push(attributes);
        Ok(tonic::Response::new(wire::CheckResponse { decision: Some(decision.into()) }))
    }

    async fn take(
        &self,
        request: tonic::Request<wire::TakeRequest>,
    ) -> Result<tonic::Response<wire::TakeResponse>, Status> {
        self.takes.lock().unwrap().push(request.into_inner());
        let response = self.take.lock().unwrap().pop_front();
        response.map(tonic::Response::new).ok_or_else(|| Status::unavailable("nothing to take"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<Streaming<wire::WatchRequest>>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let mut messages = request.into_inner();
        let acks = self.acks.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                if let Some(wire::watch_request::Message::Ack(ack)) = message.message {
                    acks.send(ack).unwrap();
                }
            }
        });
        let configs = tokio_stream::wrappers::WatchStream::new(self.config.subscribe());
        let responses = configs.map(|config| {
            let message = wire::watch_response::Message::Config((&config).into());
            Ok(wire::WatchResponse { message: Some(message) })
        });
        let lifecycle = self.lifecycle.clone();
        // A graceful shutdown waits for open streams.
        let stopping = async move { lifecycle.stopping().await };
        Ok(tonic::Response::new(Box::pin(futures_util::StreamExt::take_until(responses, Box::pin(stopping)))))
    }
}

/// What an application was sent.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// An application that answers with its name, and remembers what it was sent.
pub(super) struct Application {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Application {
    pub(super) async fn start(name: &'static str) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let log = Arc::clone(&log);
                let service =
                    hyper::service::service_fn(move |request| answer(name, request, Arc::clone(&log)));
                tokio::spawn(async move {
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, seen }
    }

    pub(super) fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().expect("a request").clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn answer(
    name: &str,
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(collected) = body.collect().await else { return Ok(Response::new(Full::default())) };
    let trailers = collected.trailers().cloned();
    let line = format!("{} {}", parts.method, parts.uri);
    let seen = Seen { line, headers: parts.headers, body: collected.to_bytes(), trailers };
    log.lock().unwrap().push(seen);
    let response = Response::builder()
        .header("x-app", name)
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-tidegate-policy", "forged");
    Ok(response.body(Full::from(name.to_owned())).unwrap())
}

/// Proxies under one policyd and one authority. The default mesh is one service, `shop`.
pub(super) struct Setting {
    pub(super) clock: Clock,
    pub(super) pki: Pki,
    pub(super) policyd: Arc<FakePolicyd>,
}

pub(super) const REVISION: Revision = Revision { epoch: 7, number: 1 };

pub(super) fn service(name: &str, endpoints: &[(&str, SocketAddr)]) -> config::Service {
    let endpoint = |&(instance, address): &(&str, SocketAddr)| Endpoint {
        instance: instance.to_owned(),
        version: String::new(),
        address,
    };
    config::Service {
        name: name.to_owned(),
        spiffe_ids: vec![id(name)],
        endpoints: endpoints.iter().map(endpoint).collect(),
        timeout: Duration::from_secs(5),
        fail_mode: FailMode::Closed,
        denial_exposure: Exposure::Mesh,
        atoms: Some(AtomSet::new(vec![], true)),
    }
}

impl Setting {
    pub(super) async fn new() -> Self {
        let clock = Clock::system();
        let pki = Pki::new(&clock);
        let config =
            MeshConfig { revision: REVISION, services: vec![service("shop", &[])], ..MeshConfig::default() };
        let policyd = FakePolicyd::start(&pki, config).await;
        Self { clock, pki, policyd }
    }

    /// A proxy of `service` before the application at `application`, ready.
    pub(super) async fn proxy(&self, service: &str, application: SocketAddr) -> Bound {
        let source = Source::fixed(self.pki.identity(&id(service), HOUR));
        let bound = self.proxy_with(service, application, source, |_| {}).await;
        bound.readiness.until_ready().await;
        bound
    }

    pub(super) async fn proxy_with(
        &self,
        service: &str,
        application: SocketAddr,
        source: Source,
        change: impl FnOnce(&mut Config),
    ) -> Bound {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            instance: format!("{service}-v1"),
            service: service.to_owned(),
            inbound: any,
            outbound: any,
            ingress: Some(any),
            admin: any,
            application: application.to_string(),
            policyd: Address { address: self.policyd.address, id: id("policyd") },
            ca: Address { address: any, id: id("ca") },
            trust_bundle: self.pki.bundle(),
            join_token: "unused".to_owned(),
            access_log: AccessLogDestination::Off,
            base_dir: std::path::PathBuf::new(),
        };
        change(&mut config);
        let listeners = app::bind(&config).await.unwrap();
        app::build_with(config, listeners, self.clock.clone(), source).await.unwrap()
    }

    /// A proxy of `shop`, and its application.
    pub(super) async fn shop(&self) -> (Bound, Application) {
        let application = Application::start("shop").await;
        let proxy = self.proxy("shop", application.address).await;
        (proxy, application)
    }
}

/// A response, as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Raw {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The `error` of one of the proxy's own answers.
    pub(super) fn error(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("a JSON body");
        json["error"].as_str().unwrap().to_owned()
    }
}

/// A connection on which a test writes and reads what it likes.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads up to and with `mark`.
    pub(super) async fn read_to(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                let rest = self.buffer.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(
                self.fill().await > 0,
                "the connection ended before {mark:?}: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads one response; to a request by HEAD without body.
    pub(super) async fn response(&mut self, to_head: bool) -> Raw {
        let head = self.read_to("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let length =
            headers.get("content-length").map(|value| value.to_str().unwrap().parse::<usize>().unwrap());
        let body = match length {
            _ if to_head => String::new(),
            Some(length) => {
                while self.buffer.len() < length {
                    assert!(self.fill().await > 0, "the body is cut");
                }
                let rest = self.buffer.split_off(length);
                String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap()
            }
            None => self.read_to("0\r\n\r\n").await,
        };
        Raw { status, headers, body }
    }

    /// Whether the other side ends the connection, with nothing more to read.
    pub(super) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().await == 0
    }

    /// Whatever comes next; 0 bytes at the end.
    pub(super) async fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.stream.read(bytes).await.unwrap()
    }

    /// Everything up to the end of the connection.
    pub(super) async fn read_to_end(&mut self, rest: &mut Vec<u8>) {
        while self.fill().await > 0 {}
        rest.append(&mut self.buffer);
    }

    async fn fill(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut bytes));
        let count = read.await.expect("the other side is silent").unwrap();
        self.buffer.extend_from_slice(&bytes[..count]);
        count
    }
}

/// One request on a connection of its own.
pub(super) async fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Raw {
    let mut wire = Wire::open(address).await;
    wire.write(bytes.as_ref()).await;
    wire.response(bytes.as_ref().starts_with(b"HEAD ")).await
}

/// One GET.
pub(super) async fn get(address: SocketAddr, host: &str, path: &str) -> Raw {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}
