//! Connections end with the certificates that made them, and cost no request that is done in time.

use std::net::SocketAddr;
use std::time::Duration;

use identity::Source;
use tokio::io::AsyncWriteExt;

use super::http1::{accept, scripted};
use super::http2::{Caller, request, whole};
use super::mesh::{point, until_known, until_open};
use super::setting::*;
use super::tcp::{answer, connect, echo, is_ended, pair_for, until_counted};
use crate::app::Bound;

/// Of the certificates here, which live for a minute: when connections take nothing new, and when they are cut.
const DRAINS: Duration = Duration::from_secs(54);
const CUT: Duration = Duration::from_secs(71);

/// A proxy of `cart` whose certificate lives for a minute, and calls `shop` at `address`.
async fn short_lived(setting: &Setting, address: SocketAddr) -> (Bound, Source) {
    let source = Source::fixed(setting.pki.identity(&id("cart"), HOUR / 60));
    let cart = setting.proxy_with("cart", "127.0.0.1:1".parse().unwrap(), source.clone(), |_| {}).await;
    point(setting, &[("shop-v1", address)]).await;
    until_known(&cart, 1).await;
    (cart, source)
}

#[tokio::test]
async fn a_request_under_way_ends_well_and_its_connection_after_it() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let shop = setting.proxy("shop", address).await;
    let (cart, source) = short_lived(&setting, shop.addresses.inbound).await;
    let mut wire = Wire::open(cart.addresses.outbound).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut application = accept(&upstream).await;
    setting.clock.advance(DRAINS);
    application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(wire.response(false).await.body, "ok");
    until_open(&shop, 0).await;
    // The application's own connection to its sidecar has nothing to do with it.
    source.replace(setting.pki.identity(&id("cart"), HOUR));
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    until_open(&shop, 1).await;
}

#[tokio::test]
async fn what_takes_longer_than_the_certificate_is_cut() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let shop = setting.proxy("shop", address).await;
    let (cart, _) = short_lived(&setting, shop.addresses.inbound).await;
    let mut wire = Wire::open(cart.addresses.outbound).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut application = accept(&upstream).await;
    application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok").await.unwrap();
    wire.read_to("ok").await;
    setting.clock.advance(DRAINS);
    application.write_all(b".").await.unwrap();
    wire.read_to(".").await;
    assert!(shop.metrics.render().contains("tidegate_open_connections{direction=\"inbound\"} 1\n"));
    setting.clock.advance(CUT - DRAINS);
    until_open(&shop, 0).await;
    assert!(wire.is_closed().await, "the caller sees that it is not whole");
}

#[tokio::test]
async fn streams_under_way_end_well_and_the_next_ones_come_on_another_connection() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let shop = setting.proxy("shop", address).await;
    let (cart, source) = short_lived(&setting, shop.addresses.inbound).await;
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    let first = caller.0.send_request(request("GET", "http://shop/"), true).unwrap().0;
    let mut application = accept(&upstream).await;
    setting.clock.advance(DRAINS);
    source.replace(setting.pki.identity(&id("cart"), HOUR));
    let second = caller.0.send_request(request("GET", "http://shop/"), true).unwrap().0;
    let mut other = accept(&upstream).await;
    until_open(&shop, 2).await;
    for (answered, response) in [(&mut application, first), (&mut other, second)] {
        answered.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(whole(response.await.unwrap()).await.body, "ok");
    }
    until_open(&shop, 1).await;
}

#[tokio::test]
async fn streams_to_a_server_whose_certificate_has_ended_are_cut() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR / 60));
    let shop = setting.proxy_with("shop", address, source, |_| {}).await;
    let cart = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    point(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    until_known(&cart, 1).await;
    until_known(&shop, 1).await;
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    let response = caller.0.send_request(request("GET", "http://shop/"), true).unwrap().0;
    let mut application = accept(&upstream).await;
    application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok").await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "ok");
    setting.clock.advance(DRAINS);
    application.write_all(b".").await.unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), ".");
    setting.clock.advance(CUT - DRAINS);
    assert!(body.data().await.unwrap().is_err(), "the caller sees that it is not whole");
}

#[tokio::test]
async fn a_raw_connection_ends_with_the_certificate_of_either_side() {
    for lives in [[HOUR / 60, HOUR], [HOUR, HOUR / 60]] {
        let setting = Setting::new().await;
        let (shop, cart) = pair_for(&setting, echo().await, &[], lives).await;
        let mut stream = connect(&cart).await;
        answer(&mut stream).await.unwrap();
        // There is no telling its ends to go elsewhere, so it has all of its time.
        setting.clock.advance(CUT - Duration::from_secs(2));
        answer(&mut stream).await.unwrap();
        setting.clock.advance(Duration::from_secs(2));
        assert!(is_ended(&mut stream).await, "{lives:?}");
        for (proxy, direction) in [(&shop, "inbound"), (&cart, "outbound")] {
            let of = format!(r#"direction="{direction}",service="shop""#);
            until_counted(proxy, &format!("tidegate_tcp_open_connections{{{of}}} 0\n")).await;
        }
    }
}
