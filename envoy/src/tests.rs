use std::collections::BTreeMap;
use std::sync::Arc;

use api::ext_authz::{Answer, Asked};
use daemon::Clock;
use model::{Action, Attributes, Principal};
use policyd::bundle::mesh::Service;
use policyd::bundle::{Bundle, Files};
use policyd::handlers::Handlers;
use policyd::snapshot::Current;
use serde_json::json;

use crate::decide::Decider;
use crate::door::{Envoy, Stranger};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::{seen, service};

const MESH: &str = "
trust_domain: shop.example
jwt:
  accounts: {issuer: i, audiences: [shop], jwks: {url: 'https://i/keys'}, forward: false}
  partners: {issuer: p, audiences: [shop], jwks: {url: 'https://p/keys'}, from: {cookie: session}}
services:
  shop: {namespace: n, explain_denials: all, jwt: [accounts, partners]}
  merged: {namespace: n, merge_slashes: true}
  calls: {namespace: n, protocol: http2, operations: {named: {method: POST, path: /s.S/Named}}}
  idle: {namespace: n, enforcement: 'off'}
  seen: {namespace: n, enforcement: observe}
  raw: {namespace: n, protocol: tcp}
";

const ACL: &str = r#"
@id("reads") permit (principal, action == Action::"http", resource == Service::"shop")
when { context.method == "GET" && context.path like "/a*" };
@id("users") forbid (principal, action == Action::"http", resource == Service::"shop")
when { context.claims has sub && context.claims.sub == "eve" };
@id("tried") @shadow("true") forbid (principal, action == Action::"http", resource == Service::"shop")
when { context.path == "/a/tried" };
"#;

const ADAPTERS: &str = "
handlers:
  - name: closed
    adapter: denier
    config: {message: closed for maintenance}
rules:
  - name: maintenance
    service: shop
    match: context.path == \"/a/closed\"
    actions: [{handler: closed}]
";

const LIMITS: &str = "
limits:
  - name: ten
    service: shop
    rate: 10/10s
    mode: local
";

async fn current() -> Current {
    let texts =
        [("mesh.yaml", MESH), ("acl.cedar", ACL), ("adapters.yaml", ADAPTERS), ("limits.yaml", LIMITS)];
    let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let bundle =
        Bundle::load(&Files { folder: "/".into(), texts }).unwrap_or_else(|f| panic!("{}", f.render(false)));
    let handlers = Handlers::start(&bundle).await.unwrap();
    Current::new(Arc::new(bundle), Arc::new(handlers), 1)
}

async fn decider() -> Decider {
    Decider {
        current: current().await,
        clock: Clock::system(),
        metrics: Metrics::new(&daemon::Metrics::new()),
        gateways: vec!["spiffe://shop.example/gateway".parse().unwrap()],
        service_by_host: false,
    }
}

fn asked(service: &str, target: &str) -> Asked {
    Asked {
        source_ip: Some("10.0.0.1".parse().unwrap()),
        service: Some(service.to_owned()),
        method: "GET".to_owned(),
        target: target.to_owned(),
        authority: "Shop.example:80".to_owned(),
        ..Asked::default()
    }
}

fn with(fields: &[(&str, &str)], asked: Asked) -> Asked {
    let field = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned().into());
    Asked { fields: fields.iter().map(field).collect(), ..asked }
}

async fn see(asked: &Asked) -> Result<Attributes, Refusal> {
    let current = current().await.get();
    let mesh = &current.bundle.mesh;
    let found = service::find(asked, mesh, false)?;
    seen::attributes(asked, mesh, found, "2026-01-01T00:00:00Z".parse().unwrap())
}

#[tokio::test]
async fn a_request_is_seen_as_a_sidecar_sees_it() {
    let lines = [
        ("x-user", "a"),
        ("connection", "close"),
        ("x-user", "zoë"),
        ("cookie", "a=1; b=2"),
        ("cookie", "a=3"),
        ("x-tidegate-policy", "mine"),
    ];
    let caller = "spiffe://shop.example/ns/n/sa/x";
    let request = Asked { principal: caller.to_owned(), ..with(&lines, asked("shop", "/a?q=1&q=%20")) };
    let found = see(&request).await.unwrap();
    let named = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let expected = Attributes {
        principal: Principal::Workload(caller.parse().unwrap()),
        tls: true,
        resource: "shop".to_owned(),
        method: "GET".to_owned(),
        path: "/a".to_owned(),
        host: "shop.example".to_owned(),
        query: named(&[("q", "1, ")]),
        headers: named(&[("host", "Shop.example:80"), ("x-user", "a, zoë"), ("cookie", "a=1; b=2, a=3")]),
        cookies: named(&[("a", "1; 3"), ("b", "2")]),
        source_ip: "10.0.0.1".parse().unwrap(),
        time: "2026-01-01T00:00:00Z".parse().unwrap(),
        ..Attributes::default()
    };
    assert_eq!(found, expected);
    assert_eq!(seen::own_fields(&request), ["x-tidegate-policy"]);
    let stranger = see(&asked("shop", "/a")).await.unwrap();
    assert_eq!((stranger.principal, stranger.tls), (Principal::Unauthenticated, false));
}

#[tokio::test]
async fn what_has_no_single_reading_is_refused() {
    let long = "/".repeat(model::head::TARGET_MAX + 1);
    let large = "x".repeat(model::head::HEAD_MAX);
    let many: Vec<(&str, &str)> = vec![("a", "1"); model::head::HEADERS_MAX + 1];
    let shop = |target: &str| asked("shop", target);
    let merged = |target: &str| asked("merged", target);
    let bytes = |value: &'static [u8]| Asked { fields: vec![("a".to_owned(), value.into())], ..shop("/a") };
    let joined = |cookie| Asked { is_joined: true, ..with(&[("cookie", cookie)], shop("/a")) };
    let table = [
        (shop("/a//b"), None),
        (shop("/caf%C3%A9"), None),
        (shop("/caf%c3%a9"), None),
        (shop("/a?b=%2f%2e"), None),
        (joined("a=1; b=2"), None),
        (bytes("zoë\t".as_bytes()), None),
        (with(&many[1..], shop("/a")), None),
        (shop("/a/./b"), Some(400)),
        (shop("/a/../b"), Some(400)),
        (shop("/%61"), Some(400)),
        (shop("/%7e"), Some(400)),
        (shop("/a%2Fb"), Some(400)),
        (shop("/a\\b"), Some(400)),
        (shop("/a#b"), Some(400)),
        (shop("/a?b#c"), Some(400)),
        (shop("/<a>"), Some(400)),
        (shop("/a?b=%ff"), Some(400)),
        (shop("a"), Some(400)),
        (shop(""), Some(400)),
        (merged("/a//b"), Some(400)),
        (shop(&long), Some(414)),
        (with(&[("a", &large)], shop("/")), Some(431)),
        (with(&many, shop("/a")), Some(431)),
        (bytes(b"\xff"), Some(400)),
        (bytes(b"a\nb"), Some(400)),
        (joined("a=1,b=2"), Some(400)),
        (Asked { authority: "a b".to_owned(), ..shop("/a") }, Some(400)),
        (Asked { authority: String::new(), ..shop("/a") }, Some(400)),
        (Asked { source_ip: None, ..shop("/a") }, Some(400)),
        (Asked { method: "CONNECT".to_owned(), ..shop("/a") }, Some(405)),
        (Asked { principal: "spiffe://other.example/x".to_owned(), ..shop("/a") }, Some(403)),
        (Asked { principal: "CN=x".to_owned(), ..shop("/a") }, Some(403)),
        (asked("raw", "/a"), Some(421)),
        (asked("none", "/a"), Some(403)),
    ];
    for (asked, expected) in table {
        let found = see(&asked).await;
        let target = asked.target.get(..20).unwrap_or(&asked.target);
        assert_eq!(found.as_ref().err().map(Refusal::status), expected, "{target} {found:?}");
    }
}

#[tokio::test]
async fn what_a_call_is_goes_by_the_service() {
    let grpc = [("content-type", "application/grpc+proto")];
    let post = |service: &str, target: &str| Asked { method: "POST".to_owned(), ..asked(service, target) };
    let action =
        |request: Asked| async move { see(&request).await.map(|seen| (seen.action, seen.operation)) };
    assert_eq!(action(with(&grpc, post("calls", "/s.S/M"))).await.unwrap().0, Action::Grpc);
    assert_eq!(action(with(&grpc, post("shop", "/s.S/M"))).await.unwrap().0, Action::Http);
    assert_eq!(action(with(&grpc, asked("calls", "/s.S/M"))).await.unwrap().0, Action::Http);
    assert_eq!(action(post("calls", "/s.S/M")).await.unwrap().0, Action::Http);
    let named = action(with(&grpc, post("calls", "/s.S/Named"))).await.unwrap();
    assert_eq!(named, (Action::Http, Some("named".to_owned())));
    let two = [("content-type", "application/grpc"), ("content-type", "text/html")];
    let joined = Asked { is_joined: true, ..post("calls", "/s.S/M") };
    for request in
        [with(&two, post("calls", "/s.S/M")), with(&[("content-type", "text/html,application/grpc")], joined)]
    {
        let refused = action(request).await;
        assert!(matches!(refused, Err(Refusal::ContentTypes)), "{refused:?}");
    }
}

#[tokio::test]
async fn a_service_is_named_by_what_no_caller_chooses() {
    let current = current().await.get();
    let mesh = &current.bundle.mesh;
    let find = |asked: &Asked, by_host| {
        service::find(asked, mesh, by_host).ok().map(|(name, _): (&str, &Service)| name)
    };
    let unnamed = Asked { service: None, authority: "shop:80".to_owned(), ..asked("", "/") };
    assert_eq!((find(&unnamed, false), find(&unnamed, true)), (None, Some("shop")));
    let own = Asked { destination: "spiffe://shop.example/ns/n/sa/merged".to_owned(), ..unnamed.clone() };
    assert_eq!((find(&own, false), find(&own, true)), (Some("merged"), Some("merged")));
    let both = Asked { service: Some("calls".to_owned()), ..own.clone() };
    assert_eq!(find(&both, true), Some("calls"));
    // A route that names none of the mesh is a mistake, and nothing else makes up for it.
    assert_eq!(find(&Asked { service: Some("none".to_owned()), ..own }, true), None);
}

#[tokio::test]
async fn answers_say_what_a_sidecar_would_say() {
    let decider = decider().await;
    let answer = |asked: Asked| {
        let decider = &decider;
        async move { decider.decide(&asked, &Envoy::Local).await.unwrap() }
    };
    let id = ("x-request-id", "id-1");
    let passed = answer(with(&[id, ("x-tidegate-a", "1"), ("x-tidegate-a", "2")], asked("shop", "/a"))).await;
    assert_eq!((passed.status, passed.removed), (Answer::OK, vec!["x-tidegate-a".to_owned()]));
    assert_eq!(passed.told["policies"], json!(["reads"]));
    assert_eq!((&passed.told["verdict"], &passed.told["limits"]), (&json!("allow"), &json!(["ten"])));
    assert_eq!(passed.told["revision"], json!("1.1"));

    let denied = answer(with(&[id], asked("shop", "/b"))).await;
    assert_eq!(denied.status, 403);
    let body =
        r#"{"error":"denied","message":"no policy permits this request","policy":[],"request_id":"id-1"}"#;
    assert_eq!(denied.body, body);
    assert!(denied.headers.contains(&("x-tidegate-policy".to_owned(), "none".to_owned())));
    assert_eq!(denied.told["verdict"], json!("deny"));

    let closed = answer(with(&[id], asked("shop", "/a/closed"))).await;
    assert_eq!((closed.status, &closed.told["policies"]), (403, &json!(["adapter/maintenance"])));
    assert!(closed.body.contains("closed for maintenance"), "{}", closed.body);
    let tried = answer(asked("shop", "/a/tried")).await;
    assert_eq!((tried.status, &tried.told["policies"]), (Answer::OK, &json!(["reads"])));
    let shadows = json!({"shadow": {"verdict": "deny", "policies": ["tried"]}});
    assert_eq!(tried.told["shadows"], shadows);

    let untold = answer(with(&[id], asked("merged", "/b"))).await;
    assert_eq!(
        untold.body,
        r#"{"error":"denied","message":"the request is not allowed","request_id":"id-1"}"#
    );
    assert!(!untold.headers.iter().any(|(name, _)| name == "x-tidegate-policy"));
    let call = answer(with(&[("content-type", "application/grpc")], asked("merged", "/b"))).await;
    assert_eq!(call.body, "the request is not allowed");

    let unknown = answer(asked("none", "/a")).await;
    assert_eq!((unknown.status, &unknown.told["error"]), (403, &json!("no_such_service")));
    let off = answer(asked("idle", "/b")).await;
    assert_eq!((off.status, &off.told["verdict"]), (Answer::OK, &json!("off")));
    let seen = answer(asked("seen", "/b")).await;
    assert_eq!(
        (seen.status, &seen.told["verdict"], &seen.told["enforcement"]),
        (200, &json!("deny"), &json!("observe"))
    );
    // What has no single reading passes nowhere.
    assert_eq!(answer(asked("seen", "/a/../b")).await.status, 400);
    assert_eq!(answer(asked("idle", "/a/../b")).await.status, 400);
}

#[tokio::test]
async fn users_are_known_by_what_envoy_has_verified() {
    let decider = decider().await;
    let token = |claims: serde_json::Value| claims.as_object().unwrap().clone();
    let bearer = [("authorization", "Bearer t")];
    let cookie = [("cookie", "session=t")];
    let good = json!({"iss": "i", "aud": ["x", "shop"], "sub": "ann"});
    let partner = json!({"iss": "p", "aud": "shop", "sub": "bob"});
    let eve = json!({"iss": "i", "aud": "shop", "sub": "eve"});
    let foreign = json!({"iss": "x", "aud": "shop"});
    let elsewhere = json!({"iss": "i", "aud": "other"});
    type Row<'r> = (&'r [(&'r str, &'r str)], &'r [(&'r str, &'r serde_json::Value)], u16);
    let table: [Row<'_>; 11] = [
        (&[], &[], 200),
        (&bearer, &[("accounts", &good)], 200),
        (&cookie, &[("partners", &partner)], 200),
        (&bearer, &[("accounts", &eve)], 403),
        (&bearer, &[("accounts", &foreign)], 401),
        (&bearer, &[("accounts", &elsewhere)], 401),
        (&bearer, &[("accounts", &good), ("partners", &partner)], 400),
        // A token that nobody has verified must not pass as none.
        (&bearer, &[], 401),
        (&cookie, &[], 401),
        (&bearer, &[("another", &good)], 401),
        (&[("authorization", "Basic t")], &[], 200),
    ];
    for (fields, tokens, status) in table {
        let tokens =
            tokens.iter().map(|(name, claims)| ((*name).to_owned(), token((*claims).clone()))).collect();
        let asked = Asked { tokens, ..with(fields, asked("shop", "/a")) };
        let answer = decider.decide(&asked, &Envoy::Local).await.unwrap();
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
        let kept = answer.removed.contains(&"authorization".to_owned());
        assert_eq!(kept, status == 200 && fields == bearer, "{fields:?}");
        let challenged = answer.headers.iter().any(|(name, _)| name == "www-authenticate");
        assert_eq!(challenged, matches!(status, 400 | 401));
    }
}

#[tokio::test]
async fn an_envoy_with_a_certificate_asks_about_its_own_service_or_is_a_gateway() {
    let decider = decider().await;
    let known = |path: &str| Envoy::Known(format!("spiffe://shop.example/{path}").parse().unwrap());
    let ask = |envoy: Envoy| {
        let decider = &decider;
        async move { decider.decide(&asked("shop", "/a"), &envoy).await.map(|answer| answer.status) }
    };
    assert_eq!(ask(known("ns/n/sa/shop")).await, Ok(200));
    assert_eq!(ask(known("gateway")).await, Ok(200));
    assert!(matches!(ask(known("ns/n/sa/merged")).await, Err(Stranger::NotItsOwn(..))));
}
