//! How large heads may be: at each limit, one beyond it, and over two sidecars, which add to them.

use std::sync::{Arc, Mutex};

use http::HeaderName;
use model::{Decision, Limit, Mode, Operand};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::http1::{ingress, read_head, scripted};
use super::http2::{Caller, request};
use super::mesh::caller;
use super::setting::*;
use crate::framing::{HEAD_MAX, HEADERS_MAX, TARGET_MAX};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0";
/// Its body ends with the connection, which the head has to tell then.
const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nx: y";

/// A head of so many fields, the ones in `begin` among them. The last one makes it `length` long.
fn head(begin: &str, fields: usize, length: Option<usize>) -> String {
    let mut head = format!("{begin}\r\n");
    let others = fields - head.matches(": ").count() - 1;
    head.push_str(&"x: y\r\n".repeat(others));
    let rest = length.map_or(1, |length| length - head.len() - "z: \r\n\r\n".len());
    head + &format!("z: {}\r\n\r\n", "z".repeat(rest))
}

/// An application that answers whatever comes with what is in the cell.
fn answers(upstream: TcpListener) -> Arc<Mutex<String>> {
    let answer = Arc::new(Mutex::new(head(OK, 2, None)));
    let cell = Arc::clone(&answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = upstream.accept().await {
            let cell = Arc::clone(&cell);
            tokio::spawn(async move {
                loop {
                    read_head(&mut stream).await;
                    let answer = cell.lock().unwrap().clone();
                    let _refused = stream.write_all(answer.as_bytes()).await;
                    if answer.starts_with(UNTIL_CLOSE) {
                        return;
                    }
                }
            });
        }
    });
    answer
}

#[tokio::test]
async fn a_request_may_be_as_large_as_is_said_and_no_larger() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    answers(upstream);
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: shop", "x".repeat(length - 1));
    let table = [
        (head(GET, HEADERS_MAX, None), 200),
        (head(GET, HEADERS_MAX + 1, None), 431),
        (head(GET, 2, Some(HEAD_MAX)), 200),
        (head(GET, 2, Some(HEAD_MAX + 1)), 431),
        (head(GET, HEADERS_MAX, Some(HEAD_MAX)), 200),
        (head(&target(TARGET_MAX), 2, None), 200),
        (head(&target(TARGET_MAX + 1), 2, None), 414),
        (head(&target(TARGET_MAX), HEADERS_MAX, Some(HEAD_MAX)), 200),
    ];
    for (request, status) in table {
        let fields = request.matches(": ").count();
        let response = send(ingress(&proxy), &request).await;
        assert_eq!(response.status, status, "{} bytes, {fields} fields", request.len());
    }
}

#[tokio::test]
async fn a_response_may_be_as_large_as_a_request() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let answer = answers(upstream);
    let table = [
        (head(OK, HEADERS_MAX, None), 200),
        (head(OK, HEADERS_MAX + 1, None), 502),
        (head(OK, 2, Some(HEAD_MAX)), 200),
        (head(OK, 2, Some(HEAD_MAX + 1)), 502),
        (head(OK, HEADERS_MAX, Some(HEAD_MAX)), 200),
    ];
    for (response, status) in table {
        *answer.lock().unwrap() = response.clone();
        let got = get(ingress(&proxy), "shop", "/").await;
        assert_eq!(got.status, status, "{} bytes", response.len());
        assert!(status != 200 || got.headers.len() >= response.matches(": ").count());
    }
}

/// Has each request charged to two limits, so that the response tells of them.
async fn charge(setting: &Setting) {
    let limit = |name: &str| {
        Limit::of_rate(name, Mode::Local, "1000000 per 1h".parse().unwrap(), vec![Operand::Principal])
    };
    let names = ["calls-per-caller", "calls-of-all"];
    setting.policyd.change(|config| config.limits = names.map(limit).to_vec()).await;
    let limits = names.map(Into::into).to_vec();
    setting.policyd.decide(move |_, revision| Decision { limits: limits.clone(), ..allow(revision) });
}

#[tokio::test]
async fn what_a_sidecar_adds_does_not_have_the_next_one_refuse_it() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let shop = setting.proxy("shop", address).await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    charge(&setting).await;
    let answer = answers(upstream);
    *answer.lock().unwrap() = head(UNTIL_CLOSE, HEADERS_MAX, Some(HEAD_MAX));
    let outbound = cart.addresses.outbound;
    for request in [
        head(GET, HEADERS_MAX, Some(HEAD_MAX)),
        head("GET / HTTP/1.0", HEADERS_MAX, None).replace("z: ", "Host: "),
    ] {
        let request = request.replace("Host: z\r\n", "Host: shop\r\n");
        let mut wire = Wire::open(outbound).await;
        wire.write(&request).await;
        let told = wire.read_to("\r\n\r\n").await;
        assert!(told.starts_with("HTTP/1.1 200 "), "{:?}", told.lines().next());
        assert!(
            told.contains("\r\nratelimit: \"calls-per-caller\"") && told.contains("\r\nconnection: close")
        );
        assert!(told.len() > HEAD_MAX && told.matches("\r\n").count() > HEADERS_MAX);
    }
    assert_eq!(send(outbound, head(GET, HEADERS_MAX + 1, None)).await.status, 431);
    *answer.lock().unwrap() = head(OK, HEADERS_MAX + 1, None);
    assert_eq!(get(outbound, "shop", "/").await.status, 502, "the service's sidecar takes no more than that");
}

#[tokio::test]
async fn nor_does_it_by_http2() {
    let setting = Setting::new().await;
    let (upstream, address) = scripted().await;
    let shop = setting.proxy("shop", address).await;
    let cart = caller(&setting, &[("shop-v1", shop.addresses.inbound)]).await;
    charge(&setting).await;
    let answer = answers(upstream);
    let mut http2 = Caller::connect(cart.addresses.outbound).await;
    // The text has a line with method and target, and one for the host.
    let text = "GET / HTTP/1.1\r\nhost: shop\r\n\r\n".len();
    for (fields, response, status) in [
        (HEADERS_MAX, head(UNTIL_CLOSE, HEADERS_MAX, Some(HEAD_MAX)), 200),
        (HEADERS_MAX, head(OK, HEADERS_MAX, None), 200),
        (HEADERS_MAX + 1, head(OK, 2, None), 431),
        (2, head(OK, HEADERS_MAX + 1, None), 502),
    ] {
        *answer.lock().unwrap() = response.clone();
        let mut asked = request("GET", "http://shop/");
        let others = fields - 2;
        for field in 0..others {
            let name: HeaderName = format!("x-{field:02}").parse().unwrap();
            asked.headers_mut().insert(name, "y".parse().unwrap());
        }
        let rest = HEAD_MAX - text - others * "x-00: y\r\n".len() - "z: \r\n".len();
        asked.headers_mut().insert("z", "z".repeat(rest).parse().unwrap());
        let got = http2.send(asked).await;
        assert_eq!(got.status, status, "{fields} fields, then {}", response.matches(": ").count());
    }
}
