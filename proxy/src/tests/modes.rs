//! Services that take callers in the clear, besides those with a certificate or alone.

use std::time::Duration;

use api::config::Mtls;
use model::{Decision, Principal};
use tokio::net::TcpStream;

use super::http2::{Caller, request};
use super::http2_hostile::skip;
use super::mesh::{caller, until_open};
use super::setting::*;
use crate::app::Bound;

/// Has `shop` take this of others, and waits until its proxy and `cart`'s know.
async fn set(setting: &Setting, proxies: &[&Bound], mtls: Mtls) {
    setting.policyd.change(|config| config.services[0].mtls = mtls).await;
    for proxy in proxies {
        let applied = proxy.current().when(|applied| applied.services["shop"].mtls == mtls).await;
        assert_eq!(applied.services["shop"].mtls, mtls);
    }
}

fn principal(setting: &Setting) -> (Principal, bool) {
    let checks = setting.policyd.checks.lock().unwrap();
    let last = checks.last().expect("a check");
    (last.principal.clone(), last.tls)
}

#[tokio::test]
async fn a_permissive_service_takes_both_and_knows_who_has_a_certificate() {
    let setting = Setting::new().await;
    setting.policyd.decide(|_, revision| Decision { valid_for: Duration::ZERO, ..allow(revision) });
    let (shop, application) = setting.shop().await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    set(&setting, &[&shop, &cart], Mtls::Permissive).await;
    assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, 200);
    assert_eq!(principal(&setting), (Principal::Workload(id("cart")), true));

    let forged = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Client-Cert: URI=spiffe://x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    assert_eq!(send(shop.addresses.inbound, forged).await.status, 200);
    assert_eq!(principal(&setting), (Principal::Unauthenticated, false));
    let seen = application.last().headers;
    assert!(seen.get("x-forwarded-client-cert").is_none());
    assert_eq!(
        (&seen["x-forwarded-for"], &seen["x-forwarded-proto"]),
        (&"127.0.0.1".parse().unwrap(), &"http".parse().unwrap())
    );

    let mut http2 = Caller::connect(shop.addresses.inbound).await;
    assert_eq!(http2.send(request("GET", "http://shop/")).await.status, 200);
    assert_eq!(principal(&setting), (Principal::Unauthenticated, false));

    let metrics = shop.metrics.render();
    for line in [r#"inbound_requests_total{tls="mutual"} 1"#, r#"inbound_requests_total{tls="none"} 2"#] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn hops_before_an_ingress_say_nothing_for_callers_of_the_inbound_port() {
    let setting = Setting::new().await;
    let application = Application::start("shop").await;
    let source = identity::Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let shop = setting
        .proxy_with("shop", application.address, source, |config| config.forwarding.trusted_hops = 1)
        .await;
    shop.readiness.until_ready().await;
    set(&setting, &[&shop], Mtls::Permissive).await;
    let forged = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    assert_eq!(send(shop.addresses.inbound, forged).await.status, 200);
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().source_ip;
    assert!(checked.is_loopback(), "{checked}");
    assert_eq!(application.last().headers["x-forwarded-for"], "127.0.0.1");
}

#[tokio::test]
async fn callers_in_the_clear_are_denied_by_policy_and_the_denial_is_no_business_of_theirs() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    set(&setting, &[&shop], Mtls::Permissive).await;
    setting.policyd.decide(|attributes, revision| match attributes.principal {
        Principal::Unauthenticated => deny(revision),
        Principal::Workload(_) => allow(revision),
    });
    let response = get(shop.addresses.inbound, "shop", "/").await;
    assert_eq!((response.status, response.header("x-tidegate-policy")), (403, None));
    assert_eq!(application.count(), 0);
}

#[tokio::test]
async fn a_silent_caller_holds_nobody_up_and_ends_with_the_proxy() {
    let setting = Setting::new().await;
    let (shop, _application) = setting.shop().await;
    set(&setting, &[&shop], Mtls::Permissive).await;
    let _silent = TcpStream::connect(shop.addresses.inbound).await.unwrap();
    until_open(&shop, 1).await;
    assert_eq!(get(shop.addresses.inbound, "shop", "/").await.status, 200);
    assert!(shop.drain().await);
}

#[tokio::test]
async fn a_caller_that_stays_silent_is_turned_away() {
    let setting = Setting::new().await;
    let (shop, _application) = setting.shop().await;
    set(&setting, &[&shop], Mtls::Permissive).await;
    let mut silent = Wire::open(shop.addresses.inbound).await;
    until_open(&shop, 1).await;
    skip(Duration::from_secs(9)).await;
    // What it begins with is looked at, and is not too late.
    assert_eq!(get(shop.addresses.inbound, "shop", "/").await.status, 200);
    until_open(&shop, 1).await;
    skip(Duration::from_secs(2)).await;
    assert!(silent.is_closed().await);
    until_open(&shop, 0).await;
}

#[tokio::test]
async fn a_disabled_service_is_called_in_the_clear_and_takes_nothing_else() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, 200);
    set(&setting, &[&shop, &cart], Mtls::Disabled).await;
    assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, 200);
    assert_eq!(principal(&setting), (Principal::Unauthenticated, false));
    assert!(application.last().headers.get("x-forwarded-client-cert").is_none());
    let mut http2 = Caller::connect(cart.addresses.outbound).await;
    assert_eq!(http2.send(request("GET", "http://shop/")).await.status, 200);
    let hello = send(shop.addresses.inbound, b"\x16\x03\x01\x00\x05hello\r\n\r\n").await;
    assert_eq!((hello.status, hello.error().as_str()), (400, "bad_request"));
    // And back: the connections in the clear are left.
    set(&setting, &[&shop, &cart], Mtls::Strict).await;
    setting.policyd.decide(|_, revision| Decision { valid_for: Duration::ZERO, ..allow(revision) });
    assert_eq!(get(cart.addresses.outbound, "shop", "/").await.status, 200);
}

#[tokio::test]
async fn a_service_that_becomes_strict_takes_no_more_requests_in_the_clear() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    set(&setting, &[&shop], Mtls::Permissive).await;
    let mut wire = Wire::open(shop.addresses.inbound).await;
    let ask = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    wire.write(ask).await;
    assert_eq!(wire.response(false).await.status, 200);
    set(&setting, &[&shop], Mtls::Strict).await;
    wire.write(ask).await;
    let response = wire.response(false).await;
    assert_eq!((response.status, response.error().as_str()), (403, "mtls_required"));
    assert!(wire.is_closed().await);
    assert_eq!(application.count(), 1);
}
