//! What goes on for long with servers outside of the mesh: WebSockets, and raw connections.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use api::config::Protocol;
use model::{Action, Principal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::external::{Authority, NAME, cart, head};
use super::setting::*;
use super::standing::push;
use super::tcp::{answer, connect, is_ended, until_counted};
use crate::app::Bound;

const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";

/// A server that sends back what it hears; after a change of protocol if it `upgrades`. Tells how often it was called.
async fn echo(acceptor: TlsAcceptor, upgrades: bool) -> (SocketAddr, tokio::sync::watch::Receiver<usize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            count.send_modify(|count| *count += 1);
            tokio::spawn(async move {
                if upgrades {
                    head(&mut stream).await.unwrap();
                    stream.write_all(UPGRADED.as_bytes()).await.unwrap();
                }
                let (mut read, mut write) = tokio::io::split(stream);
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _ended = write.shutdown().await;
            });
        }
    });
    (address, counted)
}

/// An upgraded stream to a server outside of the mesh.
async fn upgraded(setting: &Setting) -> (Bound, TcpStream) {
    let authority = Authority::new();
    let (address, _) = echo(authority.server(NAME, 2100, &[]), true).await;
    let cart = cart(setting, address, &authority, Protocol::Http1).await;
    let mut stream = TcpStream::connect(cart.addresses.outbound).await.unwrap();
    let ask = format!("GET /feed HTTP/1.1\r\nHost: {NAME}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        heard.push(stream.read_u8().await.unwrap());
    }
    assert!(heard.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&heard));
    assert_eq!(answer(&mut stream).await.unwrap(), *b"\0\xff\n");
    (cart, stream)
}

#[tokio::test]
async fn an_upgraded_stream_ends_with_the_revision_that_denies_it_and_not_before() {
    let setting = Setting::new().await;
    let (cart, mut stream) = upgraded(&setting).await;
    push(&setting, &cart, |_| ()).await;
    answer(&mut stream).await.unwrap();
    setting.policyd.decide(
        |asked, revision| {
            if asked.resource == NAME { deny(revision) } else { allow(revision) }
        },
    );
    answer(&mut stream).await.unwrap();
    push(&setting, &cart, |_| ()).await;
    assert!(is_ended(&mut stream).await);
    let asked = setting.policyd.checks.lock().unwrap().clone();
    assert!(asked.len() > 1);
    assert_eq!(asked.last(), asked.first(), "the facts are those of before");
}

#[tokio::test]
async fn a_stream_to_a_server_that_the_bundle_names_no_more_ends() {
    let setting = Setting::new().await;
    let (cart, mut stream) = upgraded(&setting).await;
    let without = |told: &mut Told| {
        told.services.retain(|service| service.name != NAME);
        told.enforced.retain(|enforced| enforced.service != NAME);
    };
    push(&setting, &cart, without).await;
    assert!(is_ended(&mut stream).await);
}

#[tokio::test]
async fn an_upgraded_stream_ends_once_what_is_known_is_stale() {
    let setting = Setting::new().await;
    let (cart, mut stream) = upgraded(&setting).await;
    setting.policyd.answers_pings.store(false, SeqCst);
    setting.policyd.lifecycle.stop();
    answer(&mut stream).await.unwrap();
    setting.clock.advance(Duration::from_secs(60));
    until_counted(&cart, "tidegate_policy_stale 1\n").await;
    assert!(is_ended(&mut stream).await);
}

#[tokio::test]
async fn a_raw_connection_leaves_by_tls_and_its_caller_is_decided_on() {
    let setting = Setting::new().await;
    let authority = Authority::new();
    let (address, connections) = echo(authority.server(NAME, 2100, &[]), false).await;
    let cart = cart(&setting, address, &authority, Protocol::Tcp).await;
    let mut stream = connect(&cart).await;
    assert_eq!(answer(&mut stream).await.unwrap(), *b"\0\xff\n");
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
    assert_eq!((checked.principal, checked.action), (Principal::Workload(id("cart")), Action::Tcp));
    assert_eq!((checked.resource.as_str(), checked.destination_port), (NAME, address.port()));
    assert_eq!((checked.tls, checked.sni), (true, None));
    let of = format!(r#"direction="outbound",service="{NAME}""#);
    until_counted(&cart, &format!("tidegate_tcp_bytes_total{{{of},way=\"to_service\"}} 3\n")).await;

    // What it would not be let out for any more ends, and what is denied never leaves.
    setting.policyd.decide(|_, revision| deny(revision));
    push(&setting, &cart, |_| ()).await;
    assert!(is_ended(&mut stream).await);
    until_counted(&cart, &format!("{of},outcome=\"revoked\"}} 1\n")).await;
    assert!(is_ended(&mut connect(&cart).await).await);
    until_counted(&cart, &format!("{of},outcome=\"denied\"}} 1\n")).await;
    assert_eq!(*connections.borrow(), 1);
    // Nor is it a place for requests.
    assert_eq!(get(cart.addresses.outbound, NAME, "/").await.status, 421);
}

#[tokio::test]
async fn a_raw_connection_is_not_opened_to_a_server_that_is_not_who_it_should_be() {
    let setting = Setting::new().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (address, connections) = echo(stranger.server(NAME, 2100, &[]), false).await;
    let cart = cart(&setting, address, &authority, Protocol::Tcp).await;
    assert!(is_ended(&mut connect(&cart).await).await);
    let of = format!(r#"direction="outbound",service="{NAME}",outcome="no_healthy_upstream""#);
    until_counted(&cart, &format!("{of}}} 1\n")).await;
    assert_eq!(*connections.borrow(), 0);
}
