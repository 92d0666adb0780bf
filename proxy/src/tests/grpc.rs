//! Calls of gRPC: what they are to policies, how they are refused, and how long they may take.

use std::time::Duration;

use api::config::Protocol;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use identity::Source;
use model::{Action, Decision};

use super::http1::ingress;
use super::http2::{Caller, Whole, request, whole};
use super::http2_upstream::{Upstream, shop, stream};
use super::setting::*;

pub(super) fn call(path: &str) -> Request<()> {
    let mut call = request("POST", &format!("http://shop{path}"));
    call.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    call.headers_mut().insert("te", "trailers".parse().unwrap());
    call
}

/// A call that is answered by the sidecar.
async fn refused(caller: &mut Caller, call: Request<()>) -> Whole {
    let (response, mut body) = caller.open(call).await;
    // What is sent meanwhile is of no interest.
    drop(body.send_data(Bytes::from_static(&[0; 5]), true));
    let response = whole(response.await.unwrap()).await;
    assert_eq!((response.status, response.body.as_str()), (200, ""));
    assert_eq!(response.headers["content-type"], "application/grpc");
    assert!(response.trailers.is_none() && !response.headers.contains_key("content-length"));
    response
}

pub(super) fn status(fields: &HeaderMap) -> &str {
    fields["grpc-status"].to_str().unwrap()
}

#[tokio::test]
async fn a_call_has_its_own_action_where_the_service_speaks_http2() {
    let setting = Setting::new().await;
    let once = |decision| Decision { valid_for: Duration::ZERO, ..decision };
    setting.policyd.decide(move |_, revision| once(deny(revision)));
    let (_upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let mut asked = async |call: Request<()>| {
        let (response, _body) = caller.open(call).await;
        response.await.unwrap();
        setting.policyd.checks.lock().unwrap().last().unwrap().action
    };
    assert_eq!(asked(call("/a.B/C")).await, Action::Grpc);
    assert_eq!(asked(request("POST", "http://shop/a.B/C")).await, Action::Http);
    let mut put = call("/a.B/C");
    *put.method_mut() = http::Method::PUT;
    assert_eq!(asked(put).await, Action::Http);
    // Nobody can say which of two the application believes.
    let mut two = call("/a.B/C");
    two.headers_mut().append("content-type", "text/plain".parse().unwrap());
    assert_eq!(status(&refused(&mut caller, two).await.headers), "3");
    // It is a call by HTTP/1.1 too, for it will be one at the application.
    let post =
        "POST /a.B/C HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(send(ingress(&proxy), post).await.status, 403);
    assert_eq!(setting.policyd.checks.lock().unwrap().last().unwrap().action, Action::Grpc);
    // Where the application speaks HTTP/1.1 there are no calls.
    setting.policyd.change(|config| config.services[0].protocol = Protocol::Http1).await;
    let told = |applied: &crate::applied::Applied| applied.services["shop"].protocol == Protocol::Http1;
    proxy.current().until(told).await;
    refused(&mut caller, call("/a.B/C")).await;
    assert_eq!(setting.policyd.checks.lock().unwrap().last().unwrap().action, Action::Http);
}

#[tokio::test]
async fn a_call_is_refused_by_a_status_of_its_own() {
    let setting = Setting::new().await;
    let (_upstream, address) = Upstream::start().await;
    let shop = shop(&setting, address).await;
    let cart = setting.proxy("cart", address).await;
    let shop_at = [("shop-v1", shop.addresses.inbound)];
    let of_shop = api::config::Service { protocol: Protocol::Http2, ..service("shop", &shop_at) };
    setting.policyd.change(|config| config.services = vec![of_shop]).await;
    cart.current().until(|applied| applied.services.contains_key("shop")).await;
    let message = "no \u{2603} \u{25}, no \n entry";
    setting.policyd.decide(move |_, revision| Decision { message: message.to_owned(), ..deny(revision) });
    // Who has an identity is told more than who has none.
    let mut outside = Caller::connect(ingress(&shop)).await;
    let told = refused(&mut outside, call("/a.B/C")).await.headers;
    assert_eq!(
        (status(&told), &told["grpc-message"]),
        ("16", &"the request is not allowed".parse().unwrap())
    );
    assert!(!told.contains_key("x-tidegate-policy"));
    let mut workload = Caller::connect(cart.addresses.outbound).await;
    let told = refused(&mut workload, call("/a.B/C")).await.headers;
    assert_eq!((status(&told), &told["x-tidegate-policy"]), ("7", &"acl.cedar#2".parse().unwrap()));
    assert_eq!(told["grpc-message"], "no %E2%98%83 %25, no %0A entry");
    let mut unknown = call("/a.B/C");
    *unknown.uri_mut() = "http://nobody/a.B/C".parse().unwrap();
    assert_eq!(status(&refused(&mut workload, unknown).await.headers), "12");
}

#[tokio::test]
async fn a_call_without_an_application_is_unavailable() {
    let setting = Setting::new().await;
    let proxy = shop(&setting, "127.0.0.1:1".parse().unwrap()).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    assert_eq!(status(&refused(&mut caller, call("/a.B/C")).await.headers), "14");
}

#[tokio::test]
async fn a_call_that_is_refused_before_it_is_decided_is_told_so_as_a_call() {
    let setting = Setting::new().await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let nobody = "127.0.0.1:1".parse().unwrap();
    let proxy = setting.proxy_with("shop", nobody, source, |config| config.max_requests = 0).await;
    proxy.readiness.until_ready().await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let told = refused(&mut caller, call("/a.B/C")).await.headers;
    assert_eq!((status(&told), told["retry-after"].as_bytes()), ("14", b"1".as_slice()));
    // Who makes no call is told by HTTP.
    let (response, _body) = caller.open(request("POST", "http://shop/a.B/C")).await;
    assert_eq!(response.await.unwrap().status(), 503);
    let mut two = call("/a.B/C");
    two.headers_mut().append("host", "other".parse().unwrap());
    assert_eq!(status(&refused(&mut caller, two).await.headers), "3");
}

#[tokio::test]
async fn a_call_takes_no_longer_than_its_caller_waits() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let mut hasty = call("/a.B/C");
    hasty.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    // No answer at all.
    let (response, _body) = caller.open(hasty.clone()).await;
    let mut connection = upstream.connection().await;
    let (_first, mut respond) = stream(&mut connection).await;
    let late = tokio::spawn(async move {
        let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, h2::Reason::CANCEL);
    });
    let (streams, mut next) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(stream)) = connection.accept().await {
            streams.send(stream).unwrap();
        }
    });
    let told = whole(response.await.unwrap()).await;
    assert_eq!((told.status, status(&told.headers)), (200, "4"));
    late.await.unwrap();
    // An answer that does not end.
    let (response, _body) = caller.open(hasty).await;
    let (_second, mut respond) = next.recv().await.unwrap();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    answer.send_data("begun".into(), false).unwrap();
    let told = whole(response.await.unwrap()).await;
    assert_eq!((told.body.as_str(), status(&told.trailers.unwrap())), ("begun", "4"));
    let reset = std::future::poll_fn(|cx| answer.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, h2::Reason::CANCEL);
}
