//! The gRPC surface, over real mutual TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pki;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::policy::policy_service_client::PolicyServiceClient;
use api::policy::{self as wire, watch_request, watch_response};
use daemon::{Clock, Lifecycle, Readiness};
use identity::tls;
use model::SpiffeId;
use tempfile::TempDir;
use tidegate_policyd::delivery::{self, Delivery};
use tidegate_policyd::limits::Store;
use tidegate_policyd::metrics::Metrics;
use tidegate_policyd::server::{CHARGES_MAX, KEY_SIZE_MAX, MESSAGE_SIZE_MAX, Server};
use tidegate_policyd::source::{Source, Surroundings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use pki::Pki;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
  stock: {namespace: depot, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";
const ACL: &str = r#"
@id("open") permit (principal, action == Action::"http", resource) when { context.path like "/open*" };
@id("depot") permit (principal, action == Action::"http", resource == Service::"stock") when { context.method == "GET" };
"#;
const LIMITS: &str = "\
limits:
  - {name: wide, rate: 100/h}
  - {name: narrow, service: stock, rate: 1/h}
  - {name: alone, service: stock, rate: 1/h, scope: local}
  - {name: other, service: orders, rate: 1/h}
";

/// A policyd without the parts that need a CA.
struct Policyd {
    pki: Pki,
    address: SocketAddr,
    clock: Clock,
    lifecycle: Lifecycle,
    folder: TempDir,
}

impl Policyd {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("mesh.yaml", MESH), ("acl.cedar", ACL), ("limits.yaml", LIMITS)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (pki, clock, lifecycle) = (Pki::new(), Clock::system(), Lifecycle::new());
        let metrics = Arc::new(Metrics::new(&daemon::Metrics::new()));
        let surroundings =
            Surroundings { metrics: metrics.clone(), readiness: Readiness::new(), clock: Clock::system() };
        let delivery = Delivery::open(delivery::Config::folder(folder.path().to_owned())).unwrap();
        let source = Source::start(delivery, 1, surroundings).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            current: source.current(),
            limits: Mutex::new(Store::default()),
            addresses: Arc::new([("stock-v1".to_owned(), "127.0.0.1:9".parse().unwrap())].into()),
            clock: clock.clone(),
            lifecycle: lifecycle.clone(),
            metrics,
        };
        server.serve(listener, &pki.source(&id()));
        lifecycle.spawn(source.run(lifecycle.clone()));
        Self { pki, address, clock, lifecycle, folder }
    }

    /// A client with the identity of this service.
    fn client(&self, namespace: &str, service: &str) -> PolicyServiceClient<Channel> {
        let id = domain().workload(namespace, service).unwrap();
        let config = tls::client_config(&self.pki.source(&id), Clock::system(), vec![self::id()], tls::H2);
        PolicyServiceClient::new(identity::grpc::channel(self.address, config))
    }

    async fn stop(self) {
        assert!(self.lifecycle.drain(Duration::from_secs(10)).await, "something does not stop");
    }
}

fn domain() -> model::TrustDomain {
    "shop.example".parse().unwrap()
}

fn id() -> SpiffeId {
    identity::policyd_id(&domain()).unwrap()
}

fn check(service: &str, path: &str) -> wire::CheckRequest {
    let attributes = wire::Attributes {
        principal: "spiffe://shop.example/ns/shop/sa/orders".into(),
        action: "http".into(),
        resource: service.into(),
        method: "GET".into(),
        path: path.into(),
        host: service.into(),
        source_ip: "127.0.0.1".into(),
        tls: true,
        ..wire::Attributes::default()
    };
    wire::CheckRequest { attributes: Some(attributes) }
}

fn take(charges: &[(&str, &str)]) -> wire::TakeRequest {
    let charge = |(limit, key): &(&str, &str)| wire::Charge { limit: (*limit).into(), key: (*key).into() };
    wire::TakeRequest { service: "stock".into(), charges: charges.iter().map(charge).collect() }
}

#[tokio::test]
async fn a_service_may_ask_about_itself_alone() {
    let policyd = Policyd::start().await;
    let mut stock = policyd.client("depot", "stock");
    let decision = stock.check(check("stock", "/")).await.unwrap().into_inner().decision.unwrap();
    assert_eq!((decision.verdict(), decision.reasons), (wire::Verdict::Allow, vec!["depot".to_owned()]));
    assert_eq!(decision.limits, ["alone", "narrow", "wide"]);
    assert_eq!(decision.revision, Some(wire::Revision { epoch: 1, number: 1 }));
    let codes = [
        (stock.check(check("orders", "/")).await.unwrap_err(), Code::PermissionDenied),
        (stock.check(check("nothing", "/")).await.unwrap_err(), Code::NotFound),
        (stock.check(wire::CheckRequest::default()).await.unwrap_err(), Code::InvalidArgument),
        (
            policyd.client("shop", "stock").check(check("stock", "/")).await.unwrap_err(),
            Code::PermissionDenied,
        ),
        (policyd.client("shop", "orders").take(take(&[])).await.unwrap_err(), Code::PermissionDenied),
    ];
    for (status, code) in codes {
        assert_eq!(status.code(), code, "{status}");
    }
    drop(stock);
    policyd.stop().await;
}

#[tokio::test]
async fn nobody_connects_without_a_certificate_of_the_trust_domain() {
    let policyd = Policyd::start().await;
    let anonymous = tls::anonymous_client_config(policyd.pki.bundle(), Clock::system(), vec![id()], tls::H2);
    let stranger = Pki::new().source(&domain().workload("depot", "stock").unwrap());
    stranger
        .replace(identity::Identity { svid: stranger.current().svid.clone(), bundle: policyd.pki.bundle() });
    let forged = tls::client_config(&stranger, Clock::system(), vec![id()], tls::H2);
    for config in [anonymous, forged] {
        let mut client = PolicyServiceClient::new(identity::grpc::channel(policyd.address, config));
        let status = client.check(check("stock", "/")).await.unwrap_err();
        assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}");
    }
    policyd.stop().await;
}

#[tokio::test]
async fn a_connection_is_worth_no_more_than_the_certificate_it_began_with() {
    let policyd = Policyd::start().await;
    let mut orders = policyd.client("shop", "orders");
    let (_sender, mut answers) = watch(&mut orders, hello("orders")).await.unwrap();
    assert!(matches!(next(&mut answers).await, watch_response::Message::Config(_)));
    assert!(orders.check(check("orders", "/open")).await.is_ok());
    policyd.clock.advance(Duration::from_secs(3 * 86_400));
    let status = orders.check(check("orders", "/open")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    while let Ok(Some(_heartbeat)) = answers.message().await {}
    drop(orders);
    policyd.stop().await;
}

#[tokio::test]
async fn input_has_limits() {
    let policyd = Policyd::start().await;
    let mut stock = policyd.client("depot", "stock");
    let mut large = check("stock", "/");
    let header = ("x".to_owned(), "a".repeat(MESSAGE_SIZE_MAX));
    large.attributes.as_mut().unwrap().headers = [header].into();
    assert_eq!(stock.check(large).await.unwrap_err().code(), Code::OutOfRange);
    let many = vec![("wide", "k"); CHARGES_MAX + 1];
    assert_eq!(stock.take(take(&many)).await.unwrap_err().code(), Code::InvalidArgument);
    let long = "k".repeat(KEY_SIZE_MAX + 1);
    assert_eq!(stock.take(take(&[("wide", &long)])).await.unwrap_err().code(), Code::InvalidArgument);
    for services in [vec![], vec!["stock".to_owned(); 101]] {
        let hello = wire::Hello { instance: "x".into(), services };
        let status = watch(&mut stock, watch_request::Message::Hello(hello)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let hello = wire::Hello { instance: "x".repeat(257), services: vec!["stock".into()] };
    let status = watch(&mut stock, watch_request::Message::Hello(hello)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    drop(stock);
    policyd.stop().await;
}

#[tokio::test]
async fn limits_are_taken_all_or_none() {
    let policyd = Policyd::start().await;
    let mut stock = policyd.client("depot", "stock");
    let both = take(&[("wide", "k"), ("narrow", "k")]);
    let first = stock.take(both.clone()).await.unwrap().into_inner();
    assert!(first.allowed);
    let second = stock.take(both).await.unwrap().into_inner();
    assert!(!second.allowed);
    let left: Vec<(&str, u32)> = second.balances.iter().map(|b| (b.limit.as_str(), b.remaining)).collect();
    assert_eq!(left, [("wide", 99), ("narrow", 0)], "nothing was taken from the wide one");
    assert!(second.balances[1].retry_after_ms > 3_500_000);
    for not_for_it in ["alone", "other", "unknown"] {
        let status = stock.take(take(&[("wide", "k"), (not_for_it, "k")])).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{not_for_it}");
    }
    drop(stock);
    policyd.stop().await;
}

type Watching = (mpsc::Sender<wire::WatchRequest>, Streaming<wire::WatchResponse>);

async fn watch(
    client: &mut PolicyServiceClient<Channel>,
    first: watch_request::Message,
) -> Result<Watching, tonic::Status> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(wire::WatchRequest { message: Some(first) }).await.unwrap();
    let answers = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
    Ok((sender, answers))
}

fn hello(service: &str) -> watch_request::Message {
    watch_request::Message::Hello(wire::Hello { instance: "one".into(), services: vec![service.into()] })
}

async fn next(answers: &mut Streaming<wire::WatchResponse>) -> watch_response::Message {
    answers.message().await.unwrap().unwrap().message.unwrap()
}

#[tokio::test]
async fn a_proxy_is_told_of_every_change_and_of_its_own_services_policies_alone() {
    let policyd = Policyd::start().await;
    let mut client = policyd.client("shop", "orders");
    let (_sender, mut answers) = watch(&mut client, hello("orders")).await.unwrap();
    let watch_response::Message::Config(config) = next(&mut answers).await else { panic!("no Config first") };
    assert_eq!(config.revision, Some(wire::Revision { epoch: 1, number: 1 }));
    let atoms: Vec<_> =
        config.services.iter().map(|s| (s.name.as_str(), s.atoms.as_ref().map(|a| a.atoms.len()))).collect();
    assert_eq!(atoms, [("orders", Some(1)), ("stock", None)]);
    let limits: Vec<&str> = config.limits.iter().map(|limit| limit.name.as_str()).collect();
    assert_eq!(limits, ["wide", "other"]);
    assert_eq!(config.services[1].endpoints[0].address, "127.0.0.1:9");

    let beat = next(&mut answers).await;
    let heartbeat = wire::Heartbeat { floor: Some(wire::Revision { epoch: 1, number: 1 }) };
    assert_eq!(beat, watch_response::Message::Heartbeat(heartbeat));

    std::fs::write(policyd.folder.path().join("acl.cedar"), "").unwrap();
    let mut floors = Vec::new();
    let changed = loop {
        match next(&mut answers).await {
            watch_response::Message::Config(config) => break config,
            watch_response::Message::Heartbeat(heartbeat) => floors.extend(heartbeat.floor),
        }
    };
    assert!(floors.iter().all(|floor| floor.number == 1), "a floor came before its Config");
    assert_eq!(changed.revision, Some(wire::Revision { epoch: 1, number: 2 }));
    assert!(changed.services[0].atoms.as_ref().unwrap().atoms.is_empty());

    // The service becomes another's: its policies are none of this proxy's business any more.
    let moved = MESH.replace("namespace: shop", "enforcement: observe, namespace: moved");
    std::fs::write(policyd.folder.path().join("mesh.yaml"), moved).unwrap();
    let moved = loop {
        if let watch_response::Message::Config(config) = next(&mut answers).await {
            break config;
        }
    };
    assert!(moved.services.iter().all(|service| service.atoms.is_none()));
    let modes: Vec<_> = moved.services.iter().map(wire::Service::enforcement).collect();
    assert_eq!(modes, [wire::Enforcement::Observe, wire::Enforcement::Enforce]);
    drop(client);
    policyd.stop().await;
}

#[tokio::test]
async fn a_watch_starts_with_a_hello_for_own_services() {
    let policyd = Policyd::start().await;
    let mut client = policyd.client("shop", "orders");
    let ack = watch_request::Message::Ack(wire::Ack::default());
    assert_eq!(watch(&mut client, ack).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(watch(&mut client, hello("stock")).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(watch(&mut client, hello("nothing")).await.unwrap_err().code(), Code::NotFound);
    drop(client);
    policyd.stop().await;
}

#[tokio::test]
async fn a_stop_ends_watches_also_of_proxies_that_read_nothing_or_say_nothing() {
    let policyd = Policyd::start().await;
    let mut client = policyd.client("shop", "orders");
    let (_sender, mut answers) = watch(&mut client, hello("orders")).await.unwrap();
    next(&mut answers).await;
    let mut silent = policyd.client("shop", "orders");
    let (_unsaid, receiver) = mpsc::channel::<wire::WatchRequest>(1);
    let waiting = tokio::spawn(async move { silent.watch(ReceiverStream::new(receiver)).await.map(|_| ()) });
    policyd.stop().await;
    assert!(waiting.await.unwrap().is_err());
}
