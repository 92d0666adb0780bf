//! Raw connections: between two sidecars, and from outside of the mesh.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use api::config::Protocol;
use expect_test::expect;
use identity::Source;
use model::{Action, Principal};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::clients::output;
use super::setting::*;
use crate::app::Bound;
use crate::config::{AccessLogDestination, LocalAddress};

/// A service that sends back what it hears.
pub(super) async fn echo() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _ended = write.shutdown().await;
            });
        }
    });
    address
}

/// The sidecar of `shop`, which takes raw connections, before the application at `application`; and that of `cart`, whose
/// application connects to it, also if it is not the only one of `endpoints`.
pub(super) async fn pair(
    setting: &Setting,
    application: SocketAddr,
    others: &[(&str, SocketAddr)],
) -> (Bound, Bound) {
    pair_for(setting, application, others, [HOUR, HOUR]).await
}

/// The same, with certificates that live for so long: that of `shop`, and that of `cart`.
pub(super) async fn pair_for(
    setting: &Setting,
    application: SocketAddr,
    others: &[(&str, SocketAddr)],
    [shop_lives, cart_lives]: [Duration; 2],
) -> (Bound, Bound) {
    let source = Source::fixed(setting.pki.identity(&id("shop"), shop_lives));
    let shop = setting.proxy_with("shop", application, source, |_| {}).await;
    shop.readiness.until_ready().await;
    let cart = connects(setting, "cart", cart_lives).await;
    let mut endpoints = others.to_vec();
    endpoints.push(("shop-v1", shop.addresses.inbound));
    let told = api::config::Service { protocol: Protocol::Tcp, ..service("shop", &endpoints) };
    setting.policyd.change(|config| config.services = vec![told]).await;
    for proxy in [&shop, &cart] {
        until_raw(proxy).await;
    }
    (shop, cart)
}

/// The sidecar of another service, whose application connects to `shop` once it is known to take raw connections.
pub(super) async fn calls(setting: &Setting, service: &str) -> Bound {
    let caller = connects(setting, service, HOUR).await;
    until_raw(&caller).await;
    caller
}

async fn connects(setting: &Setting, service: &str, lives: Duration) -> Bound {
    let local = LocalAddress { service: "shop".into(), listen: "127.0.0.1:0".parse().unwrap() };
    let source = Source::fixed(setting.pki.identity(&id(service), lives));
    let nobody = "127.0.0.1:1".parse().unwrap();
    let caller = setting.proxy_with(service, nobody, source, |config| config.tcp.push(local)).await;
    caller.readiness.until_ready().await;
    caller
}

async fn until_raw(proxy: &Bound) {
    let known = |applied: &crate::applied::Applied| {
        applied.services.get("shop").is_some_and(|shop| shop.protocol == Protocol::Tcp)
    };
    proxy.current().until(known).await;
}

pub(super) async fn connect(cart: &Bound) -> TcpStream {
    TcpStream::connect(cart.tcp[0].1).await.unwrap()
}

/// What comes back for a word that is not HTTP.
pub(super) async fn answer(stream: &mut TcpStream) -> std::io::Result<[u8; 3]> {
    stream.write_all(b"\0\xff\n").await?;
    let mut heard = [0; 3];
    stream.read_exact(&mut heard).await?;
    Ok(heard)
}

/// Whether the other side ends the connection.
pub(super) async fn is_ended(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_u8()).await;
    read.expect("an end").is_err()
}

/// Waits until `line` is among the metrics of `proxy`.
pub(super) async fn until_counted(proxy: &Bound, line: &str) {
    let until = async {
        while !proxy.metrics.render().contains(line) {
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(20), until).await;
    assert!(counted.is_ok(), "no {line} in {}", proxy.metrics.render());
}

#[tokio::test]
async fn any_bytes_pass_both_ways_and_the_decision_is_on_a_connection() {
    let setting = Setting::new().await;
    let application = echo().await;
    let (shop, cart) = pair(&setting, application, &[]).await;
    let mut stream = connect(&cart).await;
    assert_eq!(answer(&mut stream).await.unwrap(), *b"\0\xff\n");
    stream.shutdown().await.unwrap();
    assert!(is_ended(&mut stream).await);
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
    assert_eq!((checked.principal, checked.action), (Principal::Workload(id("cart")), Action::Tcp));
    assert_eq!((checked.method.as_str(), checked.path.as_str(), checked.tls), ("", "", true));
    assert_eq!((checked.destination_port, checked.sni), (application.port(), None));
    for (proxy, direction) in [(&shop, "inbound"), (&cart, "outbound")] {
        let of = format!(r#"direction="{direction}",service="shop""#);
        until_counted(proxy, &format!("tidegate_tcp_open_connections{{{of}}} 0\n")).await;
        for counted in [
            format!("tidegate_tcp_connections_total{{{of},outcome=\"opened\"}} 1\n"),
            format!("tidegate_tcp_bytes_total{{{of},way=\"to_service\"}} 3\n"),
            format!("tidegate_tcp_bytes_total{{{of},way=\"to_caller\"}} 3\n"),
        ] {
            until_counted(proxy, &counted).await;
        }
        assert!(!proxy.metrics.render().contains("tidegate_requests_total"), "it is no request");
    }
}

#[tokio::test]
async fn what_is_denied_is_closed_at_once() {
    let setting = Setting::new().await;
    let (shop, cart) = pair(&setting, echo().await, &[]).await;
    setting.policyd.decide(|_, revision| deny(revision));
    let mut stream = connect(&cart).await;
    assert!(is_ended(&mut stream).await);
    until_counted(&shop, r#"direction="inbound",service="shop",outcome="denied"} 1"#).await;
    // Also one that comes in the clear.
    let mut stream = TcpStream::connect(shop.addresses.ingress.unwrap()).await.unwrap();
    assert!(is_ended(&mut stream).await);
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
    assert_eq!((checked.principal, checked.action), (Principal::Unauthenticated, Action::Tcp));
}

#[tokio::test]
async fn a_connection_takes_one_token_of_a_limit() {
    let setting = Setting::new().await;
    let (shop, cart) = pair(&setting, echo().await, &[]).await;
    let rate = "2 per 1h".parse().unwrap();
    let limit = model::Limit::of_rate("two", model::Mode::Local, rate, vec![model::Operand::Principal]);
    setting.policyd.decide(|_, revision| model::Decision { limits: vec!["two".into()], ..allow(revision) });
    setting.policyd.change(|config| config.limits = vec![limit]).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&cart).await;
        for _ in 0..5 {
            answer(&mut stream).await.unwrap();
        }
        open.push(stream);
    }
    assert!(is_ended(&mut connect(&cart).await).await);
    until_counted(&shop, r#"direction="inbound",service="shop",outcome="limited"} 1"#).await;
    assert!(answer(&mut open[0]).await.is_ok(), "those that are open stay so");
}

#[tokio::test]
async fn an_instance_that_refuses_is_passed_over() {
    let setting = Setting::new().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_shop, cart) = pair(&setting, echo().await, &[("gone", gone)]).await;
    for _ in 0..3 {
        assert!(answer(&mut connect(&cart).await).await.is_ok());
    }
    until_counted(&cart, r#"tidegate_upstream_ejections_total{service="shop",instance="gone"} 1"#).await;
}

#[tokio::test]
async fn requests_and_raw_connections_do_not_mix() {
    let setting = Setting::new().await;
    let (_shop, cart) = pair(&setting, echo().await, &[]).await;
    let response = get(cart.addresses.outbound, "shop", "/").await;
    assert_eq!((response.status, response.error().as_str()), (421, "no_requests"));
    setting.policyd.change(|config| config.services[0].protocol = Protocol::Http1).await;
    let is_http = |applied: &crate::applied::Applied| applied.services["shop"].protocol == Protocol::Http1;
    cart.current().until(is_http).await;
    assert!(is_ended(&mut connect(&cart).await).await);
    until_counted(&cart, r#"direction="outbound",service="shop",outcome="no_connections"} 1"#).await;
}

#[tokio::test]
async fn a_drain_waits_for_an_open_connection_but_not_for_ever() {
    let setting = Setting::new().await;
    let (shop, cart) = pair(&setting, echo().await, &[]).await;
    let mut stream = connect(&cart).await;
    answer(&mut stream).await.unwrap();
    tokio::time::pause();
    let drain = tokio::spawn(async move { shop.drain().await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(answer(&mut stream).await.is_ok());
    assert!(is_ended(&mut stream).await);
    assert!(drain.await.unwrap(), "nothing is left");
}

/// openssl's own server, whose certificate is for `localhost`: it answers HTTP with what it knows of the connection.
async fn openssl(folder: &std::path::Path) -> Option<(Child, SocketAddr, Socket)> {
    let [key, certificate] = ["key.pem", "cert.pem"].map(|file| folder.join(file).display().to_string());
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \
                   -addext subjectAltName=DNS:localhost";
    let mut arguments: Vec<&str> = request.split_whitespace().collect();
    arguments.extend(["-keyout", &key, "-out", &certificate]);
    output("curl_speaks_tls_of_its_own_with_openssl", "openssl", &arguments).await?;
    // Bound and not listened on: nobody else gets this port, and openssl may.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-www", "-accept", &address.to_string(), "-key", &key, "-cert", &certificate]);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line == "ACCEPT" {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Some((server, address, socket));
        }
    }
    panic!("openssl has ended");
}

#[tokio::test]
async fn curl_speaks_tls_of_its_own_with_openssl() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_openssl, address, _port)) = openssl(folder.path()).await else { return };
    let setting = Setting::new().await;
    let (shop, cart) = pair(&setting, address, &[]).await;
    let url = format!("https://localhost:{}/", cart.tcp[0].1.port());
    let certificate = folder.path().join("cert.pem");
    let arguments = ["-sS", "--ipv4", "--max-time", "20", "--cacert", certificate.to_str().unwrap(), &url];
    let Some(answer) = output("curl_speaks_tls_of_its_own_with_openssl", "curl", &arguments).await else {
        return;
    };
    assert!(answer.contains("TLSv1.3"), "{answer}");
    let opened = r#"direction="inbound",service="shop",outcome="opened"} 1"#;
    until_counted(&shop, opened).await;
    // What is not let in gets no word of the server's.
    setting.policyd.decide(|_, revision| deny(revision));
    super::standing::push(&setting, &shop, |_| {}).await;
    let mut denied = Command::new("curl");
    let denied = denied.args(arguments).stdin(Stdio::null()).output().await.unwrap();
    assert_eq!((denied.stdout.len(), denied.status.success()), (0, false));
}

/// What openssl's own client, with a certificate of the mesh, hears of an echo from the sidecar of `shop`, if it asks for
/// this server name.
async fn heard(folder: &std::path::Path, shop: &Bound, name: &[&str]) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect", &shop.addresses.inbound.to_string()]).args(name);
    command.args("-cert cert.pem -key key.pem -CAfile roots.pem".split(' ')).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut client = command.spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    BufReader::new(client.stdout.take().unwrap()).lines().next_line().await.unwrap()
}

#[tokio::test]
async fn the_server_name_that_a_caller_asks_for_decides() {
    const TEST: &str = "the_server_name_that_a_caller_asks_for_decides";
    if output(TEST, "openssl", &["version"]).await.is_none() {
        return;
    }
    let setting = Setting::new().await;
    let (shop, _cart) = pair(&setting, echo().await, &[]).await;
    let once = |decision| model::Decision { valid_for: Duration::ZERO, ..decision };
    setting.policyd.decide(move |attributes, revision| match attributes.sni.as_deref() {
        Some("db.example") => once(allow(revision)),
        _ => once(deny(revision)),
    });
    let folder = tempfile::tempdir().unwrap();
    setting.pki.write(&id("stranger"), folder.path());
    for (name, said) in [
        (["-servername", "Db.Example"].as_slice(), Some("hello")),
        (&["-servername", "other.example"], None),
        (&["-noservername"], None),
    ] {
        assert_eq!(heard(folder.path(), &shop, name).await.as_deref(), said, "{name:?}");
    }
    let checks = setting.policyd.checks.lock().unwrap().clone();
    let seen: Vec<_> = checks.iter().map(|check| (check.principal.clone(), check.sni.as_deref())).collect();
    let stranger = || Principal::Workload(id("stranger"));
    assert_eq!(
        seen,
        [(stranger(), Some("db.example")), (stranger(), Some("other.example")), (stranger(), None)]
    );
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_raw_connection() {
    let setting = Setting::new().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.jsonl");
    let application = echo().await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let to_file = AccessLogDestination::File(log.clone());
    let shop = setting.proxy_with("shop", application, source, |config| config.access_log = to_file).await;
    shop.readiness.until_ready().await;
    let cart = connects(&setting, "cart", HOUR).await;
    let told = api::config::Service {
        protocol: Protocol::Tcp,
        ..service("shop", &[("shop-v1", shop.addresses.inbound)])
    };
    setting.policyd.change(|config| config.services = vec![told]).await;
    for proxy in [&shop, &cart] {
        until_raw(proxy).await;
    }
    let mut stream = connect(&cart).await;
    answer(&mut stream).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(is_ended(&mut stream).await);
    let open = r#"tidegate_tcp_open_connections{direction="inbound",service="shop"} 0"#;
    until_counted(&shop, open).await;
    setting.policyd.decide(|_, revision| deny(revision));
    super::standing::push(&setting, &shop, |_| {}).await;
    assert!(is_ended(&mut connect(&cart).await).await);
    until_counted(&shop, r#"outcome="denied"} 1"#).await;
    assert!(shop.drain().await);
    let lines = std::fs::read_to_string(log).unwrap();
    let lines: Vec<String> = lines.lines().map(|line| steady(line, application)).collect();
    expect![[r#"
        {"ts":"<ts>","direction":"inbound","tls":"mutual","action":"tcp","request_id":"<request_id>","principal":"spiffe://test.example/ns/test/sa/cart","client":"127.0.0.1","service":"shop","complete":true,"verdict":"allow","decision_source":"miss","reasons":["acl.cedar#0"],"revision":"7.2","upstream_instance":"shop-v1","upstream_address":"<application>","request_bytes":3,"response_bytes":3,"duration_us":"<duration_us>","decision_us":"<decision_us>"}
        {"ts":"<ts>","direction":"inbound","tls":"mutual","action":"tcp","request_id":"<request_id>","principal":"spiffe://test.example/ns/test/sa/cart","client":"127.0.0.1","service":"shop","complete":false,"error":"denied","verdict":"deny","decision_source":"miss","reasons":["acl.cedar#2"],"revision":"7.3","request_bytes":0,"response_bytes":0,"duration_us":"<duration_us>","decision_us":"<decision_us>"}"#]]
    .assert_eq(&lines.join("\n"));
}

/// A line of the log without what is another each time.
fn steady(line: &str, application: SocketAddr) -> String {
    let mut line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
    for name in ["ts", "request_id", "duration_us", "decision_us"] {
        if let Some(value) = line.get_mut(name) {
            *value = format!("<{name}>").into();
        }
    }
    serde_json::to_string(&line).unwrap().replace(&application.to_string(), "<application>")
}
