//! Probes of an orchestrator, past mutual TLS and to nothing but what was named.

use std::net::SocketAddr;

use identity::Source;
use tokio::io::AsyncWriteExt;

use super::http2_upstream::{Upstream, speak_http2, stream, until_told};
use super::setting::*;
use crate::app::Bound;
use crate::probes::Probes;

async fn probed(setting: &Setting, application: SocketAddr) -> Bound {
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let listen = "127.0.0.1:0".parse().unwrap();
    let paths = vec!["/healthz".to_owned(), "/ready?full".to_owned()];
    let proxy = setting
        .proxy_with("shop", application, source, |config| config.probes = Some(Probes { listen, paths }))
        .await;
    proxy.readiness.until_ready().await;
    proxy
}

/// The status alone of what is answered to `line`.
async fn status(address: SocketAddr, line: &'static str) -> u16 {
    let mut wire = Wire::open(address).await;
    wire.write(format!("{line} HTTP/1.1\r\nHost: 10.0.0.1\r\nX-Secret: 1\r\nContent-Length: 0\r\n\r\n"))
        .await;
    wire.response(line.starts_with("HEAD")).await.status
}

#[tokio::test]
async fn a_probe_reaches_what_was_named_and_nothing_else() {
    let setting = Setting::new().await;
    setting.policyd.decide(|_, revision| deny(revision));
    let application = Application::start("shop").await;
    let proxy = probed(&setting, application.address).await;
    let probes = proxy.addresses.probes.unwrap();
    let refused = [
        ("GET /", 404),
        ("GET /healthz/", 404),
        ("GET /healthz?x", 404),
        ("GET /ready", 404),
        ("GET //healthz", 404),
        ("GET /%68ealthz", 404),
        ("GET http://shop/healthy", 404),
        ("POST /healthz", 405),
        ("HEAD /healthz", 405),
        ("DELETE /healthz", 405),
    ];
    for (line, expected) in refused {
        assert_eq!(status(probes, line).await, expected, "{line}");
    }
    assert_eq!(application.count(), 0);
    for line in ["GET /healthz", "GET /ready?full"] {
        assert_eq!(status(probes, line).await, 200, "{line}");
        let seen = application.last();
        assert_eq!(seen.line, line);
        assert!(seen.headers.get("x-secret").is_none(), "nothing of the probe goes on but its path");
    }
    let response = get(probes, "x", "/healthz").await;
    assert!(response.header("x-app").is_none() && !response.body.contains("shop"), "{response:?}");
}

#[tokio::test]
async fn an_application_that_is_away_is_not_well() {
    let setting = Setting::new().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let proxy = probed(&setting, address).await;
    assert_eq!(status(proxy.addresses.probes.unwrap(), "GET /healthz").await, 503);
}

#[tokio::test]
async fn an_application_that_speaks_http2_is_asked_by_http2() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = probed(&setting, address).await;
    speak_http2(&setting, &[]).await;
    until_told(&proxy, 0).await;
    let probes = proxy.addresses.probes.unwrap();
    for code in [200, 503] {
        let well = tokio::spawn(status(probes, "GET /ready?full"));
        let mut connection = upstream.connection().await;
        let (asked, mut respond) = stream(&mut connection).await;
        let (parts, body) = asked.into_parts();
        let expected = format!("http://{address}/ready?full");
        assert_eq!((parts.method.as_str(), parts.uri.to_string()), ("GET", expected));
        assert!(body.is_end_stream() && parts.headers.is_empty(), "{:?}", parts.headers);
        let response = http::Response::builder().status(code).body(()).unwrap();
        respond.send_response(response, true).unwrap();
        // Its connection ends with it.
        while connection.accept().await.is_some_and(|stream| stream.is_ok()) {}
        assert_eq!(well.await.unwrap(), code);
    }
    // What speaks HTTP/1.1 instead is not well.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = probed(&setting, listener.local_addr().unwrap()).await;
    until_told(&proxy, 0).await;
    let well = tokio::spawn(status(proxy.addresses.probes.unwrap(), "GET /healthz"));
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(well.await.unwrap(), 503);
}
