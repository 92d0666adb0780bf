//! The gRPC surface, over real mutual TLS.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod pki;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::config::Config;
use api::policy::policy_service_client::PolicyServiceClient;
use api::policy::{self as wire, watch_request, watch_response};
use daemon::{Clock, Lifecycle, Readiness};
use identity::grpc::{self, Address};
use identity::tls;
use model::SpiffeId;
use tempfile::TempDir;
use tidegate_policyd::delivery::{self, Delivery};
use tidegate_policyd::limits::Store;
use tidegate_policyd::metrics::Metrics;
use tidegate_policyd::proxies::{Proxies, State};
use tidegate_policyd::publish::Publisher;
use tidegate_policyd::server::{CHARGES_MAX, KEY_SIZE_MAX, MESSAGE_SIZE_MAX, Server};
use tidegate_policyd::snapshot::Current;
use tidegate_policyd::source::{Source, Surroundings};
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
  - {name: alone, service: stock, rate: 1/h, mode: local}
  - {name: other, service: orders, rate: 1/h}
";

/// A policyd without the parts that need a CA.
struct Policyd {
    pki: Pki,
    address: Address,
    clock: Clock,
    lifecycle: Lifecycle,
    folder: TempDir,
    proxies: Arc<Proxies>,
    current: Current,
}

impl Policyd {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("mesh.yaml", MESH), ("acl.cedar", ACL), ("limits.yaml", LIMITS)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (pki, clock, lifecycle) = (Pki::new(), Clock::system(), Lifecycle::new());
        let metrics = Arc::new(Metrics::new(&daemon::Metrics::new()));
        let proxies = Arc::new(Proxies::new(clock.clone(), metrics.clone()));
        let surroundings = Surroundings {
            metrics: metrics.clone(),
            proxies: proxies.clone(),
            readiness: Readiness::new(),
            clock: Clock::system(),
        };
        let delivery = Delivery::open(delivery::Config::folder(folder.path().to_owned())).unwrap();
        let source = Source::start(delivery, 1, surroundings).await.unwrap();
        let listener = grpc::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let socket = grpc::bind(&Address::Unix(folder.path().join("socket"))).await.unwrap();
        let address = listener.address().clone();
        let server = Server {
            current: source.current(),
            limits: Mutex::new(Store::default()),
            publisher: Arc::new(Publisher::new(
                [("stock-v1".to_owned(), "127.0.0.1:9".parse().unwrap())].into(),
            )),
            proxies: proxies.clone(),
            clock: clock.clone(),
            lifecycle: lifecycle.clone(),
            metrics,
        };
        let current = server.current.clone();
        server.serve([listener, socket], &pki.source(&id()));
        lifecycle.spawn(source.run(lifecycle.clone()));
        Self { pki, address, clock, lifecycle, folder, proxies, current }
    }

    /// A client with the identity of this service.
    fn client(&self, namespace: &str, service: &str) -> PolicyServiceClient<Channel> {
        self.client_at(&self.address, namespace, service)
    }

    fn client_at(&self, address: &Address, namespace: &str, service: &str) -> PolicyServiceClient<Channel> {
        let id = domain().workload(namespace, service).unwrap();
        let config = tls::client_config(&self.pki.source(&id), Clock::system(), vec![self::id()], tls::H2);
        PolicyServiceClient::new(grpc::channel(address.clone(), config))
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
    let charge =
        |(limit, key): &(&str, &str)| wire::Charge { limit: (*limit).into(), key: (*key).into(), amount: 1 };
    wire::TakeRequest {
        service: "stock".into(),
        charges: charges.iter().map(charge).collect(),
        ..wire::TakeRequest::default()
    }
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
async fn every_proxy_decides_on_calls_that_leave_the_mesh_and_asks_for_its_own_workload() {
    let policyd = Policyd::start().await;
    let mut orders = policyd.client("shop", "orders");
    let mut watching = watch(&mut orders, hello("orders")).await.unwrap();
    let (_, before) = config(&mut watching, &Config::default(), "").await;
    assert_eq!(before.policies.services.len(), 1);
    let mesh = format!("{MESH}  api.example.com: {{external: {{port: 8443}}}}\n");
    std::fs::write(policyd.folder.path().join("mesh.yaml"), mesh).unwrap();
    let (_, told) = config(&mut watching, &before, "").await;
    let enforced: Vec<&str> =
        told.policies.services.iter().map(|enforced| enforced.service.as_str()).collect();
    assert_eq!(enforced, ["orders", "api.example.com"]);
    let outside = told.mesh.services.iter().find(|service| service.name == "api.example.com").unwrap();
    assert_eq!(outside.external.as_ref().map(|external| external.port), Some(8443));
    assert!(outside.spiffe_ids.is_empty() && outside.endpoints.is_empty());
    let floors = ping(&mut watching, 1).await.floors;
    assert!(floors.iter().any(|floor| floor.service == "api.example.com"), "{floors:?}");

    let decision =
        orders.check(check("api.example.com", "/open")).await.unwrap().into_inner().decision.unwrap();
    assert_eq!(decision.verdict(), wire::Verdict::Allow);
    let mut for_another = check("api.example.com", "/open");
    for_another.attributes.as_mut().unwrap().principal = "spiffe://shop.example/ns/depot/sa/stock".into();
    assert_eq!(orders.check(for_another).await.unwrap_err().code(), Code::PermissionDenied);
    let nobody = watch(&mut policyd.client("default", "api.example.com"), hello("api.example.com")).await;
    assert_eq!(nobody.unwrap_err().code(), Code::PermissionDenied);
    drop((orders, watching));
    policyd.stop().await;
}

#[tokio::test]
async fn on_a_unix_socket_a_peer_is_who_its_certificate_says_too() {
    let policyd = Policyd::start().await;
    let socket = Address::Unix(policyd.folder.path().join("socket"));
    let mut stock = policyd.client_at(&socket, "depot", "stock");
    let decision = stock.check(check("stock", "/")).await.unwrap().into_inner().decision.unwrap();
    assert_eq!(decision.verdict(), wire::Verdict::Allow);
    assert_eq!(stock.check(check("orders", "/")).await.unwrap_err().code(), Code::PermissionDenied);
    let anonymous = tls::anonymous_client_config(policyd.pki.bundle(), Clock::system(), vec![id()], tls::H2);
    let mut anonymous = PolicyServiceClient::new(grpc::channel(socket, anonymous));
    assert!(anonymous.check(check("stock", "/")).await.is_err());
    drop((stock, anonymous));
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
        let mut client = PolicyServiceClient::new(grpc::channel(policyd.address.clone(), config));
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
        let hello = wire::Hello { instance: "x".into(), services, ..wire::Hello::default() };
        let status = watch(&mut stock, watch_request::Message::Hello(hello)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let (instance, services) = ("x".repeat(257), vec!["stock".into()]);
    let hello = wire::Hello { instance, services, ..wire::Hello::default() };
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
    let left: Vec<(&str, u64)> = second.balances.iter().map(|b| (b.limit.as_str(), b.remaining)).collect();
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
    let (instance, services) = ("one".into(), vec![service.into()]);
    watch_request::Message::Hello(wire::Hello { instance, services, ..wire::Hello::default() })
}

async fn next(answers: &mut Streaming<wire::WatchResponse>) -> watch_response::Message {
    answers.message().await.unwrap().unwrap().message.unwrap()
}

/// The next Config, acknowledged with `error`; what it makes of `before`.
async fn config(watching: &mut Watching, before: &Config, error: &str) -> (wire::Config, Config) {
    loop {
        let watch_response::Message::Config(config) = next(&mut watching.1).await else { continue };
        let ack = wire::Ack { revision: config.revision, error: error.into() };
        let message = Some(watch_request::Message::Ack(ack));
        watching.0.send(wire::WatchRequest { message }).await.unwrap();
        return (config.clone(), before.with(config).unwrap());
    }
}

/// The answer to a Ping, before which no Config comes.
async fn ping(watching: &mut Watching, number: u64) -> wire::Heartbeat {
    let message = Some(watch_request::Message::Ping(wire::Ping { number }));
    watching.0.send(wire::WatchRequest { message }).await.unwrap();
    loop {
        match next(&mut watching.1).await {
            watch_response::Message::Heartbeat(heartbeat) if heartbeat.number == number => return heartbeat,
            watch_response::Message::Heartbeat(_) => {}
            watch_response::Message::Config(config) => panic!("{config:?} concerns others"),
        }
    }
}

fn at(number: u64) -> wire::Revision {
    wire::Revision { epoch: 1, number }
}

/// Which parts a Config has.
fn parts(config: &wire::Config) -> (bool, bool) {
    (config.mesh.is_some(), config.policies.is_some())
}

impl Policyd {
    /// Changes a file, and waits until a snapshot with it is published.
    async fn write(&self, name: &str, text: &str) {
        let mut snapshots = self.current.subscribe();
        snapshots.mark_unchanged();
        // Renamed, so that it is never seen half-written.
        let written = self.folder.path().join(".written");
        std::fs::write(&written, text).unwrap();
        std::fs::rename(written, self.folder.path().join(name)).unwrap();
        snapshots.changed().await.unwrap();
    }

    fn state(&self) -> (State, Option<String>, Option<String>) {
        let [proxy] = self.proxies.list().proxies.try_into().unwrap();
        (proxy.state, proxy.revision, proxy.error)
    }
}

#[tokio::test]
async fn a_proxy_is_told_of_its_own_services_policies_alone_and_only_when_they_change() {
    let policyd = Policyd::start().await;
    let mut client = policyd.client("shop", "orders");
    let mut watching = watch(&mut client, hello("orders")).await.unwrap();
    let (wire, first) = config(&mut watching, &Config::default(), "").await;
    assert_eq!((wire.revision, parts(&wire)), (Some(at(1)), (true, true)));
    let names: Vec<&str> = first.mesh.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["orders", "stock"]);
    assert_eq!(first.mesh.services[1].endpoints[0].address, "127.0.0.1:9".parse().unwrap());
    let [orders] = first.policies.services.as_slice() else { panic!("{:?}", first.policies) };
    assert_eq!((orders.service.as_str(), orders.atoms.atoms().len()), ("orders", 1));
    let limits: Vec<&str> = first.policies.limits.iter().map(|limit| limit.name.as_str()).collect();
    assert_eq!(limits, ["other", "wide"]);

    let floors = |number| vec![wire::Floor { service: "orders".into(), revision: Some(at(number)) }];
    let beat = ping(&mut watching, 1).await;
    assert_eq!((beat.revision, beat.floors), (Some(at(1)), floors(1)));
    assert_eq!(policyd.state(), (State::Current, Some("1.1".into()), None));

    // A policy of another service: the proxy is in step, and is told nothing but that.
    policyd.write("acl.cedar", &ACL.replace("\"GET\"", "\"PUT\"")).await;
    let beat = ping(&mut watching, 2).await;
    assert_eq!((beat.revision, beat.floors), (Some(at(2)), floors(1)));
    policyd.proxies.until_in_step(&["one".into()], at(2).into()).await;
    assert_eq!(policyd.state(), (State::Current, Some("1.1".into()), None));

    // A policy for all: the policies, and not the mesh.
    policyd.write("acl.cedar", "").await;
    let (wire, changed) = config(&mut watching, &first, "").await;
    assert_eq!((wire.revision, parts(&wire)), (Some(at(3)), (false, true)));
    assert_eq!(changed.policies.services[0].revision, at(3).into());
    assert!(changed.policies.services[0].atoms.atoms().is_empty());
    assert_eq!(ping(&mut watching, 3).await.floors, floors(3));

    // A limit of its own: what is told changes, decisions do not.
    policyd
        .write(
            "limits.yaml",
            &LIMITS.replace(
                "name: other, service: orders, rate: 1/h",
                "name: other, service: orders, rate: 2/h",
            ),
        )
        .await;
    let (_, changed) = config(&mut watching, &changed, "").await;
    assert_eq!(changed.policies.services[0].revision, at(3).into());

    // The service becomes another's: its policies are none of this proxy's business any more.
    policyd.write("mesh.yaml", &MESH.replace("namespace: shop", "namespace: moved")).await;
    let (wire, moved) = config(&mut watching, &changed, "").await;
    assert_eq!(parts(&wire), (true, true));
    assert!(moved.policies.services.is_empty());
    drop(client);
    policyd.stop().await;
}

#[tokio::test]
async fn a_reconnecting_proxy_is_sent_what_it_lacks() {
    let policyd = Policyd::start().await;
    let mut client = policyd.client("shop", "orders");
    let again = |mesh, policies| {
        let (instance, services) = ("one".into(), vec!["orders".into()]);
        watch_request::Message::Hello(wire::Hello { instance, services, mesh, policies })
    };
    let mut watching = watch(&mut client, again(Some(at(1)), Some(at(1)))).await.unwrap();
    let watch_response::Message::Heartbeat(hello) = next(&mut watching.1).await else { panic!("an answer") };
    assert_eq!((hello.number, hello.revision), (0, Some(at(1))));
    assert_eq!(ping(&mut watching, 7).await.revision, Some(at(1)));
    assert_eq!(policyd.state(), (State::Current, None, None));
    let others = wire::Revision { epoch: 2, number: 1 };
    for (mesh, policies, sent) in [
        (Some(at(1)), Some(others), (false, true)),
        (Some(others), Some(at(1)), (true, false)),
        (None, None, (true, true)),
    ] {
        let mut watching = watch(&mut client, again(mesh, policies)).await.unwrap();
        let watch_response::Message::Config(config) = next(&mut watching.1).await else { panic!("a Config") };
        assert_eq!(parts(&config), sent);
    }
    drop(client);
    policyd.stop().await;
}

#[tokio::test]
async fn what_a_proxy_refused_is_known_and_sent_again_whole_with_the_next_change() {
    let policyd = Policyd::start().await;
    let mut client = policyd.client("shop", "orders");
    let mut watching = watch(&mut client, hello("orders")).await.unwrap();
    let (_, before) = config(&mut watching, &Config::default(), "no such folder").await;
    assert_eq!(ping(&mut watching, 1).await.number, 1);
    assert_eq!(policyd.state(), (State::Refused, None, Some("no such folder".into())));
    policyd.write("acl.cedar", &ACL.replace("\"GET\"", "\"PUT\"")).await;
    let (wire, _) = config(&mut watching, &before, "").await;
    assert_eq!((wire.revision, parts(&wire)), (Some(at(2)), (true, true)));
    ping(&mut watching, 2).await;
    assert_eq!(policyd.state(), (State::Current, Some("1.2".into()), None));
    drop((watching, client));
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
