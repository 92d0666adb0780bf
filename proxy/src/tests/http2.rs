//! Callers that speak HTTP/2.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use model::Decision;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::http1::{accept, ingress, read_head, scripted};
use super::setting::*;

/// A caller with one connection.
pub(super) struct Caller(pub(super) SendRequest<Bytes>);

impl Caller {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self(send)
    }

    /// Opens a stream, whose body follows.
    pub(super) async fn open(&mut self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        std::future::poll_fn(|cx| self.0.poll_ready(cx)).await.unwrap();
        self.0.send_request(request, false).unwrap()
    }

    /// Sends a request without body; answers with all of the response.
    pub(super) async fn send(&mut self, request: Request<()>) -> Whole {
        std::future::poll_fn(|cx| self.0.poll_ready(cx)).await.unwrap();
        let (response, _) = self.0.send_request(request, true).unwrap();
        whole(response.await.unwrap()).await
    }
}

/// A response with all of its body.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) trailers: Option<HeaderMap>,
}

pub(super) async fn whole(response: Response<RecvStream>) -> Whole {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap();
    let body = String::from_utf8(bytes).unwrap();
    Whole { status: parts.status.as_u16(), headers: parts.headers, body, trailers }
}

pub(super) fn request(method: &str, uri: &str) -> Request<()> {
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

#[tokio::test]
async fn a_stream_is_a_request_like_any_other() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let once = |decision| Decision { valid_for: Duration::ZERO, ..decision };
    setting.policyd.decide(move |_, revision| once(allow(revision)));
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let mut sent = request("GET", "http://Shop:9080/a/../cart?x=1");
    for (name, value) in [("cookie", "a=1"), ("x-user", "zoe"), ("cookie", "b=2"), ("te", "trailers")] {
        sent.headers_mut().append(name, value.parse().unwrap());
    }
    let response = caller.send(sent).await;
    assert_eq!((response.status, response.body.as_str()), (200, "shop"));
    assert_eq!(response.headers["x-app"], "shop");
    for gone in ["connection", "x-hop", "x-tidegate-policy", "transfer-encoding"] {
        assert!(!response.headers.contains_key(gone), "{gone}");
    }
    let seen = application.last();
    assert_eq!(seen.line, "GET /cart?x=1");
    let said = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
    assert_eq!([said("host"), said("cookie"), said("x-user")], ["Shop:9080", "a=1; b=2", "zoe"]);
    assert_eq!(said("x-forwarded-for"), "127.0.0.1");
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
    assert_eq!((checked.path.as_str(), checked.host.as_str()), ("/cart", "shop"));
    assert_eq!(checked.cookies.len(), 2);
    // The next one on the same connection is counted too.
    setting.policyd.decide(|_, revision| deny(revision));
    let denied = caller.send(request("HEAD", "http://shop/other")).await;
    assert_eq!((denied.status, denied.body.as_str()), (403, ""));
    let refused = caller.send(request("POST", "http://shop/more")).await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains(r#""error":"denied""#), "{}", refused.body);
    let shown = proxy.metrics.render();
    let counted = r#"direction="ingress",service="shop",operation="",code="403"} 2"#;
    assert!(shown.contains(counted), "{shown}");
}

#[tokio::test]
async fn what_has_two_readings_is_refused() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let field = |name: &'static str, value: &[u8]| (name, value.to_vec());
    let table = [
        ("http://shop/", vec![field("host", b"other")], 400),
        ("http://shop/%2e%2e%2f%00", vec![], 400),
        ("http://shop/", vec![field("content-length", b"0"), field("content-length", b"0")], 400),
        ("http://shop/", vec![field("x", b"\xff")], 400),
        ("http://user@shop/", vec![], 400),
        ("http://shop/", vec![field("x", &[b'x'; 30_000]), field("y", &[b'x'; 40_000])], 431),
        ("http://shop/", vec![field("host", b"SHOP")], 200),
    ];
    for (uri, fields, status) in table {
        let mut sent = request("GET", uri);
        for (name, value) in fields {
            sent.headers_mut().append(name, http::HeaderValue::from_bytes(&value).unwrap());
        }
        let shown = format!("{sent:?}");
        assert_eq!(caller.send(sent).await.status, status, "{shown:.200}");
    }
    assert_eq!(caller.send(request("CONNECT", "shop:80")).await.status, 405);
    assert_eq!(application.count(), 1);
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (response, mut body) = caller.open(request("POST", "http://shop/")).await;
    body.send_data("ab".into(), false).unwrap();
    let mut stream = accept(&upstream).await;
    let mut chunk = [0; 7];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut chunk).await.unwrap();
    assert_eq!(&chunk, b"2\r\nab\r\n");
    stream
        .write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
        .await
        .unwrap();
    let response = response.await.unwrap();
    // The rest of the body depends on the answer.
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("x-forwarded-for", "evil".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let mut rest = [0; 15];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut rest).await.unwrap();
    assert_eq!(std::str::from_utf8(&rest).unwrap(), "0\r\nx-sum: 7\r\n\r\n");
    stream.write_all(b"1\r\nB\r\n0\r\nx-end: 1\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    let response = whole(response).await;
    assert_eq!((response.status, response.body.as_str()), (200, "AB"));
    let trailers = response.trailers.unwrap();
    assert_eq!((trailers.len(), &trailers["x-end"]), (1, &"1".parse().unwrap()));
    // The connection to the application takes the next one, with its length.
    let mut sent = request("PUT", "http://shop/next");
    sent.headers_mut().insert("content-length", "3".parse().unwrap());
    let (response, mut body) = caller.open(sent).await;
    body.send_data("abc".into(), true).unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.contains("content-length: 3\r\n"), "{head}");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(response.await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_taken_for_a_whole() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    std::future::poll_fn(|cx| caller.0.poll_ready(cx)).await.unwrap();
    let (response, _) = caller.0.send_request(request("GET", "http://shop/"), true).unwrap();
    let mut stream = accept(&upstream).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "ab");
    drop(stream);
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
}
