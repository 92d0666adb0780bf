//! What a proxy does besides one request and one response of known length: upgrades, interim responses, both
//! directions at once, and callers that go away.

use identity::Source;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http1::{accept, ingress, read_head, scripted};
use super::setting::*;

#[tokio::test]
async fn after_an_upgrade_both_sides_speak_freely() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    // What follows the head at once belongs to the new protocol.
    wire.write("GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\nearly").await;
    let (mut stream, _) = upstream.accept().await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Version: 13\r\n"), "{head}");
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello",
        )
        .await
        .unwrap();
    let switched = wire.read_to("\r\n\r\n").await.to_lowercase();
    assert!(
        switched.contains("upgrade: websocket\r\n") && switched.contains("connection: upgrade\r\n"),
        "{switched}"
    );
    assert_eq!(wire.read_to("hello").await, "hello");
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    // Each side ends for itself.
    wire.write("more").await;
    wire.shut().await;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "more");
    stream.write_all(b"last").await.unwrap();
    drop(stream);
    let mut last = Vec::new();
    wire.read_to_end(&mut last).await;
    assert_eq!(last, b"last");
}

#[tokio::test]
async fn interim_responses_pass() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut stream = accept(&upstream).await;
    stream
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(wire.read_to("\r\n\r\n").await, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(wire.response(true).await.status, 204);
    // HTTP/1.0 has none.
    let mut old = Wire::open(ingress(&proxy)).await;
    old.write("GET / HTTP/1.0\r\nHost: shop\r\n\r\n").await;
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-sum: 1\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    old.read_to_end(&mut response).await;
    assert_eq!(String::from_utf8(response).unwrap(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcde");
}

#[tokio::test]
async fn both_directions_go_on_at_once() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let mut stream = accept(&upstream).await;
    let mut chunk = [0; 6];
    stream.read_exact(&mut chunk).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n").await.unwrap();
    wire.read_to("1\r\nA\r\n").await;
    // The second chunk is only sent once the answer to the first is here.
    wire.write("1\r\nb\r\n0\r\n\r\n").await;
    let mut rest = [0; 11];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"1\r\nb\r\n0\r\n\r\n");
    stream.write_all(b"1\r\nB\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(wire.read_to("0\r\n\r\n").await, "1\r\nB\r\n0\r\n\r\n");
    // Both connections take the next exchange.
    wire.write("GET /next HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert!(read_head(&mut stream).await.starts_with("GET /next "));
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(wire.response(false).await.status, 200);
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_is_passed_on_and_ends_both_connections() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n12345").await;
    let mut stream = accept(&upstream).await;
    stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(wire.response(false).await.status, 413);
    assert!(wire.is_closed().await);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"12345");
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_request_with_it() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut stream = accept(&upstream).await;
    drop(wire);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    let counted = r#"direction="ingress",service="shop",operation="",code="499"} 1"#;
    let shown = async {
        while !proxy.metrics.render().contains(counted) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), shown).await.expect("it is counted");
}

#[tokio::test]
async fn chunks_that_are_broken_are_refused_and_trailers_say_nothing_about_the_message() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let post = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in
        ["1\r\nab\r\n0\r\n\r\n", "x\r\n", "1\na\r\n0\r\n\r\n", "0\r\nno colon\r\n\r\n", "0\r\na: b\n\r\n"]
    {
        let mut wire = Wire::open(ingress(&proxy)).await;
        wire.write(format!("{post}{body}")).await;
        let (mut stream, _) = upstream.accept().await.unwrap();
        let response = wire.response(false).await;
        assert_eq!((response.status, response.error().as_str()), (400, "bad_request"), "{body:?}");
        assert!(wire.is_closed().await);
        let mut seen = Vec::new();
        let _reset = stream.read_to_end(&mut seen).await;
        assert!(!seen.ends_with(b"0\r\n\r\n"), "the upstream must not take it for complete: {body:?}");
    }
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write(format!("{post}1;ext=\"a\"\r\na\r\n0\r\nX-Sum: 7\r\nContent-Length: 5\r\nHost: evil\r\n\r\n"))
        .await;
    let mut stream = accept(&upstream).await;
    let passed = "1;ext=\"a\"\r\na\r\n0\r\nX-Sum: 7\r\n\r\n";
    let mut body = vec![0; passed.len()];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), passed);
}

#[tokio::test]
async fn beyond_its_limit_a_proxy_says_so_at_once() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let proxy = setting.proxy_with("shop", address, source, |config| config.max_requests = 1).await;
    proxy.readiness.until_ready().await;
    let mut first = Wire::open(ingress(&proxy)).await;
    first.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut stream = accept(&upstream).await;
    let mut second = Wire::open(ingress(&proxy)).await;
    second.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let shed = second.response(false).await;
    assert_eq!(
        (shed.status, shed.error().as_str(), shed.header("retry-after")),
        (503, "overloaded", Some("1"))
    );
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(first.response(true).await.status, 204);
    // The connection on which it was said takes the next request, for which there is room now.
    second.write("GET /again HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert!(read_head(&mut stream).await.starts_with("GET /again "));
}
