//! What policies, logs and applications are told of the hops before.

use std::net::SocketAddr;

use identity::Source;

use super::http1::ingress;
use super::setting::*;
use crate::app::Bound;
use crate::config::{AccessLogDestination, Forwarding};

const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

async fn proxy(setting: &Setting, service: &str, application: SocketAddr, forwarding: Forwarding) -> Bound {
    let source = Source::fixed(setting.pki.identity(&id(service), HOUR));
    let change = |config: &mut crate::Config| config.forwarding = forwarding;
    let proxy = setting.proxy_with(service, application, source, change).await;
    proxy.readiness.until_ready().await;
    proxy
}

fn request(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n")
}

#[tokio::test]
async fn behind_load_balancers_the_client_is_whom_they_name() {
    let setting = Setting::new().await;
    let application = Application::start("shop").await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.jsonl");
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let proxy = setting
        .proxy_with("shop", application.address, source, |config| {
            config.forwarding.trusted_hops = 2;
            config.access_log = AccessLogDestination::File(log.clone());
        })
        .await;
    proxy.readiness.until_ready().await;
    let mut clients = Vec::new();
    for (sent, seen, told) in [
        ("6.6.6.6, 192.0.2.1, 192.0.2.2", "192.0.2.1", "192.0.2.1, 192.0.2.2, 127.0.0.1"),
        ("192.0.2.2", "127.0.0.1", "127.0.0.1"),
        ("nobody, 192.0.2.2", "127.0.0.1", "127.0.0.1"),
    ] {
        let lines = format!("X-Forwarded-For: {sent}\r\nX-Forwarded-Client-Cert: URI=spiffe://a/forged\r\n");
        assert_eq!(send(ingress(&proxy), request(&lines)).await.status, 200);
        let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
        assert_eq!(checked.source_ip.to_string(), seen, "{sent}");
        let headers = application.last().headers;
        assert_eq!(headers["x-forwarded-for"], told);
        assert!(!headers.contains_key("x-forwarded-client-cert"));
        clients.push(seen);
        // The next one is another question.
        setting.policyd.change(|config| config.enforced[0].revision = config.revision).await;
    }
    assert!(proxy.drain().await);
    let text = std::fs::read_to_string(&log).unwrap();
    let logged: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged: Vec<_> = logged.iter().map(|line| line["client"].as_str().unwrap()).collect();
    assert_eq!(logged, clients);
}

#[tokio::test]
async fn between_sidecars_each_adds_the_peer_that_it_has_verified() {
    for appends_client_cert in [false, true] {
        let forwarding = Forwarding { appends_client_cert, ..Forwarding::default() };
        let setting = Setting::new().await;
        let application = Application::start("shop").await;
        let shop = proxy(&setting, "shop", application.address, forwarding).await;
        let cart = proxy(&setting, "cart", NOWHERE, forwarding).await;
        let endpoints = [("shop-v1", shop.addresses.inbound)];
        setting.policyd.change(|config| config.services = vec![service("shop", &endpoints)]).await;
        cart.current().when(|applied| !applied.config.mesh.services[0].endpoints.is_empty()).await;
        // What `cart` was told by its own sidecar, and passes on as applications do with the fields of a trace.
        let earlier = format!("By={};URI={}", id("cart"), id("page"));
        let lines = format!("X-Forwarded-Client-Cert: {earlier}\r\n");
        assert_eq!(send(cart.addresses.outbound, request(&lines)).await.status, 200);
        let own = format!("By={};URI={}", id("shop"), id("cart"));
        let expected = if appends_client_cert { format!("{earlier}, {own}") } else { own };
        assert_eq!(application.last().headers["x-forwarded-client-cert"], expected);
    }
}
