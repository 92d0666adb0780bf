use std::collections::BTreeMap;
use std::fs;

use expect_test::expect;
use model::decision_line::{Inputs, Logged};
use model::{Action, Principal, Record};
use proptest::prelude::*;

use super::*;
use crate::author::written;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop}
  stock: {namespace: shop}
";

fn bundle(texts: &[(&str, &str)]) -> Bundle {
    written::load(&written::files(&[&[("mesh.yaml", MESH)], texts].concat()))
}

fn request(path: &str) -> Attributes {
    Attributes {
        principal: "spiffe://shop.example/ns/shop/sa/orders".parse().unwrap(),
        resource: "stock".into(),
        method: "GET".into(),
        path: path.into(),
        host: "stock".into(),
        tls: true,
        time: "2026-01-01T12:00:00Z".parse().unwrap(),
        ..Attributes::default()
    }
}

/// What a proxy would log of a decision by `bundle`; of headers what that reads.
fn line(bundle: &Bundle, attributes: &Attributes) -> DecisionLine {
    let said = Replayer::new(bundle).evaluate(attributes).0.said;
    let plain = |text: &str| Logged::Plain(text.to_owned());
    let mut input = Inputs {
        method: plain(&attributes.method),
        path: plain(&attributes.path),
        host: plain(&attributes.host),
        source_ip: plain(&attributes.source_ip.to_string()),
        tls: attributes.tls,
        ..Inputs::default()
    };
    for (record, field) in bundle.schemas.declared.keys().filter_map(Name::field) {
        let value = attributes.record(record).get(field).map(|value| plain(value));
        input.record_mut(record).insert(field.to_owned(), value);
    }
    DecisionLine {
        ts: attributes.time,
        request_id: "id".into(),
        instance: "stock-v1".into(),
        service: attributes.resource.clone(),
        principal: plain(attributes.principal.as_str()),
        action: attributes.action,
        operation: attributes.operation.clone(),
        verdict: said.verdict,
        enforced: true,
        source: Source::Miss,
        degraded: false,
        reasons: said.reasons,
        message: String::new(),
        limits: said.limits,
        rules: said.rules,
        revision: "1.1".into(),
        shadows: Vec::new(),
        input,
    }
}

fn replayed(bundle: &Bundle, lines: &[String]) -> Tally {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, lines.join("\n")).unwrap();
    replay(bundle, &[Log::File(path)], &|_| ()).unwrap()
}

fn written(line: &DecisionLine) -> String {
    serde_json::to_string(line).unwrap()
}

/// Whatever a line says of the operation: the bundle finds its own, by method and path.
#[test]
fn operations_are_found_anew() {
    let acl = "permit (principal, action == Action::\"getItem\", resource == Service::\"stock\");";
    let with = |routes: &str| {
        let mesh = MESH.replace("stock: {namespace: shop}", &format!("stock: {{operations: {routes}}}"));
        written::load(&written::files(&[("mesh.yaml", &mesh), ("acl.cedar", acl)]))
    };
    let items = with("{getItem: {method: GET, path: '/items/{id}'}}");
    let moved = with("{getItem: {method: GET, path: '/stock/{id}'}}");
    let none = bundle(&[("acl.cedar", OLD)]);
    let known = Attributes { operation: Some("getItem".into()), ..request("/items/1") };
    let lines = [line(&none, &request("/items/1")), line(&items, &known), line(&items, &request("/stock/1"))];
    let verdicts = lines.each_ref().map(|line| line.verdict);
    assert_eq!(verdicts, [Verdict::Allow, Verdict::Allow, Verdict::Deny]);
    let lines = lines.each_ref().map(written);
    assert_eq!(replayed(&items, &lines).changed(), 0);
    assert_eq!(replayed(&moved, &lines).changed(), 3);
    // And a line without them is no use to a bundle that has operations.
    let mut masked = line(&none, &request("/items/1"));
    masked.input.path = Logged::Masked("00".into());
    assert_eq!(replayed(&items, &[written(&masked)]).skipped(), 1);
}

const OLD: &str = r#"
@id("readers") permit (principal, action == Action::"http", resource == Service::"stock")
when { context.method == "GET" && context.path like "/items/*" };
@id("vip") permit (principal, action == Action::"http", resource == Service::"stock")
when { context.headers has "x-vip" && context.headers["x-vip"] == "yes" };
"#;
const OLD_LIMITS: &str = "limits: [{name: slow, service: stock, rate: 1/s}]";

#[test]
fn what_changes_is_grouped_and_what_can_not_be_replayed_is_told() {
    let old = bundle(&[("acl.cedar", OLD), ("limits.yaml", OLD_LIMITS)]);
    let new = bundle(&[(
        "acl.cedar",
        &OLD.replace("/items/*", "/items/public/*").replace("\"vip\"", "\"important\"").replace(
            "@id(\"readers\")",
            "@id(\"no-staff\") forbid (principal, action == Action::\"http\", resource) \
             when { context.path like \"/staff*\" && context.cookies has \"s\" };\n@id(\"readers\")",
        ),
    )]);
    let logged = |path: &str| {
        let mut line = line(&old, &request(path));
        // The new bundle reads a cookie.
        line.input.record_mut(Record::Cookies).insert("s".into(), None);
        line
    };
    let masked = Some(Logged::Masked("00".into()));
    let mut masked_header = logged("/items/2");
    masked_header.input.headers.insert("x-vip".into(), masked);
    let vip = Attributes { headers: [("x-vip".to_owned(), "yes".to_owned())].into(), ..request("/") };
    let mut important = line(&old, &vip);
    important.input.record_mut(Record::Cookies).insert("s".into(), None);
    let lines = [
        written(&logged("/items/1")),
        written(&logged("/items/public/1")),
        written(&logged("/items/2")),
        "no line".to_owned(),
        String::new(),
        written(&line(&old, &request("/items/1"))),
        written(&masked_header),
        written(&DecisionLine { source: Source::Degraded, ..logged("/items/1") }),
        written(&DecisionLine { principal: Logged::Masked("00".into()), ..logged("/items/1") }),
        written(&DecisionLine { principal: Logged::Plain("nobody".into()), ..logged("/items/1") }),
        written(&DecisionLine { service: "gone".into(), ..logged("/items/public/1") }),
        written(&important),
    ];
    let tally = replayed(&new, &lines);
    assert_eq!((tally.replayed, tally.changed(), tally.skipped()), (5, 5, 6));
    // Without the limit nothing is as it was: with it only what is denied now.
    let with_limits = bundle(&[("acl.cedar", OLD), ("limits.yaml", OLD_LIMITS)]);
    assert_eq!(replayed(&with_limits, &[written(&logged("/items/1"))]).changed(), 0);
    expect![[r#"
        5 of 5 requests would be decided otherwise

                 2  allow -> deny  stock  spiffe://shop.example/ns/shop/sa/orders
                    was  permitted by `readers`
                    now  permitted by none
                    as   GET /items/1  (decisions.jsonl:1)

                 1  allow -> deny  gone  spiffe://shop.example/ns/shop/sa/orders
                    was  permitted by `readers`
                    now  denied by `no such service`
                    as   GET /items/public/1  (decisions.jsonl:11)

                 1  allow -> allow  stock  spiffe://shop.example/ns/shop/sa/orders
                    was  permitted by `readers`, limits `slow`
                    now  permitted by `readers`, limits none
                    as   GET /items/public/1  (decisions.jsonl:2)

                 1  allow -> allow  stock  spiffe://shop.example/ns/shop/sa/orders
                    was  permitted by `vip`, limits `slow`
                    now  permitted by `important`, limits none
                    as   GET /  (decisions.jsonl:12)

        6 lines could not be decided again:
                 2  no line of a decision log (decisions.jsonl:4)
                 1  undecided then: no decision could be had (decisions.jsonl:8)
                 1  `principal` is masked (decisions.jsonl:9)
                 1  `context.headers["x-vip"]` is masked, and the bundle reads it (decisions.jsonl:7)
                 1  `context.cookies["s"]` was not logged, and the bundle reads it (decisions.jsonl:6)
    "#]]
    .assert_eq(&text(&tally, &[Log::File("decisions.jsonl".into())]));
    let shown = json(&tally, &[Log::File("decisions.jsonl".into())]);
    assert_eq!((&shown["replayed"], &shown["changed"]), (&5.into(), &5.into()), "{shown}");
    let expected = serde_json::json!({
        "count": 2, "service": "stock", "principal": "spiffe://shop.example/ns/shop/sa/orders",
        "before": {"verdict": "allow", "reasons": ["readers"], "limits": ["slow"], "rules": []},
        "after": {"verdict": "deny", "reasons": [], "limits": [], "rules": []},
        "example": {
            "at": "decisions.jsonl:1", "ts": "2026-01-01T12:00:00Z", "request_id": "id", "method": "GET",
            "path": "/items/1",
        },
    });
    assert_eq!(shown["groups"][0], expected);
    let skipped =
        serde_json::json!({"why": "no line of a decision log", "count": 2, "first": "decisions.jsonl:4"});
    assert_eq!(shown["skipped"][0], skipped);
}

#[test]
fn nothing_changes_under_the_same_bundle_and_each_key_is_evaluated_once() {
    let bundle = bundle(&[("acl.cedar", OLD), ("limits.yaml", OLD_LIMITS)]);
    let lines: Vec<String> =
        (0..500).map(|number| written(&line(&bundle, &request(&format!("/items/{number}"))))).collect();
    let tally = replayed(&bundle, &lines);
    assert_eq!(tally, Tally { replayed: 500, evaluated: 1, ..Tally::default() });
    expect![[r#"
        nothing changes: 500 requests would be decided alike
    "#]]
    .assert_eq(&text(&tally, &[]));
}

#[test]
fn a_line_longer_than_any_is_told() {
    let bundle = bundle(&[("acl.cedar", OLD)]);
    let lines = ["x".repeat(blocks::LINE_LENGTH_MAX + 1), written(&line(&bundle, &request("/items/1")))];
    let tally = replayed(&bundle, &lines);
    assert_eq!((tally.replayed, tally.skipped()), (1, 1));
    assert!(tally.skipped.contains_key(&Skip::TooLong));
}

#[test]
fn what_an_adapter_denied_stays_denied_while_its_rule_would_ask_it() {
    let acl = ("acl.cedar", r#"@id("all") permit (principal, action == Action::"http", resource);"#);
    let adapters = "\
handlers: [{name: blocked, adapter: list, config: {mode: deny, match: exact, entries: [a]}}]
instances: [{name: path, fields: {value: context.path}}]
rules: [{name: block, match: 'context.method == \"GET\"', actions: [{handler: blocked, instances: [path]}]}]
";
    let asking = bundle(&[acl, ("adapters.yaml", adapters)]);
    let silent = bundle(&[acl]);
    let denied = DecisionLine {
        verdict: Verdict::Deny,
        reasons: vec!["adapter/block".into()],
        ..line(&asking, &request("a"))
    };
    let lines = [written(&denied), written(&line(&asking, &request("b")))];
    let tally = replayed(&asking, &lines);
    assert_eq!((tally.replayed, tally.changed(), tally.to_ask), (2, 0, 1));
    let tally = replayed(&silent, &lines);
    assert_eq!((tally.replayed, tally.changed(), tally.to_ask), (2, 1, 0));
}

#[test]
fn groups_are_bounded_and_the_rest_is_counted() {
    let old = bundle(&[("acl.cedar", OLD)]);
    let none = bundle(&[]);
    let template = line(&old, &request("/items/1"));
    let lines: Vec<String> = (0..GROUPS_MAX + 7)
        .map(|number| {
            let id = format!("spiffe://shop.example/ns/shop/sa/n{number}");
            written(&DecisionLine { principal: Logged::Plain(id), ..template.clone() })
        })
        .collect();
    let tally = replayed(&none, &lines);
    assert_eq!(tally.changed(), lines.len() as u64);
    assert_eq!((tally.changes.len(), tally.ungrouped), (GROUPS_MAX, 7));
    let shown = text(&tally, &[]);
    assert!(shown.contains(&format!("{}  in other ways", lines.len() - 50)), "{shown:.2000}");
}

/// Policies that read every kind of fact.
const POOL: [&str; 8] = [
    r#"permit (principal, action, resource) when { context.source_ip.isInRange(ip("10.0.0.0/8")) };"#,
    r#"permit (principal in Namespace::"shop", action == Action::"http", resource) when { context.method == "GET" };"#,
    r#"permit (principal, action == Action::"http", resource) when { context.path like "/a/*" };"#,
    r#"permit (principal, action == Action::"http", resource == Service::"stock") when { context.headers has "x" && context.headers["x"] == context.method };"#,
    r#"permit (principal, action == Action::"http", resource) when { context.time < datetime("2026-01-01T00:00:03Z") };"#,
    r#"forbid (principal, action == Action::"http", resource) when { context.cookies has "c" && context.cookies["c"] == "1" };"#,
    r#"forbid (principal, action == Action::"http", resource in Namespace::"shop") unless { context.tls };"#,
    r#"permit (principal, action == Action::"http", resource) when { context.method == "PUT" && context.time <= context.time };"#,
];

fn any_request() -> impl Strategy<Value = Attributes> {
    let value = || prop::option::of(prop_oneof![Just("1"), Just("GET")]);
    let who = prop_oneof![Just("unauthenticated"), Just("spiffe://shop.example/ns/shop/sa/orders")];
    let where_to = prop_oneof![Just("orders"), Just("stock")];
    let what = (prop_oneof![Just("GET"), Just("PUT")], prop_oneof![Just("/a/b"), Just("/b"), Just("/a/")]);
    let ip = prop_oneof![Just("10.0.0.1"), Just("::1")];
    (who, where_to, what, ip, value(), value(), any::<bool>(), 0i64..6).prop_map(
        |(who, resource, (method, path), ip, header, cookie, tls, second)| {
            let field = |name: &str, value: Option<&str>| {
                value.map(|value| (name.to_owned(), value.to_owned())).into_iter().collect::<BTreeMap<_, _>>()
            };
            Attributes {
                principal: who.parse::<Principal>().unwrap(),
                action: Action::Http,
                resource: resource.into(),
                method: method.into(),
                path: path.into(),
                host: resource.into(),
                headers: field("x", header),
                cookies: field("c", cookie),
                source_ip: ip.parse().unwrap(),
                tls,
                time: jiff::Timestamp::from_second(1_767_225_600 + second).unwrap(),
                ..Attributes::default()
            }
        },
    )
}

fn any_acl() -> impl Strategy<Value = String> {
    prop::sample::subsequence(POOL.to_vec(), 0..=POOL.len()).prop_map(|policies| policies.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// The law that makes replay worth anything: it says of each line what the bundle says of its request.
    #[test]
    fn a_replay_counts_what_evaluating_each_request_counts(
        old in any_acl(),
        new in any_acl(),
        requests in prop::collection::vec(any_request(), 1..60),
    ) {
        let (old, new) = (bundle(&[("acl.cedar", &old)]), bundle(&[("acl.cedar", &new)]));
        let direct = Replayer::new(&new);
        let (mut lines, mut changed) = (Vec::new(), 0);
        for request in &requests {
            let mut line = line(&old, request);
            // What the new bundle reads is logged, too: what comes of it otherwise has a test of its own.
            for (record, field) in new.schemas.declared.keys().filter_map(Name::field) {
                let value = request.record(record).get(field).map(|value| Logged::Plain(value.clone()));
                line.input.record_mut(record).insert(field.to_owned(), value);
            }
            changed += u64::from(line.verdict != direct.evaluate(request).0.said.verdict);
            lines.push(written(&line));
        }
        let tally = replayed(&new, &lines);
        prop_assert_eq!(tally.replayed, requests.len() as u64);
        prop_assert_eq!(tally.changed(), changed);
    }
}
