//! Applications that speak HTTP/2, and sidecars that do so with each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use api::config::Protocol;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, Request, Response};
use identity::Source;
use tokio::net::{TcpListener, TcpStream};

use super::http1::{accept, ingress, scripted};
use super::http2::{Caller, request, whole};
use super::http2_hostile::skip;
use super::mesh::until_open;
use super::setting::*;
use crate::app::Bound;
use crate::pool::CONNECT_TIMEOUT;

/// A body that is larger than all windows together.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 100;

/// An application whose connections a test speaks for.
pub(super) struct Upstream(TcpListener);

/// One connection to it.
pub(super) type Accepted = Connection<TcpStream, Bytes>;

impl Upstream {
    pub(super) async fn start() -> (Self, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        (Self(socket), address)
    }

    pub(super) async fn connection(&self) -> Accepted {
        h2::server::handshake(self.0.accept().await.unwrap().0).await.unwrap()
    }

    pub(super) async fn connection_with(&self, builder: &h2::server::Builder) -> Accepted {
        builder.handshake(self.0.accept().await.unwrap().0).await.unwrap()
    }
}

pub(super) async fn stream(connection: &mut Accepted) -> (Request<RecvStream>, SendResponse<Bytes>) {
    connection.accept().await.unwrap().unwrap()
}

/// Goes on with a connection whose streams a test has.
pub(super) fn drive(mut connection: Accepted) {
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
}

/// A proxy of `shop`, whose application speaks HTTP/2.
pub(super) async fn shop(setting: &Setting, application: SocketAddr) -> Bound {
    let proxy = setting.proxy("shop", application).await;
    speak_http2(setting, &[]).await;
    until_told(&proxy, 0).await;
    proxy
}

pub(super) async fn speak_http2(setting: &Setting, endpoints: &[(&str, SocketAddr)]) {
    let shop = api::config::Service { protocol: Protocol::Http2, ..service("shop", endpoints) };
    setting.policyd.change(|config| config.services = vec![shop]).await;
}

pub(super) async fn until_told(proxy: &Bound, endpoints: usize) {
    let told = |config: &api::config::Config| {
        config
            .mesh
            .services
            .iter()
            .any(|shop| shop.protocol == Protocol::Http2 && shop.endpoints.len() == endpoints)
    };
    assert!(told(&proxy.current().when(|applied| told(&applied.config)).await.config));
}

fn ok() -> Response<()> {
    Response::new(())
}

#[tokio::test]
async fn a_call_over_two_sidecars_is_one_stream_from_end_to_end() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let shop = shop(&setting, address).await;
    let cart = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    speak_http2(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    for proxy in [&shop, &cart] {
        until_told(proxy, 1).await;
    }
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    let mut sent = request("POST", "http://shop/chat?x=1");
    sent.headers_mut().insert("te", "trailers".parse().unwrap());
    let (response, mut body) = caller.open(sent).await;
    body.send_data("ping".into(), false).unwrap();
    let mut connection = upstream.connection().await;
    let (received, mut respond) = stream(&mut connection).await;
    let (parts, mut received) = received.into_parts();
    assert_eq!(parts.uri, "http://shop/chat?x=1");
    assert_eq!(
        (&parts.headers["te"], parts.headers.contains_key("host")),
        (&"trailers".parse().unwrap(), false)
    );
    let said = format!("By={};URI={}", id("shop"), id("cart"));
    assert_eq!(parts.headers["x-forwarded-client-cert"], said);
    drive(connection);
    // Both directions go on at once, and each is told at once.
    let mut answer = respond.send_response(ok(), false).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(received.data().await.unwrap().unwrap(), "ping");
    answer.send_data("pong".into(), false).unwrap();
    assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "pong");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "4".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    assert!(received.data().await.is_none());
    assert_eq!(received.trailers().await.unwrap().unwrap()["x-sum"], "4");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    answer.send_trailers(trailers).unwrap();
    assert_eq!(whole(response).await.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_caller_of_http1_meets_an_application_of_http2() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("POST /a HTTP/1.1\r\nHost: shop\r\nConnection: x-hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let mut connection = upstream.connection().await;
    let (received, mut respond) = stream(&mut connection).await;
    let (parts, mut received) = received.into_parts();
    assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/a"));
    assert!(!parts.headers.contains_key("x-hop") && !parts.headers.contains_key("transfer-encoding"));
    let serve = tokio::spawn(async move {
        let (mut next, mut respond) = stream(&mut connection).await;
        assert!(next.body_mut().data().await.is_none());
        respond.send_response(ok(), true).unwrap();
        drive(connection);
    });
    let mut answer = respond.send_response(ok(), false).unwrap();
    assert_eq!(received.data().await.unwrap().unwrap(), "a");
    answer.send_data("A".into(), false).unwrap();
    wire.read_to("1\r\nA\r\n").await;
    wire.write("1\r\nb\r\n0\r\nx-sum: 2\r\n\r\n").await;
    assert_eq!(received.data().await.unwrap().unwrap(), "b");
    assert!(received.data().await.is_none());
    assert_eq!(received.trailers().await.unwrap().unwrap()["x-sum"], "2");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    answer.send_trailers(trailers).unwrap();
    assert_eq!(wire.read_to("\r\n\r\n").await, "0\r\nx-end: 1\r\n\r\n");
    // The caller's connection takes the next request; a response without a body says so.
    wire.write("GET /next HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let response = wire.response(false).await;
    assert_eq!((response.status, response.header("content-length")), (200, Some("0")));
    serve.await.unwrap();
}

#[tokio::test]
async fn what_a_caller_does_not_take_is_not_asked_for() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (response, body) = caller.open(request("GET", "http://shop/")).await;
    drop(body);
    let mut connection = upstream.connection().await;
    let (_, mut respond) = stream(&mut connection).await;
    let mut answer = respond.send_response(ok(), false).unwrap();
    drive(connection);
    let mut response = response.await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; PIECE]);
        for _ in 0..PIECES {
            answer.reserve_capacity(PIECE);
            while answer.capacity() < PIECE {
                std::future::poll_fn(|cx| answer.poll_capacity(cx)).await.unwrap().unwrap();
            }
            answer.send_data(piece.clone(), false).unwrap();
            count.fetch_add(PIECE, SeqCst);
        }
        answer.send_data(Bytes::new(), true).unwrap();
    });
    // The application's window, the caller's, and one piece in between: never more than that is under way.
    let most = 2 * 64 * 1024 + 2 * PIECE;
    let mut read = 0;
    while let Some(data) = response.body_mut().data().await {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let ahead = sent.load(SeqCst) - read;
        assert!(ahead <= most, "{ahead}");
        let length = data.unwrap().len();
        response.body_mut().flow_control().release_capacity(length).unwrap();
        read += length;
    }
    assert_eq!(read, PIECE * PIECES);
}

#[tokio::test]
async fn a_stream_that_was_not_looked_at_goes_to_another_connection() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (response, mut body) = caller.open(request("POST", "http://shop/")).await;
    body.send_data("once".into(), true).unwrap();
    let mut first = upstream.connection().await;
    let (_, mut respond) = stream(&mut first).await;
    respond.send_reset(h2::Reason::REFUSED_STREAM);
    drive(first);
    let mut second = upstream.connection().await;
    let (received, mut respond) = stream(&mut second).await;
    let mut received = received.into_body();
    assert_eq!(received.data().await.unwrap().unwrap(), "once");
    assert!(received.data().await.is_none());
    respond.send_response(ok(), true).unwrap();
    let next = tokio::spawn(async move {
        // It goes away, and finishes what it has.
        let (_, mut respond) = stream(&mut second).await;
        second.graceful_shutdown();
        respond.send_response(ok(), true).unwrap();
        while second.accept().await.is_some() {}
    });
    assert_eq!(response.await.unwrap().status(), 200);
    // Which of the two connections is taken is not said, but the first one waits for nobody.
    drop(next);
}

#[tokio::test]
async fn a_connection_with_as_many_streams_as_its_peer_takes_gets_no_more() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (first, _body) = caller.open(request("POST", "http://shop/1")).await;
    let mut builder = h2::server::Builder::new();
    let mut one = upstream.connection_with(builder.max_concurrent_streams(1)).await;
    let (_, mut respond) = stream(&mut one).await;
    // With this answer the settings have come, too.
    let mut open = respond.send_response(ok(), false).unwrap();
    drive(one);
    let first = first.await.unwrap();
    let (second, _body) = caller.open(request("POST", "http://shop/2")).await;
    let mut two = upstream.connection_with(builder.max_concurrent_streams(1)).await;
    let (received, mut respond) = stream(&mut two).await;
    assert_eq!(received.uri().path(), "/2");
    respond.send_response(ok(), true).unwrap();
    drive(two);
    assert_eq!(second.await.unwrap().status(), 200);
    open.send_data(Bytes::new(), true).unwrap();
    assert_eq!(whole(first).await.status, 200);
}

#[tokio::test]
async fn an_answer_that_is_over_with_its_head_stays_so() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    std::future::poll_fn(|cx| caller.0.poll_ready(cx)).await.unwrap();
    let (response, _) = caller.0.send_request(request("GET", "http://shop/"), true).unwrap();
    let mut application = accept(&upstream).await;
    tokio::io::AsyncWriteExt::write_all(
        &mut application,
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    )
    .await
    .unwrap();
    let response = response.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-length"]),
        (304, &"7".parse().unwrap())
    );
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn a_peer_that_goes_away_gets_no_new_streams_and_keeps_the_old_ones() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (old, _body) = caller.open(request("POST", "http://shop/old")).await;
    let mut first = upstream.connection().await;
    let (_, mut respond) = stream(&mut first).await;
    let mut answer = respond.send_response(ok(), false).unwrap();
    first.graceful_shutdown();
    drive(first);
    let mut old = old.await.unwrap();
    answer.send_data("begun".into(), false).unwrap();
    // With this, what was said before has come too.
    assert_eq!(old.body_mut().data().await.unwrap().unwrap(), "begun");
    let (new, _body) = caller.open(request("POST", "http://shop/new")).await;
    let mut second = upstream.connection().await;
    let (received, mut respond) = stream(&mut second).await;
    assert_eq!(received.uri().path(), "/new");
    respond.send_response(ok(), true).unwrap();
    drive(second);
    assert_eq!(new.await.unwrap().status(), 200);
    answer.send_data(" ended".into(), true).unwrap();
    assert_eq!(whole(old).await.body, " ended");
}

#[tokio::test]
async fn a_shared_connection_ends_with_the_certificates_that_made_it() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let source = Source::fixed(setting.pki.identity(&id("cart"), HOUR / 60));
    let nobody = "127.0.0.1:1".parse().unwrap();
    let cart = setting.proxy_with("cart", nobody, source.clone(), |_| {}).await;
    let shop_at = [("shop-v1", shop.addresses.inbound)];
    setting.policyd.change(|config| config.services = vec![service("shop", &shop_at)]).await;
    cart.current().until(|applied| applied.services.contains_key("shop")).await;
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    for _ in 0..3 {
        assert_eq!(caller.send(request("GET", "http://shop/")).await.status, 200);
    }
    until_open(&shop, 1).await;
    // Renewed: the one of the certificate before takes no more, and goes when its last stream has.
    source.replace(setting.pki.identity(&id("cart"), HOUR / 60));
    assert_eq!(caller.send(request("GET", "http://shop/")).await.status, 200);
    until_open(&shop, 1).await;
    // Not renewed: the other side ends it.
    setting.clock.advance(HOUR / 30);
    until_open(&shop, 0).await;
    assert_eq!(caller.send(request("GET", "http://shop/")).await.status, 502);
    assert_eq!(application.count(), 4);
}

#[tokio::test]
async fn requests_that_wait_for_one_connection_fail_with_it() {
    let setting = Setting::new().await;
    // It accepts, and says nothing: there is no TLS.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cart = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    let shop_at = [("shop-v1", silent.local_addr().unwrap())];
    setting.policyd.change(|config| config.services = vec![service("shop", &shop_at)]).await;
    cart.current().until(|applied| applied.services.contains_key("shop")).await;
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(caller.open(request("GET", "http://shop/")).await);
    }
    let held = silent.accept().await.unwrap();
    skip(CONNECT_TIMEOUT).await;
    // One after the other they would take longer than the service's timeout.
    for (response, _body) in waiting {
        let response = whole(response.await.unwrap()).await;
        assert!(response.body.contains("no_healthy_upstream"), "{}", response.body);
    }
    drop(held);
}
