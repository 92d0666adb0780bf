//! Where Envoys ask: who may, and what is no question.
#![cfg(test)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use api::envoy::auth::attribute_context::{HttpRequest, Peer, Request};
use api::envoy::auth::authorization_client::AuthorizationClient;
use api::envoy::auth::{AttributeContext, CheckRequest};
use api::envoy::core::{Address, SocketAddress, address};
use http::Method;
use identity::{grpc, tls};
use model::SpiffeId;
use policyd::config::{Door, Envoy};
use tidegate_tests::{Answer, World};
use tonic::Code;
use tonic::transport::Channel;

fn config(door: Door) -> Envoy {
    Envoy {
        listen: Some((([127, 0, 0, 1], 0).into(), door)),
        socket: None,
        gateways: vec![id("gateway")],
        service_by_host: false,
        path_prefix: Some("/ext_authz".to_owned()),
    }
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://shop.example/ns/shop/sa/{account}").parse().unwrap()
}

async fn open(world: &World, config: Envoy) -> Result<SocketAddr> {
    let doors = envoy::bind(config).await?;
    let address = doors.address().context("no address")?;
    doors.open(&world.mesh.policyd, world.clock.clone());
    Ok(address)
}

fn question(service: &str, path: &str) -> CheckRequest {
    let socket = SocketAddress { address: "10.0.0.1".to_owned(), port_specifier: None };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "shop.example".to_owned(),
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        source: Some(Peer { address, principal: String::new() }),
        request: Some(Request { http: Some(http) }),
        context_extensions: [("service".to_owned(), service.to_owned())].into(),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

async fn get(world: &World, at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    world.client.send(at, "shop.example", path, Method::GET, headers, "".into()).await
}

#[tokio::test]
async fn what_is_no_question_is_never_answered_with_a_yes() -> Result<()> {
    let world = World::behind_envoy(|_| ()).await?;
    let at = open(&world, config(Door::Open)).await?;
    let from = ("x-forwarded-for", "6.6.6.6, 10.0.0.1");
    let passed = get(&world, at, "/ext_authz/shop/catalogue/1?a=b", &[from, ("x-tidegate-a", "1")]).await?;
    assert_eq!(passed.status, 200, "{passed:?}");
    assert_eq!(passed.header("x-tidegate-verdict"), Some("allow"));
    assert_eq!(passed.header("x-tidegate-policies"), Some("[\"anyone-reads-the-catalogue\"]"));
    assert_eq!(passed.header("x-envoy-auth-headers-to-remove"), Some("x-tidegate-a"));
    let denied = get(&world, at, "/ext_authz/shop/orders", &[from]).await?;
    assert_eq!((denied.status.as_u16(), denied.header("x-tidegate-verdict")), (403, None), "{denied:?}");

    let two = format!("URI={},URI={}", id("backoffice"), id("checkout"));
    let cert = |value| -> (&str, &str) { ("x-forwarded-client-cert", value) };
    let grpc = ("content-type", "application/grpc");
    for (path, headers, status) in [
        ("/catalogue/1", vec![from], 404),
        ("/ext_authz", vec![from], 404),
        ("/ext_authz/", vec![from], 404),
        ("/ext_authz/shop", vec![from], 404),
        ("/ext_authz//catalogue/1", vec![from], 404),
        ("/ext_authzshop/catalogue/1", vec![from], 404),
        ("/ext_authz/none/catalogue/1", vec![from], 403),
        ("/ext_authz/shop/catalogue/1", vec![], 400),
        ("/ext_authz/shop/catalogue/1", vec![("x-forwarded-for", "unknown")], 400),
        ("/ext_authz/shop/catalogue/1", vec![from, cert(two.as_str())], 403),
        ("/ext_authz/shop/catalogue/1", vec![from, cert("Hash=1")], 403),
        ("/ext_authz/shop/catalogue/./1", vec![from], 400),
        // An answer of gRPC has the status 200, whatever it says.
        ("/envoy.service.auth.v3.Authorization/Check", vec![from, grpc], 415),
        ("/envoy.service.auth.v3.Authorization/Other", vec![from, grpc], 415),
        ("/tidegate.policy.v1.PolicyService/Check", vec![from, grpc], 404),
    ] {
        let answer = get(&world, at, path, &headers).await?;
        assert_eq!(answer.status, status, "{path} {headers:?}: {answer:?}");
    }
    let silent = open(&world, Envoy { path_prefix: None, ..config(Door::Open) }).await?;
    assert_eq!(get(&world, silent, "/ext_authz/shop/catalogue/1", &[from]).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn questions_have_a_size_and_a_form() -> Result<()> {
    let world = World::behind_envoy(|_| ()).await?;
    let at = open(&world, config(Door::Open)).await?;
    let mut client = AuthorizationClient::connect(format!("http://{at}")).await?;
    let code = async |client: &mut AuthorizationClient<Channel>, question: CheckRequest| {
        client.check(question).await.map(|answer| answer.into_inner().status.map(|status| status.code))
    };
    assert_eq!(code(&mut client, question("shop", "/catalogue/1")).await?, Some(0));
    assert_eq!(code(&mut client, question("shop", "/orders")).await?, Some(7));
    let empty = code(&mut client, CheckRequest::default()).await;
    assert_eq!(empty.unwrap_err().code(), Code::InvalidArgument);
    let large = code(&mut client, question("shop", &"/".repeat(300 * 1024))).await;
    assert_eq!(large.unwrap_err().code(), Code::OutOfRange);
    Ok(())
}

#[tokio::test]
async fn a_unix_socket_is_asked_like_an_address() -> Result<()> {
    let world = World::behind_envoy(|_| ()).await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("envoy.sock");
    let doors = envoy::bind(Envoy { listen: None, socket: Some(path.clone()), ..config(Door::Open) }).await?;
    assert_eq!(doors.address(), None);
    doors.open(&world.mesh.policyd, world.clock.clone());
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path)?;
        stream.write_all(b"GET /ext_authz/shop/catalogue/1 HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 10.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        std::io::Result::Ok(text)
    });
    let answer = answer.await??;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    Ok(())
}

/// An Envoy with the certificate of `account`.
async fn known(world: &World, account: &str, at: SocketAddr) -> Result<AuthorizationClient<Channel>> {
    let (ca, domain) = (&world.mesh.ca, &world.mesh.bundle.mesh.trust_domain);
    let config = identity::client::Config {
        ca_address: ca.address,
        ca_id: identity::ca_id(domain)?,
        bundle: ca.trust_bundle.clone(),
        join_token: ca.join_token(&id(account), account, Duration::from_secs(60))?,
    };
    let lifecycle = world.mesh.policyd.lifecycle.clone();
    let source = identity::client::start(config, world.clock.clone(), &lifecycle, |_| ()).await?;
    let allowed = vec![identity::policyd_id(domain)?];
    let config = tls::client_config(&source, world.clock.clone(), allowed, tls::H2);
    Ok(AuthorizationClient::new(grpc::channel(at, config)))
}

#[tokio::test]
async fn by_tls_an_envoy_asks_about_its_own_service() -> Result<()> {
    let world = World::behind_envoy(|_| ()).await?;
    let at = open(&world, config(Door::Mutual)).await?;
    for (account, service, expected) in [
        ("shop", "shop", Ok(0)),
        ("shop", "stock", Err(Code::PermissionDenied)),
        ("gateway", "shop", Ok(0)),
        ("gateway", "stock", Ok(7)),
        ("backoffice", "shop", Err(Code::PermissionDenied)),
    ] {
        let answer = known(&world, account, at).await?.check(question(service, "/catalogue/1")).await;
        let found = answer.map(|answer| answer.into_inner().status.unwrap().code);
        assert_eq!(found.map_err(|status| status.code()), expected, "{account} about {service}");
    }
    // In the clear nobody is let in.
    let plain = get(&world, at, "/ext_authz/shop/catalogue/1", &[]).await;
    assert!(plain.is_err(), "{plain:?}");
    Ok(())
}
