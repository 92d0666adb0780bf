//! Two and more proxies: who may speak to whom, and over which connection.

use std::net::SocketAddr;
use std::time::Duration;

use api::config::Config;
use identity::Source;
use model::{Principal, SpiffeId};

use super::setting::*;
use crate::app::Bound;

/// A proxy of `cart`, whose application calls `shop`'s instances at `endpoints`.
pub(super) async fn caller(setting: &Setting, endpoints: &[(&str, SocketAddr)]) -> Bound {
    let proxy = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    point(setting, endpoints).await;
    until_known(&proxy, endpoints.len()).await;
    proxy
}

pub(super) async fn point(setting: &Setting, endpoints: &[(&str, SocketAddr)]) {
    setting.policyd.change(|config| config.services = vec![service("shop", endpoints)]).await;
}

/// Several proxies watch policyd, and only one acknowledgement was waited for.
pub(super) async fn until_known(proxy: &Bound, endpoints: usize) {
    let known = |config: &Config| {
        config.mesh.services.iter().any(|shop| shop.name == "shop" && shop.endpoints.len() == endpoints)
    };
    assert!(known(&proxy.current().when(|applied| known(&applied.config)).await.config));
}

/// Waits until so many connections of other sidecars are open.
pub(super) async fn until_open(proxy: &Bound, count: usize) {
    let line = format!("tidegate_open_connections{{direction=\"inbound\"}} {count}\n");
    let until = async {
        while !proxy.metrics.render().contains(&line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until).await.expect("as many open connections");
}

#[tokio::test]
async fn a_call_is_mutual_tls_and_the_application_is_told_who_calls() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    let response = get(cart.addresses.outbound, "Shop:9080", "/cart?x=1").await;
    assert_eq!((response.status, response.body.as_str()), (200, "shop"));
    let seen = application.last();
    assert_eq!(seen.line, "GET /cart?x=1");
    assert_eq!(seen.headers["host"], "Shop:9080");
    assert_eq!(seen.headers["x-forwarded-client-cert"], format!("By={};URI={}", id("shop"), id("cart")));
    assert_eq!(
        (&seen.headers["x-forwarded-proto"], &seen.headers["x-forwarded-host"]),
        (&"https".parse().unwrap(), &"Shop:9080".parse().unwrap())
    );
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
    assert_eq!(
        (checked.principal, checked.tls, checked.host.as_str()),
        (Principal::Workload(id("cart")), true, "shop")
    );
}

#[tokio::test]
async fn a_denial_reaches_the_caller_with_its_policy() {
    let setting = Setting::new().await;
    let (shop, _application) = setting.shop().await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    setting.policyd.decide(|_, revision| deny(revision));
    let response = get(cart.addresses.outbound, "shop", "/").await;
    assert_eq!((response.status, response.header("x-tidegate-policy")), (403, Some("acl.cedar#2")));
    assert_eq!(response.error(), "denied");
}

#[tokio::test]
async fn calls_go_round_over_all_instances_whatever_the_connection() {
    let setting = Setting::new().await;
    let mut endpoints = Vec::new();
    let mut kept = Vec::new();
    for name in ["one", "two", "three"] {
        let application = Application::start(name).await;
        let proxy = setting.proxy("shop", application.address).await;
        endpoints.push((name, proxy.addresses.inbound));
        kept.push((application, proxy));
    }
    let cart = caller(&setting, &endpoints).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        names.push(get(cart.addresses.outbound, "shop", "/").await.body);
    }
    assert_eq!(names, ["one", "two", "three", "one", "two", "three"]);
    // One instance is gone: nobody notices.
    assert!(kept[1].1.drain().await);
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(get(cart.addresses.outbound, "shop", "/").await.body);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["one", "three"]);
    let metrics = cart.metrics.render();
    assert!(
        metrics.contains(r#"tidegate_upstream_ejections_total{service="shop",instance="two"} 1"#),
        "{metrics}"
    );
    assert!(kept[0].1.drain().await && kept[2].1.drain().await);
    let response = get(cart.addresses.outbound, "shop", "/").await;
    assert_eq!((response.status, response.error().as_str()), (503, "no_healthy_upstream"));
}

#[tokio::test]
async fn only_a_server_of_the_service_is_spoken_to() {
    let setting = Setting::new().await;
    let application = Application::start("impostor").await;
    let impostor = Source::fixed(setting.pki.identity(&id("impostor"), HOUR));
    let proxy = setting.proxy_with("shop", application.address, impostor, |_| {}).await;
    proxy.readiness.until_ready().await;
    let cart = caller(&setting, &[("shop-v1", proxy.addresses.inbound)]).await;
    let response = get(cart.addresses.outbound, "shop", "/").await;
    assert_eq!((response.status, response.error().as_str()), (503, "no_healthy_upstream"));
    assert_eq!(application.count(), 0);
    // Once the bundle allows that identity, it is spoken to: and no longer once it does not.
    for (allowed, status) in [("impostor", 200), ("shop", 503), ("impostor", 200)] {
        let allowed: Vec<SpiffeId> = vec![id(allowed)];
        let revision = setting
            .policyd
            .change(|config| config.services[0].spiffe_ids.clone_from(&allowed))
            .await
            .revision
            .unwrap();
        cart.current().when(|applied| applied.config.revision == revision.into()).await;
        assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, status);
    }
}

#[tokio::test]
async fn unknown_hosts_are_no_services() {
    let setting = Setting::new().await;
    let cart = caller(&setting, &[]).await;
    for (host, status, error) in [
        ("nowhere", 404, "no_such_service"),
        ("shop.example", 404, "no_such_service"),
        ("shop", 503, "no_healthy_upstream"),
    ] {
        let response = get(cart.addresses.outbound, host, "/").await;
        assert_eq!((response.status, response.error().as_str()), (status, error), "{host}");
    }
}

#[tokio::test]
async fn the_inbound_listener_is_closed_to_callers_without_a_certificate() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let mut wire = Wire::open(shop.addresses.inbound).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    // rustls answers with an alert, not with HTTP.
    let mut bytes = [0; 4096];
    let read = wire.read(&mut bytes).await;
    assert!(!bytes[..read].starts_with(b"HTTP"));
    assert_eq!(application.count(), 0);
}

#[tokio::test]
async fn renewed_certificates_are_used_at_once_and_cost_no_request() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    let mut wire = Wire::open(cart.addresses.outbound).await;
    for round in 0..4 {
        for _ in 0..3 {
            wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
            assert_eq!(wire.response(false).await.status, 200, "round {round}");
        }
        // The connections of the certificate before are gone, or about to be.
        until_open(&shop, 1).await;
        cart.source.replace(setting.pki.identity(&id("cart"), HOUR));
        shop.source.replace(setting.pki.identity(&id("shop"), HOUR));
    }
    assert_eq!(application.count(), 12);
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_made_it() {
    let setting = Setting::new().await;
    let (shop, _application) = setting.shop().await;
    let short = Source::fixed(setting.pki.identity(&id("cart"), HOUR / 60));
    let cart = setting.proxy_with("cart", "127.0.0.1:1".parse().unwrap(), short.clone(), |_| {}).await;
    point(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    until_known(&cart, 1).await;
    assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, 200);
    until_open(&shop, 1).await;
    setting.clock.advance(HOUR / 30);
    until_open(&shop, 0).await;
    // Expired and not renewed: no connection, old or new.
    let response = get(cart.addresses.outbound, "shop", "/").await;
    // In TLS 1.3 a client learns of its refusal only after the handshake.
    assert_eq!((response.status, response.error().as_str()), (502, "upstream_failed"));
    short.replace(setting.pki.identity(&id("cart"), HOUR / 60));
    assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, 200);
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_waits_for_busy_ones() {
    let setting = Setting::new().await;
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = setting.proxy("shop", socket.local_addr().unwrap()).await;
    let ingress = proxy.addresses.ingress.unwrap();
    let mut untouched = Wire::open(ingress).await;
    let mut busy = Wire::open(ingress).await;
    busy.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let (mut upstream, _) = socket.accept().await.unwrap();
    let drain = tokio::spawn(async move { proxy.drain().await });
    assert!(untouched.is_closed().await);
    assert!(tokio::net::TcpStream::connect(ingress).await.is_err());
    tokio::io::AsyncWriteExt::write_all(&mut upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    let response = busy.response(false).await;
    assert_eq!((response.status, response.body.as_str()), (200, "ok"));
    assert!(busy.is_closed().await);
    drop(busy);
    assert!(tokio::time::timeout(Duration::from_secs(5), drain).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_service_that_takes_too_long_is_given_up() {
    let setting = Setting::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shop = setting.proxy("shop", silent.local_addr().unwrap()).await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    setting.policyd.change(|config| config.services[0].timeout = Duration::from_millis(50)).await;
    let changed = |config: &Config| config.mesh.services[0].timeout < Duration::from_secs(1);
    cart.current().when(|applied| changed(&applied.config)).await;
    let response = get(cart.addresses.outbound, "shop", "/").await;
    assert_eq!((response.status, response.error().as_str()), (504, "upstream_timeout"));
}

#[tokio::test]
async fn certificates_are_renewed_under_load_without_a_failed_request() {
    let setting = Setting::new().await;
    let (shop, _application) = setting.shop().await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    let outbound = cart.addresses.outbound;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut wire = Wire::open(outbound).await;
                for _ in 0..50 {
                    wire.write("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi").await;
                    assert_eq!(wire.response(false).await.status, 200);
                }
            })
        })
        .collect();
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        cart.source.replace(setting.pki.identity(&id("cart"), HOUR));
        shop.source.replace(setting.pki.identity(&id("shop"), HOUR));
        tokio::task::yield_now().await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
}
