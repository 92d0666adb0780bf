use expect_test::expect;
use model::{Keys, Room};
use proptest::prelude::*;

use super::*;
use crate::author::unit_test::{Answer, word};
use crate::author::written;
use crate::bundle::Files;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop}
  stock: {namespace: depot}
";

fn load(policies: &str) -> Bundle {
    written::load(&written::files(&[("mesh.yaml", MESH), ("acl.cedar", policies)]))
}

/// The path and what is said of it, of the first principal's requests.
fn lines(bundle: &Bundle, service: &str) -> String {
    let boundary = Boundaries::new(&[bundle]).of(service);
    let requests = boundary.requests();
    let mut text = format!("{} requests, exhaustive: {}\n", requests.requests.len(), requests.exhaustive);
    for request in requests.requests {
        let who = request.principal.as_str().trim_start_matches("spiffe://");
        let decision = word(Answer::of(bundle, &request).decision);
        text.push_str(&format!("{decision:5} {who} {} {}\n", request.method, request.path));
    }
    text
}

#[test]
fn the_requests_of_bookinfo() {
    let bundle = written::load(&written::bookinfo());
    expect![[r#"
        126 requests, exhaustive: true
        allow bookinfo.example/ns/bookinfo/sa/details GET /
        allow bookinfo.example/ns/bookinfo/sa/details GET /login
        allow bookinfo.example/ns/bookinfo/sa/details GET /logout
        allow bookinfo.example/ns/bookinfo/sa/details GET /api/x
        allow bookinfo.example/ns/bookinfo/sa/details GET /details/x
        allow bookinfo.example/ns/bookinfo/sa/details GET /reviews/x
        deny  bookinfo.example/ns/bookinfo/sa/details HEAD /
        deny  bookinfo.example/ns/bookinfo/sa/details HEAD /login
        deny  bookinfo.example/ns/bookinfo/sa/details HEAD /logout
        deny  bookinfo.example/ns/bookinfo/sa/details HEAD /api/x
        deny  bookinfo.example/ns/bookinfo/sa/details HEAD /details/x
        deny  bookinfo.example/ns/bookinfo/sa/details HEAD /reviews/x
        deny  bookinfo.example/ns/bookinfo/sa/details POST /
        allow bookinfo.example/ns/bookinfo/sa/details POST /login
        allow bookinfo.example/ns/bookinfo/sa/details POST /logout
        deny  bookinfo.example/ns/bookinfo/sa/details POST /api/x
        deny  bookinfo.example/ns/bookinfo/sa/details POST /details/x
        deny  bookinfo.example/ns/bookinfo/sa/details POST /reviews/x
        allow bookinfo.example/ns/bookinfo/sa/productpage GET /
    "#]]
    .assert_eq(
        &lines(&bundle, "productpage").lines().take(20).map(|line| format!("{line}\n")).collect::<String>(),
    );
    let allowed: String = lines(&bundle, "details")
        .lines()
        .filter(|line| line.starts_with("allow"))
        .map(|line| format!("{line}\n"))
        .collect();
    expect![[r#"
        allow bookinfo.example/ns/bookinfo/sa/productpage GET /details/x
        allow bookinfo.example/ns/bookinfo/sa/productpage GET /reviews/x
    "#]]
    .assert_eq(&allowed);
    let boundaries = Boundaries::new(&[&bundle]);
    assert_eq!(boundaries.services().len(), 4);
    for service in boundaries.services() {
        assert!(boundaries.of(service).requests().exhaustive, "{service}");
    }
}

#[test]
fn two_bundles_are_told_apart_by_one_path() {
    let policy = |pattern: &str| {
        load(&format!(
            r#"permit (principal, action == Action::"http", resource == Service::"orders") when {{ context.path like "{pattern}" }};"#
        ))
    };
    let (old, new) = (policy("/reviews/*"), policy("/reviews*"));
    let requests = Boundaries::new(&[&old, &new]).of("orders").requests();
    assert!(requests.exhaustive);
    let differ =
        |request: &&Attributes| Answer::of(&old, request).decision != Answer::of(&new, request).decision;
    let paths: BTreeSet<&str> =
        requests.requests.iter().filter(differ).map(|request| request.path.as_str()).collect();
    assert_eq!(paths, BTreeSet::from(["/reviewsx"]));
}

#[test]
fn callers_are_those_that_policies_may_know() {
    let bundle = load(
        r#"
        permit (principal == Workload::"spiffe://other.example/legacy", action == Action::"http", resource);
        permit (principal in Namespace::"audit", action == Action::"http", resource);
        permit (principal == Workload::"nobody at all", action == Action::"http", resource);
        "#,
    );
    let boundary = Boundaries::new(&[&bundle]).of("orders");
    let principals: Vec<&str> = boundary.principals.iter().map(Principal::as_str).collect();
    expect![[r#"
        spiffe://shop.example/ns/shop/sa/orders
        spiffe://shop.example/ns/depot/sa/stock
        spiffe://other.example/legacy
        unauthenticated
        spiffe://shop.example/ns/audit/sa/stranger
        spiffe://shop.example/ns/depot/sa/stranger
        spiffe://shop.example/ns/shop/sa/stranger
        spiffe://shop.example/ns/stranger/sa/stranger"#]]
    .assert_eq(&principals.join("\n"));
    assert_eq!(boundary.actions, [Action::Http]);
}

#[test]
fn only_the_kinds_of_exchange_that_policies_are_about() {
    let bundle = load(
        r#"
        permit (principal, action in [Action::"http", Action::"grpc"], resource == Service::"orders") when { context.method == "GET" };
        forbid (principal, action, resource == Service::"stock") unless { context.tls };
        "#,
    );
    let boundaries = Boundaries::new(&[&bundle]);
    assert_eq!(boundaries.of("orders").actions, [Action::Http, Action::Grpc]);
    let stock = boundaries.of("stock");
    assert_eq!(stock.actions, Action::ALL);
    assert_eq!(stock.requests().requests.len(), stock.principals.len() * 3 * 2);
    let one = stock.requests_from(&[Principal::Unauthenticated]);
    assert!(one.exhaustive && one.requests.len() == 6);
}

#[test]
fn what_can_not_be_listed_whole_is_told() {
    let policy = |condition: &str| {
        load(&format!(r#"permit (principal, action == Action::"http", resource) when {{ {condition} }};"#))
    };
    for condition in [
        "context.host == principal.namespace",
        "context.headers == context.headers",
        r#"context.time.toTime() < duration("8h")"#,
    ] {
        let bundle = policy(condition);
        let requests = Boundaries::new(&[&bundle]).of("orders").requests();
        assert!(!requests.exhaustive, "{condition}");
        let decisions: BTreeSet<&str> =
            requests.requests.iter().map(|request| word(Answer::of(&bundle, request).decision)).collect();
        assert!(decisions.contains("allow"), "{condition}");
    }
    let many: Vec<String> = (0..9)
        .map(|n| format!(r#"(context.headers has "x-{n}" && context.headers["x-{n}"] == "1")"#))
        .collect();
    let bundle = policy(&many.join(" && "));
    let requests = Boundaries::new(&[&bundle]).of("orders").requests();
    assert!(!requests.exhaustive);
    assert!(requests.requests.len() <= 20_000);
}

/// Conditions that are atoms, and those that are made of them.
fn condition() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[ab/*]{1,4}".prop_map(|pattern| format!("context.path like \"/{pattern}\"")),
        "[ab/]{1,3}".prop_map(|path| format!("context.path == \"/{path}\"")),
        prop_oneof![Just("GET"), Just("PUT")].prop_map(|method| format!("context.method == \"{method}\"")),
        Just("[\"GET\", \"POST\"].contains(context.method)".to_owned()),
        Just("context.tls".to_owned()),
        (0u8..4, 28u8..33).prop_map(|(last, bits)| {
            format!("context.source_ip.isInRange(ip(\"10.0.0.{}/{bits}\"))", last << (32 - bits))
        }),
        Just("context.source_ip == ip(\"10.0.0.1\")".to_owned()),
        Just("context.headers has \"x-a\"".to_owned()),
        "[ab*]{0,3}".prop_map(|pattern| {
            format!("(context.headers has \"x-a\" && context.headers[\"x-a\"] like \"{pattern}\")")
        }),
        (0i64..5).prop_map(|second| format!("context.time < datetime(\"2026-01-01T00:00:0{second}Z\")")),
    ];
    leaf.prop_recursive(2, 4, 2, |inner| (inner.clone(), inner).prop_map(|(a, b)| format!("({a} || !({b}))")))
}

fn request() -> impl Strategy<Value = Attributes> {
    (
        "/[ab]{0,2}(/[ab]{0,2}){0,2}",
        prop_oneof![Just("GET"), Just("PUT"), Just("PATCH"), Just("POST")],
        prop::option::of("[abc]{0,3}"),
        0u8..20,
        any::<bool>(),
        0i64..6_000,
    )
        .prop_map(|(path, method, header, last, tls, milli)| Attributes {
            resource: "orders".to_owned(),
            path,
            method: method.to_owned(),
            host: "orders".to_owned(),
            headers: header.into_iter().map(|value| ("x-a".to_owned(), value)).collect(),
            source_ip: std::net::Ipv4Addr::new(10, 0, 0, last).into(),
            tls,
            time: Timestamp::from_millisecond(1_767_225_600_000 + milli).unwrap(),
            ..Attributes::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_request_has_one_like_it_in_an_exhaustive_list(
        conditions in prop::collection::vec(condition(), 1..5),
        sent in prop::collection::vec(request(), 1..40),
    ) {
        let policies = conditions.iter().map(|condition| {
            format!("permit (principal, action == Action::\"http\", resource) when {{ {condition} }};\n")
        });
        let bundle = load(&policies.collect::<String>());
        let atoms = &bundle.atoms["orders"];
        let requests = Boundaries::new(&[&bundle]).of("orders").requests_from(&[Principal::Unauthenticated]);
        let keys = Keys::new(atoms);
        let key = |request: &Attributes| keys.encode(request, &mut Room::default()).to_vec();
        let kinds: HashSet<Vec<u8>> = requests.requests.iter().map(key).collect();
        if requests.exhaustive {
            for request in &sent {
                prop_assert!(kinds.contains(&key(request)), "{:?} of {:?}", request, conditions);
            }
        }
        // In a sample, too, each test comes out in each way in which it can.
        for request in &sent {
            for atom in atoms.atoms() {
                let shown = requests.requests.iter().any(|like| atom.on(like) == atom.on(request));
                prop_assert!(shown, "{:?} on {:?} of {:?}", atom, request, conditions);
            }
        }
    }
}

#[test]
fn every_operation_has_a_request_and_what_is_none_too() {
    let mesh = "\
trust_domain: shop.example
services:
  orders:
    operations:
      listOrders: {method: GET, path: /orders}
      getOrder: {method: GET, path: '/orders/{id}'}
      topOrder: {method: GET, path: /orders/top}
      putOrder: {method: PUT, path: '/orders/{id}'}
      getFile: {method: GET, path: '/files/{*path}'}
";
    let acl =
        r#"permit (principal, action == Action::"getOrder", resource) unless { context.path like "*/x" };"#;
    let texts =
        [("mesh.yaml", mesh), ("acl.cedar", acl)].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let bundle = Bundle::load(&Files { folder: ".".into(), texts: texts.into() }).unwrap();
    let requests = Boundaries::new(&[&bundle]).of("orders").requests_from(&[Principal::Unauthenticated]);
    assert!(requests.exhaustive);
    let mut shown: BTreeMap<(&str, &str, bool), &str> = BTreeMap::new();
    for request in
        requests.requests.iter().filter(|request| request.operation.is_some() || request.method == "GET")
    {
        let allowed = Answer::of(&bundle, request).decision == model::Verdict::Allow;
        let operation = request.operation.as_deref().unwrap_or("none");
        shown.entry((operation, &request.method, allowed)).or_insert(&request.path);
    }
    let lines = shown.into_iter().map(|((operation, method, allowed), path)| {
        format!("{operation} {method} {path} {}\n", if allowed { "allow" } else { "deny" })
    });
    expect![[r#"
        getFile GET /files/xx deny
        getFile HEAD /files/xx deny
        getOrder GET /orders/x deny
        getOrder GET /orders/t allow
        getOrder HEAD /orders/x deny
        getOrder HEAD /orders/t allow
        listOrders GET /orders deny
        listOrders HEAD /orders deny
        none GET / deny
        putOrder PUT /orders/x deny
        topOrder GET /orders/top deny
        topOrder HEAD /orders/top deny
    "#]]
    .assert_eq(&lines.collect::<String>());
}
