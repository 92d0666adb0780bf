//! What was let in ends once it would not be let in again, and goes on otherwise.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use api::config::{Enforcement, KeySource};
use model::{Action, Atom, AtomSet, FailMode, Name, Test};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::grpc::{call, status};
use super::http2::{Caller, request};
use super::http2_upstream::{Accepted, Upstream, drive, shop, speak_http2, stream, until_told};
use super::policyd::Told;
use super::setting::*;
use super::tcp::{answer, connect, is_ended, pair, until_counted};
use crate::app::Bound;
use crate::jwt::test_tokens::*;

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\n";
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";

/// Reads up to and with `mark`.
async fn read_to(stream: &mut TcpStream, mark: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(mark.as_bytes()) {
        heard.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(heard).unwrap()
}

/// A service that answers each word with itself.
async fn echo() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn serve(socket: TcpListener, greeting: &'static str) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                if !greeting.is_empty() {
                    let mut head = [0; 4096];
                    let _read = stream.read(&mut head).await;
                    let _written = stream.write_all(greeting.as_bytes()).await;
                }
                let (mut read, mut write) = stream.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
}

/// Two sidecars with an open connection, on which something was said.
async fn open(setting: &Setting) -> (Bound, Bound, TcpStream) {
    let socket = echo().await;
    let application = socket.local_addr().unwrap();
    serve(socket, "");
    let (shop, cart) = pair(setting, application, &[]).await;
    let mut stream = connect(&cart).await;
    answer(&mut stream).await.unwrap();
    (shop, cart, stream)
}

/// Changes what `shop` is told, and waits until it has taken it over.
pub(super) async fn push(setting: &Setting, shop: &Bound, change: impl FnOnce(&mut Told)) {
    let revision = setting.policyd.change(change).await.revision.unwrap();
    shop.current().until(|applied| applied.config.revision == revision.into()).await;
}

#[tokio::test]
async fn a_raw_connection_ends_with_the_revision_that_denies_it_and_not_before() {
    let setting = Setting::new().await;
    let (shop, cart, mut stream) = open(&setting).await;
    // Other policies that allow it, by what it was decided on.
    push(&setting, &shop, |_| ()).await;
    let asked = || setting.policyd.checks.lock().unwrap().clone();
    answer(&mut stream).await.unwrap();
    setting.policyd.decide(|_, revision| deny(revision));
    answer(&mut stream).await.unwrap();
    push(&setting, &shop, |_| ()).await;
    assert!(is_ended(&mut stream).await);
    until_counted(&shop, r#"direction="inbound",service="shop",outcome="revoked"} 1"#).await;
    let (first, last) = (asked().first().unwrap().clone(), asked().last().unwrap().clone());
    assert_eq!((last.action, &last), (Action::Tcp, &first), "the facts are those of before");
    assert!(is_ended(&mut connect(&cart).await).await);
}

#[tokio::test]
async fn a_service_that_only_observes_ends_nothing_until_it_enforces() {
    let setting = Setting::new().await;
    let (shop, _cart, mut stream) = open(&setting).await;
    setting.policyd.decide(|_, revision| deny(revision));
    push(&setting, &shop, |told| told.enforced[0].enforcement = Enforcement::Observe).await;
    answer(&mut stream).await.unwrap();
    push(&setting, &shop, |told| told.enforced[0].enforcement = Enforcement::Off).await;
    answer(&mut stream).await.unwrap();
    push(&setting, &shop, |told| told.enforced[0].enforcement = Enforcement::Enforce).await;
    assert!(is_ended(&mut stream).await);
}

#[tokio::test]
async fn while_policyd_is_away_the_fail_mode_has_the_say_once_what_is_known_is_stale() {
    for (fail_mode, ends) in [(FailMode::Closed, true), (FailMode::Open, false)] {
        let setting = Setting::new().await;
        let (shop, _cart, mut stream) = open(&setting).await;
        push(&setting, &shop, |told| told.enforced[0].fail_mode = fail_mode).await;
        setting.policyd.answers_pings.store(false, SeqCst);
        setting.policyd.lifecycle.stop();
        answer(&mut stream).await.unwrap();
        setting.clock.advance(Duration::from_secs(60));
        until_counted(&shop, "tidegate_policy_stale 1\n").await;
        if ends {
            assert!(is_ended(&mut stream).await);
        } else {
            until_counted(&shop, r#"tidegate_decisions_total{verdict="allow",source="degraded"} 1"#).await;
            answer(&mut stream).await.unwrap();
        }
    }
}

/// Until `shop` is asked about for the first time.
async fn until_asked(setting: &Setting) -> model::Attributes {
    let asked = async {
        loop {
            if let Some(asked) = setting.policyd.checks.lock().unwrap().first() {
                return asked.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("a question")
}

#[tokio::test]
async fn a_stream_that_began_unprotected_has_its_users_claims_once_they_count() {
    for (user, ends) in [("ann", false), ("bob", true)] {
        let setting = Setting::new().await;
        let socket = echo().await;
        let application = socket.local_addr().unwrap();
        serve(socket, UPGRADED);
        let shop = setting.proxy("shop", application).await;
        let takes = issuer(KeySource::Text(key_set(&[EC.jwk("a")])));
        let off = |told: &mut Told| {
            told.enforced[0].enforcement = Enforcement::Off;
            told.enforced[0].issuers = vec![takes];
        };
        push(&setting, &shop, off).await;
        setting.policyd.decide(|request, revision| match request.claims.get("sub").map(String::as_str) {
            Some("ann") => allow(revision),
            _ => deny(revision),
        });
        let token = EC.sign("a", &claims_with(setting.clock.now(), &json!({"sub": user})));
        let mut stream = TcpStream::connect(shop.addresses.ingress.unwrap()).await.unwrap();
        let head = format!("{UPGRADE}Authorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_to(&mut stream, "\r\n\r\n").await;
        answer(&mut stream).await.unwrap();
        push(&setting, &shop, |told| told.enforced[0].enforcement = Enforcement::Enforce).await;
        assert_eq!(until_asked(&setting).await.claims["sub"], user);
        if ends {
            assert!(is_ended(&mut stream).await);
        } else {
            answer(&mut stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_that_began_unprotected_with_a_bad_token_ends_once_it_counts() {
    let setting = Setting::new().await;
    let socket = echo().await;
    let application = socket.local_addr().unwrap();
    serve(socket, UPGRADED);
    let shop = setting.proxy("shop", application).await;
    push(&setting, &shop, |told| told.enforced[0].enforcement = Enforcement::Off).await;
    let mut stream = TcpStream::connect(shop.addresses.ingress.unwrap()).await.unwrap();
    let head = format!("{UPGRADE}Authorization: Bearer x.y.z\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    read_to(&mut stream, "\r\n\r\n").await;
    let takes = issuer(KeySource::Text(key_set(&[EC.jwk("a")])));
    let on = |told: &mut Told| {
        told.enforced[0].enforcement = Enforcement::Enforce;
        told.enforced[0].issuers = vec![takes];
    };
    push(&setting, &shop, on).await;
    assert!(is_ended(&mut stream).await);
    assert!(setting.policyd.checks.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_request_that_is_still_uploaded_is_refused_once_it_would_be() {
    let setting = Setting::new().await;
    let socket = echo().await;
    let shop = setting.proxy("shop", socket.local_addr().unwrap()).await;
    let mut stream = TcpStream::connect(shop.addresses.ingress.unwrap()).await.unwrap();
    stream.write_all(b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\n1234").await.unwrap();
    let (mut application, _) = socket.accept().await.unwrap();
    read_to(&mut application, "1234").await;
    push(&setting, &shop, |_| ()).await;
    stream.write_all(b"567").await.unwrap();
    read_to(&mut application, "567").await;
    setting.policyd.decide(|_, revision| deny(revision));
    push(&setting, &shop, |_| ()).await;
    let answer = read_to(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(is_ended(&mut application).await, "what it has got is not all");
    let asked = setting.policyd.checks.lock().unwrap().clone();
    assert_eq!(asked.last(), asked.first(), "the facts are those of before");
}

#[tokio::test]
async fn tunnels_and_responses_that_go_on_end_too() {
    const STREAMED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    for (greeting, last) in [(UPGRADED, "\r\n\r\n"), (STREAMED, "a\r\n")] {
        let setting = Setting::new().await;
        let socket = echo().await;
        let application = socket.local_addr().unwrap();
        serve(socket, greeting);
        let shop = setting.proxy("shop", application).await;
        let mut stream = TcpStream::connect(shop.addresses.ingress.unwrap()).await.unwrap();
        stream.write_all(format!("{UPGRADE}\r\n").as_bytes()).await.unwrap();
        read_to(&mut stream, last).await;
        push(&setting, &shop, |_| ()).await;
        setting.policyd.decide(|_, revision| deny(revision));
        push(&setting, &shop, |_| ()).await;
        assert!(is_ended(&mut stream).await, "{greeting}");
        let asked = setting.policyd.checks.lock().unwrap().clone();
        assert_eq!(asked.last(), asked.first(), "the facts are those of before");
    }
}

/// A request whose response a test says for an application.
struct Served {
    path: String,
    asked: h2::RecvStream,
    answer: h2::SendStream<bytes::Bytes>,
}

/// Begins to answer the next request.
async fn begin(application: &mut Accepted) -> Served {
    let (asked, mut respond) = stream(application).await;
    let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
    answer.send_data("begun".into(), false).unwrap();
    Served { path: asked.uri().path().to_owned(), asked: asked.into_body(), answer }
}

/// The next data of a response that goes on.
async fn next(body: &mut h2::RecvStream) -> Result<bytes::Bytes, h2::Error> {
    let data = tokio::time::timeout(Duration::from_secs(20), body.data()).await;
    data.expect("data, or an end").unwrap()
}

#[tokio::test]
async fn of_the_streams_of_a_connection_those_end_that_would_be_denied() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let shop = shop(&setting, address).await;
    let cart = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    speak_http2(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    for proxy in [&shop, &cart] {
        until_told(proxy, 1).await;
    }
    let by_path = AtomSet::new(vec![Atom::new(Name::Path, Test::Value)], true);
    push(&setting, &shop, |told| told.enforced[0].atoms = by_path).await;
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    // Two calls of gRPC, one of which may go on; one request; and a call that was not answered yet.
    let (allowed, mut goes_on) = caller.open(call("/a.B/Allowed")).await;
    let (denied, _talk) = caller.open(call("/a.B/Denied")).await;
    let (asked, _body) = caller.open(request("POST", "http://shop/denied")).await;
    let mut application = upstream.connection().await;
    let mut served = Vec::new();
    for _ in 0..3 {
        served.push(begin(&mut application).await);
    }
    // Each was decided on by itself, so they come in any order.
    served.sort_by(|one, other| one.path.cmp(&other.path));
    let (silent, _unanswered) = caller.open(call("/a.B/DeniedToo")).await;
    let (unanswered, _respond) = stream(&mut application).await;
    drive(application);
    let mut bodies = Vec::new();
    for response in [allowed, denied, asked] {
        let mut body = response.await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap(), "begun");
        bodies.push(body);
    }
    // Another revision that lets them in.
    push(&setting, &shop, |_| ()).await;
    for (Served { answer, .. }, body) in served.iter_mut().zip(&mut bodies) {
        answer.send_data("more".into(), false).unwrap();
        assert_eq!(next(body).await.unwrap(), "more");
    }
    setting.policyd.decide(|attributes, revision| {
        let denies = attributes.path.to_lowercase().contains("denied");
        if denies { deny(revision) } else { allow(revision) }
    });
    push(&setting, &shop, |_| ()).await;

    assert!(bodies[1].data().await.is_none());
    let trailers = bodies[1].trailers().await.unwrap().unwrap();
    assert_eq!(status(&trailers), "7", "permission denied");
    assert!(next(&mut bodies[2]).await.unwrap_err().is_reset());
    let told = silent.await.unwrap();
    assert_eq!(status(told.headers()), "7", "it was refused as a new one is");
    // The application is told, too, and the call that may go on goes on.
    let [Served { asked: mut up, answer: mut down, .. }, gone, gone_too] =
        <[_; 3]>::try_from(served).ok().unwrap();
    for mut asked in [gone.asked, gone_too.asked, unanswered.into_body()] {
        let reset = next(&mut asked).await.unwrap_err();
        assert_eq!((reset.is_reset(), reset.reason()), (true, Some(h2::Reason::CANCEL)));
    }
    goes_on.send_data("up".into(), false).unwrap();
    assert_eq!(next(&mut up).await.unwrap(), "up");
    down.send_data("down".into(), true).unwrap();
    assert_eq!(next(&mut bodies[0]).await.unwrap(), "down");
    // And no other is let in.
    let (refused, _body) = caller.open(call("/a.B/Denied")).await;
    assert_eq!(status(refused.await.unwrap().headers()), "7");
}
