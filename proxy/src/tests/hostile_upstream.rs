//! Upstreams that answer badly, or mean ill, and callers that take nothing: what the other side sees.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::http1::{accept, ingress, scripted};
use super::http2::{Caller, request};
use super::http2_hostile::*;
use super::http2_upstream::shop;
use super::setting::*;
use crate::framing::{HEAD_MAX, HEADERS_MAX};
use crate::upstream::INTERIM_MAX;

const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Longer than nothing may move for, and once more, for something did before.
async fn stall() {
    for _ in 0..2 {
        skip(Duration::from_secs(301)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure_whatever_the_caller_speaks() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let ok = "HTTP/1.1 200 OK\r\n";
    let table = [
        ("garbage", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned()),
        ("half a head", format!("{ok}Content-Le")),
        ("too many headers", format!("{ok}{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1))),
        ("too large a head", format!("{ok}x: {}\r\n\r\n", "y".repeat(HEAD_MAX))),
        ("two lengths", format!("{ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
        ("two framings", format!("{ok}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("interim responses without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(INTERIM_MAX + 1)),
    ];
    for (name, answer) in table {
        let mut wire = Wire::open(ingress(&proxy)).await;
        wire.write(GET).await;
        let mut stream = accept(&upstream).await;
        // What takes no more of it has seen enough.
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.shutdown().await);
        wire.read_to("HTTP/1.1 502 ").await;
        let mut caller = Caller::connect(ingress(&proxy)).await;
        let (response, _body) = caller.open(request("GET", "http://shop/")).await;
        let mut stream = accept(&upstream).await;
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.shutdown().await);
        assert_eq!(response.await.unwrap().status(), 502, "{name}");
    }
}

/// The next connection to an upstream that writes HTTP/2 itself, once a request is there.
async fn asked(upstream: &TcpListener) -> Peer {
    let mut peer = Peer(upstream.accept().await.unwrap().0);
    let mut preface = [0; 24];
    peer.0.read_exact(&mut preface).await.unwrap();
    peer.send(&frame(SETTINGS, 0, 0, &[])).await;
    peer.until(&[HEADERS]).await.unwrap();
    peer
}

#[tokio::test]
async fn what_is_no_answer_by_http2_is_a_failure() {
    let setting = Setting::new().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = shop(&setting, upstream.local_addr().unwrap()).await;
    let early = frame(HEADERS, END_HEADERS, 1, b"\x08\x03103");
    let more = frame(CONTINUATION, 0, 1, &literal(b"a", b"b"));
    let table = [
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("data before a head", frame(DATA, 0, 1, b"x")),
        ("a head without end", [frame(HEADERS, 0, 1, b"\x88"), more.repeat(1100)].concat()),
        ("a head that grows", frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb(b"\x88"))),
        ("a head without a status", frame(HEADERS, END_HEADERS | END_STREAM, 1, &literal(b"a", b"b"))),
        ("interim responses without end", early.repeat(INTERIM_MAX + 1)),
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(1100)),
        ("a reset", frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])),
        ("nothing", Vec::new()),
    ];
    for (name, answer) in table {
        let mut caller = Caller::connect(ingress(&proxy)).await;
        let (response, _body) = caller.open(request("POST", "http://shop/")).await;
        let mut peer = asked(&upstream).await;
        peer.send(&answer).await;
        drop(peer.0.shutdown().await);
        assert_eq!(response.await.unwrap().status(), 502, "{name}");
    }
    // What breaks off later does not look whole.
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write(GET).await;
    let mut peer = asked(&upstream).await;
    peer.send(&[frame(HEADERS, END_HEADERS, 1, b"\x88"), frame(DATA, 0, 1, b"first")].concat()).await;
    wire.read_to("first").await;
    peer.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])).await;
    let mut rest = Vec::new();
    wire.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn a_response_that_stops_half_way_is_cut_and_does_not_look_whole() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    for head in ["Content-Length: 10\r\n\r\nfirst", "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"] {
        let mut wire = Wire::open(ingress(&proxy)).await;
        wire.write(GET).await;
        let mut stream = accept(&upstream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
        wire.read_to("first").await;
        stall().await;
        let mut rest = Vec::new();
        wire.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "nor is it waited for");
    }
}

#[tokio::test]
async fn a_caller_that_sends_slowly_does_not_hold_an_application_for_long() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100\r\n\r\nx").await;
    let mut stream = accept(&upstream).await;
    // A byte at a time, which is not to count as haste.
    for _ in 0..4 {
        skip(Duration::from_secs(1)).await;
        wire.write("x").await;
        stream.read_exact(&mut [0]).await.unwrap();
    }
    skip(Duration::from_secs(2)).await;
    let response = wire.response(false).await;
    assert_eq!((response.status, response.error().as_str()), (504, "upstream_timeout"));
    assert!(wire.is_closed().await);
}

/// An application that sends as much as is taken; tells when nobody wants any more.
async fn flood(upstream: &TcpListener) -> tokio::task::JoinHandle<()> {
    let mut stream = accept(upstream).await;
    tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(&[0; 64 * 1024]).await.is_ok() {}
    })
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_given_up() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write(GET).await;
    let flooding = flood(&upstream).await;
    wire.read_to("\r\n\r\n").await;
    while !flooding.is_finished() {
        skip(Duration::from_secs(100)).await;
        tokio::task::yield_now().await;
    }
    // One that never opens its window.
    let mut peer = Peer::open(ingress(&proxy)).await;
    peer.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, super::http2_hostile::GET)).await;
    let flooding = flood(&upstream).await;
    peer.until(&[HEADERS]).await.unwrap();
    while !flooding.is_finished() {
        skip(Duration::from_secs(100)).await;
        tokio::task::yield_now().await;
    }
    assert!(peer.until(&[RST_STREAM, GOAWAY]).await.is_some());
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    // Nothing, and the beginning of a ClientHello.
    for begun in [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01"] {
        let mut wire = Wire::open(proxy.addresses.inbound).await;
        wire.write(begun).await;
        let open = "tidegate_open_connections{direction=\"inbound\"} 1\n";
        while !proxy.metrics.render().contains(open) {
            tokio::task::yield_now().await;
        }
        skip(Duration::from_secs(9)).await;
        assert!(proxy.metrics.render().contains(open));
        skip(Duration::from_secs(2)).await;
        let mut rest = Vec::new();
        wire.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        while proxy.metrics.render().contains(open) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_head_by_http2_has_the_same_limits() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    // What is decided on was read.
    setting.policyd.decide(|_, revision| deny(revision));
    let mut caller = Caller::connect(ingress(&proxy)).await;
    // With `Host` and what says that a body follows it has two more.
    for (fields, status) in [(HEADERS_MAX - 2, 403), (HEADERS_MAX - 1, 431)] {
        let mut asked = request("GET", "http://shop/");
        for field in 0..fields {
            let name: http::HeaderName = format!("x-{field}").parse().unwrap();
            asked.headers_mut().insert(name, "y".parse().unwrap());
        }
        let (response, _body) = caller.open(asked).await;
        assert_eq!(response.await.unwrap().status(), status, "{fields}");
    }
    // A few bytes that say many.
    let mut peer = Peer::open(ingress(&proxy)).await;
    let head = bomb(super::http2_hostile::GET);
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
    let told = peer.until(&[RST_STREAM, GOAWAY, HEADERS]).await.unwrap();
    // Literal, or as a number of HPACK's table, for which there is none.
    let status = String::from_utf8_lossy(&told.payload).into_owned();
    assert!(told.kind != HEADERS || status.contains("431"), "{status:?}");
    assert_eq!(application.count(), 0);
}
