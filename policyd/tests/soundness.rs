//! The law that makes caching right: requests with equal keys get equal decisions.
//!
//! Random policies, limits and rules, random requests; the decision of each is computed by Cedar from the
//! request itself, and compared with that of every earlier request with the same key.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use model::{Action, Attributes, Principal, key};
use proptest::prelude::*;
use tidegate_policyd::bundle::{Bundle, Files};
use tidegate_policyd::engine;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
  stock: {namespace: depot, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";

const SHADOW: &str = "@shadow(\"true\") ";

/// A Boolean expression that passes strict validation. Every form of atom is among them, and forms that are none.
fn condition() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("context.method == \"GET\"".to_owned()),
        Just("context.path like \"/a/*\"".to_owned()),
        Just("context.path like \"*b*\"".to_owned()),
        Just("[\"GET\", \"PUT\"].contains(context.method)".to_owned()),
        Just("context.tls".to_owned()),
        Just("context.source_ip.isInRange(ip(\"10.0.0.0/30\"))".to_owned()),
        Just("context.source_ip == ip(\"10.0.0.1\")".to_owned()),
        Just("context.source_ip.isLoopback()".to_owned()),
        Just("context.headers has \"x-a\"".to_owned()),
        Just("(context.headers has \"x-a\" && context.headers[\"x-a\"] == \"1\")".to_owned()),
        Just("(context.headers has \"x-b\" && context.headers[\"x-b\"] like \"1*\")".to_owned()),
        Just("(context.query has \"q\" && context.query[\"q\"] == context.method)".to_owned()),
        Just("context.host == principal.namespace".to_owned()),
        Just("principal.namespace == \"shop\"".to_owned()),
        Just("principal in Namespace::\"depot\"".to_owned()),
        Just("resource.namespace == \"shop\"".to_owned()),
        Just("context.time < datetime(\"2026-01-01T00:00:05Z\")".to_owned()),
        Just("context.time >= datetime(\"2026-01-01T00:00:02Z\")".to_owned()),
        Just("(if context.tls then context.path else context.host) == \"/a/b\"".to_owned()),
        Just("principal == Workload::\"unauthenticated\"".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("(if {a} then {b} else {c})")),
        ]
    })
}

fn policy() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let shadow = prop_oneof![2 => Just(""), 1 => Just(SHADOW)];
    let resource = prop_oneof![
        Just("resource"),
        Just("resource == Service::\"orders\""),
        Just("resource in Namespace::\"depot\"")
    ];
    let conditions = prop::collection::vec(condition(), 0..3);
    (shadow, effect, resource, conditions).prop_map(|(shadow, effect, resource, conditions)| {
        let whens: String = conditions.iter().map(|condition| format!(" when {{ {condition} }}")).collect();
        format!("{shadow}{effect}(principal, action in [Action::\"http\", Action::\"grpc\"], {resource}){whens};\n")
    })
}

fn request() -> impl Strategy<Value = Attributes> {
    let principal = prop_oneof![
        Just("unauthenticated"),
        Just("spiffe://shop.example/ns/shop/sa/orders"),
        Just("spiffe://shop.example/ns/depot/sa/stock"),
        Just("spiffe://shop.example/ns/shop/sa/stranger"),
    ];
    let address =
        prop_oneof![Just("10.0.0.1"), Just("10.0.0.2"), Just("10.0.1.1"), Just("127.0.0.1"), Just("::1")];
    let value = || prop::option::of(prop_oneof![Just("1"), Just("12"), Just("GET"), Just("")]);
    let who = (
        principal,
        prop_oneof![Just(Action::Http), Just(Action::Grpc)],
        prop_oneof![Just("orders"), Just("stock")],
    );
    let what = (
        prop_oneof![Just("GET"), Just("PUT"), Just("DELETE")],
        prop_oneof![Just("/a/b"), Just("/a/"), Just("/c"), Just("/b"), Just("/")],
        prop_oneof![Just("shop"), Just("depot"), Just("")],
        value(),
        value(),
        value(),
    );
    (who, what, address, any::<bool>(), 0i64..8).prop_map(|(who, what, address, tls, second)| {
        let (principal, action, resource) = who;
        let (method, path, host, a, b, q) = what;
        let named = |pairs: &[(&str, Option<&str>)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())))
                .collect()
        };
        Attributes {
            principal: principal.parse::<Principal>().unwrap(),
            action,
            resource: resource.into(),
            method: method.into(),
            path: path.into(),
            host: host.into(),
            headers: named(&[("x-a", a), ("x-b", b), ("x-unread", q)]),
            query: named(&[("q", q)]),
            source_ip: address.parse().unwrap(),
            tls,
            time: Timestamp::from_second(1_767_225_600 + second).unwrap(),
            ..Attributes::default()
        }
    })
}

fn bundle(policies: &[String], limits: &[String], rules: &[String]) -> Bundle {
    let numbered = |texts: &[String], line: fn(usize, &str) -> String| -> String {
        texts.iter().enumerate().map(|(number, text)| line(number, &text.replace('\'', "''"))).collect()
    };
    let limits =
        numbered(limits, |number, when| format!("  - {{name: l{number}, rate: 1/s, when: '{when}'}}\n"));
    let rules = numbered(rules, |number, when| {
        format!("  - {{name: r{number}, match: '{when}', actions: [{{handler: out}}]}}\n")
    });
    let handlers = "handlers: [{name: out, adapter: stdio}]\n";
    let texts = BTreeMap::from([
        ("mesh.yaml".to_owned(), MESH.to_owned()),
        ("acl.cedar".to_owned(), policies.concat()),
        (
            "limits.yaml".to_owned(),
            if limits.is_empty() { String::new() } else { format!("limits:\n{limits}") },
        ),
        (
            "adapters.yaml".to_owned(),
            if rules.is_empty() { handlers.into() } else { format!("{handlers}rules:\n{rules}") },
        ),
    ]);
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty()).collect();
    Bundle::load(&Files { folder: ".".into(), texts })
        .unwrap_or_else(|findings| panic!("{}", findings.render(false)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn requests_with_equal_keys_get_equal_decisions(
        policies in prop::collection::vec(policy(), 1..6),
        limits in prop::collection::vec(condition(), 0..3),
        rules in prop::collection::vec(condition(), 0..2),
        requests in prop::collection::vec(request(), 1..60),
    ) {
        let without: Vec<String> = policies.iter().map(|policy| policy.replace(SHADOW, "")).collect();
        let enforced = bundle(&without, &limits, &rules);
        let tried = bundle(&policies, &limits, &rules);
        let mut decided = HashMap::new();
        let mut key = Vec::new();
        for request in requests {
            key::encode(&request, &tried.atoms[&request.resource], &mut key);
            let evaluation = engine::evaluate(&tried, &request).unwrap();
            prop_assert!(!evaluation.opinion.degraded, "{}", evaluation.opinion.message);
            // What is said of the shadow policies is what would be if they were enforced.
            let enforced = engine::evaluate(&enforced, &request).unwrap().opinion;
            let shadow = evaluation.shadow.as_ref().unwrap_or(&evaluation.opinion);
            prop_assert_eq!((shadow.verdict, shadow.degraded), (enforced.verdict, enforced.degraded));
            let answer = (evaluation.opinion, evaluation.shadow, evaluation.limits, evaluation.rules);
            let (first, earlier) = decided.entry(key.clone()).or_insert_with(|| (request.clone(), answer.clone()));
            prop_assert_eq!(&*earlier, &answer, "{:?} and {:?} share a key", first, request);
        }
    }
}
