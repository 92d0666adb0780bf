//! HTTP/1.1 as bytes on a socket: what passes, how, and what does not.

use std::net::SocketAddr;
use std::time::Duration;

use model::{Atom, AtomSet, Name, Test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::setting::*;
use crate::app::Bound;
use crate::framing::{HEAD_MAX, HEADERS_MAX, TARGET_MAX};

pub(super) fn ingress(proxy: &Bound) -> SocketAddr {
    proxy.addresses.ingress.unwrap()
}

#[tokio::test]
async fn what_is_ambiguous_is_refused_and_the_connection_closed() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let head = |line: &str, headers: &str| format!("{line}\r\nHost: shop\r\n{headers}\r\n").into_bytes();
    let post = |headers: &str| head("POST / HTTP/1.1", headers);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n";
    let mut two = post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n");
    two.extend(format!("0\r\n\r\n{smuggled}").bytes());
    let table: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("both lengths", two, 400, "bad_request"),
        ("equal lengths", post("Content-Length: 0\r\nContent-Length: 0\r\n"), 400, "bad_request"),
        ("length list", post("Content-Length: 0, 0\r\n"), 400, "bad_request"),
        ("two codings", post("Transfer-Encoding: gzip, chunked\r\n"), 400, "bad_request"),
        ("hidden coding", post("Transfer-Encoding: xchunked\r\n"), 400, "bad_request"),
        ("coding in 1.0", head("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"), 400, "bad_request"),
        ("two hosts", post("Host: other\r\n"), 400, "bad_request"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400, "bad_request"),
        ("bad host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_vec(), 400, "bad_request"),
        ("bare LF", b"GET / HTTP/1.1\nHost: shop\n\n".to_vec(), 400, "bad_request"),
        ("folded", post("x: a\r\n b\r\n"), 400, "bad_request"),
        ("space before colon", post("x : a\r\n"), 400, "bad_request"),
        ("latin-1", b"GET / HTTP/1.1\r\nHost: shop\r\nx: caf\xe9\r\n\r\n".to_vec(), 400, "bad_request"),
        ("no HTTP", b"hello\r\n\r\n".to_vec(), 400, "bad_request"),
        ("connect", head("CONNECT shop:80 HTTP/1.1", ""), 405, "method_not_allowed"),
        ("long target", head(&format!("GET /{} HTTP/1.1", "x".repeat(TARGET_MAX)), ""), 414, "uri_too_long"),
        ("large head", post(&format!("x: {}\r\n", "y".repeat(HEAD_MAX))), 431, "headers_too_large"),
        ("many headers", post(&"x: y\r\n".repeat(HEADERS_MAX)), 431, "headers_too_large"),
    ];
    for address in [ingress(&proxy), proxy.addresses.outbound] {
        for (what, bytes, status, error) in &table {
            let mut wire = Wire::open(address).await;
            wire.write(bytes).await;
            let response = wire.response(false).await;
            assert_eq!((response.status, response.error().as_str()), (*status, *error), "{what}");
            assert!(wire.is_closed().await, "{what}");
        }
    }
    assert_eq!(application.count(), 0, "nothing reached the application");
}

#[tokio::test]
async fn a_refused_path_leaves_the_connection_open() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    for path in ["/a%2fb", "/a%5cb", "/a\\b", "/a%00", "/a%zz", "/?a=%f"] {
        wire.write(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).await;
        let response = wire.response(false).await;
        assert_eq!((response.status, response.error().as_str()), (400, "bad_request"), "{path}");
    }
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!(wire.response(false).await.status, 200);
    assert_eq!(application.count(), 1);
}

#[tokio::test]
async fn the_application_gets_what_was_decided_on() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let by_path = Atom::new(Name::Path, Test::Value);
    setting.policyd.change(|config| config.enforced[0].atoms = AtomSet::new(vec![by_path], true)).await;
    let table = [
        ("/a/../b/./c?x=1&y=%41", "GET /b/c?x=1&y=%41", "/b/c"),
        ("/%61dmin/%2e%2e/x?", "GET /x?", "/x"),
        ("//a//", "GET //a//", "//a//"),
        ("/..", "GET /", "/"),
        ("http://shop/abs?q", "GET /abs?q", "/abs"),
    ];
    for (target, line, path) in table {
        assert_eq!(get(ingress(&proxy), "shop", target).await.status, 200, "{target}");
        assert_eq!(application.last().line, line);
        assert_eq!(setting.policyd.checks.lock().unwrap().last().unwrap().path, path);
    }
    // The authority of an absolute target replaces Host.
    send(ingress(&proxy), "GET http://Shop:80/ HTTP/1.1\r\nHost: other\r\n\r\n").await;
    assert_eq!(application.last().headers["host"], "Shop:80");
    // Almost as many headers as allowed: what we add must fit too.
    let full = format!("GET /full HTTP/1.1\r\nHost: shop\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX - 10));
    assert_eq!(send(ingress(&proxy), full).await.status, 200);
    // OPTIONS * is about the server.
    let options = send(ingress(&proxy), "OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!((options.status, application.last().line.as_str()), (200, "OPTIONS *"));
}

#[tokio::test]
async fn hop_by_hop_and_forged_headers_end_at_the_proxy() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let request = "GET / HTTP/1.1\r\nHost: shop\r\nConnection: x-mine, TE\r\nx-mine: 1\r\nUpgrade: websocket\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Authorization: x\r\nX-Tidegate-Role: admin\r\nX-Forwarded-Client-Cert: URI=spiffe://x\r\nX-Forwarded-For: 6.6.6.6\r\nX-Kept: yes\r\n\r\n";
    let response = send(ingress(&proxy), request).await;
    assert_eq!(response.status, 200);
    for name in ["x-hop", "x-tidegate-policy", "connection"] {
        assert_eq!(response.header(name), None, "{name} of the response");
    }
    let headers = application.last().headers;
    for name in [
        "connection",
        "x-mine",
        "upgrade",
        "keep-alive",
        "proxy-authorization",
        "x-tidegate-role",
        "x-forwarded-client-cert",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let header = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(
        [
            header("x-kept"),
            header("te"),
            header("x-forwarded-for"),
            header("x-forwarded-proto"),
            header("x-forwarded-host")
        ],
        ["yes", "trailers", "127.0.0.1", "http", "shop"]
    );
    assert_eq!((header("x-request-id").len(), header("traceparent").len()), (32, 55));
}

#[tokio::test]
async fn bodies_pass_in_every_framing() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    let large = "x".repeat(300_000);
    let bodies = [
        ("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello".to_owned(), "hello"),
        ("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n".to_owned(), "hello"),
        (format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 300000\r\n\r\n{large}"), large.as_str()),
        ("GET / HTTP/1.1\r\nHost: shop\r\n\r\n".to_owned(), ""),
        ("POST / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n".to_owned(), ""),
    ];
    for (request, body) in &bodies {
        wire.write(request).await;
        let response = wire.response(false).await;
        assert_eq!((response.status, response.body.as_str()), (200, "shop"));
        assert!(application.last().body == body.as_bytes());
    }
    // All on one connection upstream, and all at once in one packet.
    wire.write(format!("{}{}{}", bodies[0].0, bodies[1].0, bodies[3].0)).await;
    for _ in 0..3 {
        assert_eq!(wire.response(false).await.status, 200);
    }
    wire.write("HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let head = wire.response(true).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").await;
    assert_eq!(wire.response(false).await.status, 200);
    assert!(wire.is_closed().await);
}

#[tokio::test]
async fn the_body_is_asked_for_when_the_application_is_ready_for_it() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("POST / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(wire.read_to("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.write("hello").await;
    assert_eq!(wire.response(false).await.status, 200);
    assert_eq!(application.last().body, "hello");
    // A denied caller need not send its body at all.
    setting.policyd.decide(|_, revision| deny(revision));
    setting.policyd.change(|_| {}).await;
    wire.write("POST /denied HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    assert_eq!(wire.response(false).await.status, 403);
}

#[tokio::test]
async fn announced_trailers_pass_both_ways() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    send(ingress(&proxy), "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n").await;
    assert_eq!(application.last().trailers.unwrap()["x-sum"], "7");

    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    let mut stream = accept(&upstream).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n").await.unwrap();
    let response = wire.read_to("x-sum: 7\r\n\r\n").await;
    assert!(response.contains("1\r\na\r\n0\r\n"), "{response}");
}

/// An upstream whose answers a test writes byte by byte.
pub(super) async fn scripted() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Accepts, and reads a request's head.
pub(super) async fn accept(socket: &TcpListener) -> TcpStream {
    let (mut stream, _) = socket.accept().await.unwrap();
    read_head(&mut stream).await;
    stream
}

pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_response_streams_as_it_comes() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut stream = accept(&upstream).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await.unwrap();
    // The second part is not even written when the first one arrives.
    wire.read_to("first\r\n").await;
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    wire.read_to("second\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_slow_receiver_slows_the_sender() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut stream = accept(&upstream).await;
    let total = 64 * 1024 * 1024;
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").as_bytes()).await.unwrap();
    let mut written = 0;
    let chunk = vec![b'x'; 64 * 1024];
    // Nobody reads at the other end: what fits into buffers on the way is far from all.
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        written += count.unwrap();
    }
    assert!(written < total / 2, "{written} bytes were taken");
}

#[tokio::test]
async fn upstream_failures_have_clear_answers() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    for (answer, error) in [
        ("", "upstream_failed"),
        ("nonsense\r\n\r\n", "upstream_failed"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "upstream_failed"),
    ] {
        let mut wire = Wire::open(ingress(&proxy)).await;
        wire.write("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\nx").await;
        let mut stream = accept(&upstream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream);
        let response = wire.response(false).await;
        assert_eq!((response.status, response.error().as_str()), (502, error), "{answer:?}");
    }
    drop(upstream);
    let response = get(ingress(&proxy), "shop", "/").await;
    assert_eq!((response.status, response.error().as_str()), (503, "no_healthy_upstream"));
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_costs_no_request() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    wire.write("GET /1 HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut first = accept(&upstream).await;
    first.write_all(ok).await.unwrap();
    assert_eq!(wire.response(false).await.status, 200);
    // The second request comes on the same connection, which ends without an answer.
    wire.write("GET /2 HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert!(read_head(&mut first).await.starts_with("GET /2 "));
    drop(first);
    let mut second = accept(&upstream).await;
    second.write_all(ok).await.unwrap();
    assert_eq!(wire.response(false).await.status, 200);
    // One that may not be repeated is not.
    wire.write("POST /3 HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n").await;
    assert!(read_head(&mut second).await.starts_with("POST /3 "));
    drop(second);
    assert_eq!(wire.response(false).await.status, 502);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("GET /old HTTP/1.0\r\nHost: shop\r\n\r\n").await;
    let response = wire.response(false).await;
    assert_eq!((response.status, response.body.as_str()), (200, "shop"));
    assert!(wire.is_closed().await);
    assert_eq!(application.last().line, "GET /old");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_completed_for_it() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    for head in ["Content-Length: 10\r\n\r\nfirst", "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"] {
        let mut wire = Wire::open(ingress(&proxy)).await;
        wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let mut stream = accept(&upstream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
        wire.read_to("first").await;
        drop(stream);
        let mut rest = Vec::new();
        wire.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    }
}

#[tokio::test]
async fn a_refused_upload_still_gets_its_answer() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    setting.policyd.decide(|_, revision| deny(revision));
    for framing in ["Content-Length: 500000\r\n", "Content-Length: 500000\r\nHost: twice\r\n"] {
        let mut wire = Wire::open(ingress(&proxy)).await;
        wire.write(format!("POST / HTTP/1.1\r\nHost: shop\r\n{framing}\r\n{}", "x".repeat(500_000))).await;
        assert!(matches!(wire.response(false).await.status, 400 | 403));
    }
    assert_eq!(application.count(), 0);
}
