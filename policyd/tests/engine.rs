//! What the policies say of a request: one bundle, a table of requests.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use model::{Action, Attributes, Verdict};
use tidegate_policyd::bundle::{Bundle, Files};
use tidegate_policyd::engine;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
  stock: {namespace: depot, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";

const ACL: &str = r#"
@id("orders-reads-stock")
permit (principal == Workload::"spiffe://shop.example/ns/shop/sa/orders", action == Action::"http", resource == Service::"stock")
when { context.method == "GET" };

permit (principal in Group::"auditors", action in [Action::"http", Action::"grpc"], resource in Namespace::"depot");

@id("anyone-looks")
permit (principal == Workload::"unauthenticated", action == Action::"http", resource == Service::"orders")
when { context.path like "/public/*" };

@id("by-day")
permit (principal, action == Action::"http", resource == Service::"orders")
when { context.path == "/day" && context.time >= datetime("2026-01-01T08:00:00Z") && context.time < datetime("2026-01-01T18:00:00Z") };

@id("with-header")
permit (principal, action == Action::"http", resource == Service::"orders")
when { context.headers has "x-team" && context.headers["x-team"] == "blue" };

@id("with-query")
permit (principal, action == Action::"http", resource == Service::"orders")
when { context.query has "page" && context.query.page == "1" };

@id("trusted")
permit (principal, action == Action::"tcp", resource == Service::"stock")
when { principal has tier && principal.tier == 1 };

@id("no-deletes")
forbid (principal, action == Action::"http", resource) when { context.method == "DELETE" };

@id("no-admin")
forbid (principal, action == Action::"http", resource) when { context.path like "/admin*" };
"#;

const SCHEMA: &str = "entity Workload { tier?: Long };";

const ENTITIES: &str = r#"[
  {"uid": {"type": "Group", "id": "auditors"}, "attrs": {}, "parents": []},
  {"uid": {"type": "Workload", "id": "spiffe://shop.example/ns/audit/sa/eve"}, "attrs": {"tier": 1}, "parents": [{"type": "Group", "id": "auditors"}]},
  {"uid": {"__entity": {"type": "Workload", "id": "spiffe://shop.example/ns/shop/sa/orders"}}, "attrs": {"tier": 2}, "parents": []}
]"#;

fn bundle(texts: &[(&str, &str)]) -> Bundle {
    let texts: BTreeMap<String, String> =
        texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Bundle::load(&Files { folder: ".".into(), texts }).unwrap_or_else(|f| panic!("{}", f.render(false)))
}

fn request(principal: &str, resource: &str, path: &str) -> Attributes {
    Attributes {
        principal: principal.parse().unwrap(),
        action: Action::Http,
        resource: resource.into(),
        method: "GET".into(),
        path: path.into(),
        host: resource.into(),
        headers: BTreeMap::new(),
        query: BTreeMap::new(),
        source_ip: "10.0.0.1".parse().unwrap(),
        tls: true,
        time: "2026-01-01T00:00:00Z".parse().unwrap(),
        ..Attributes::default()
    }
}

fn pair(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

#[test]
fn policies_decide_and_say_which_they_were() {
    const ORDERS: &str = "spiffe://shop.example/ns/shop/sa/orders";
    const EVE: &str = "spiffe://shop.example/ns/audit/sa/eve";
    const STRANGER: &str = "spiffe://shop.example/ns/far/sa/away";
    const NOBODY: &str = "unauthenticated";
    use Verdict::{Allow, Deny};
    let bundle = bundle(&[
        ("mesh.yaml", MESH),
        ("acl.cedar", ACL),
        ("schema.cedarschema", SCHEMA),
        ("entities.json", ENTITIES),
    ]);
    let at = |time: &str| Attributes { time: time.parse().unwrap(), ..request(STRANGER, "orders", "/day") };
    let sent = |headers, query| Attributes { headers, query, ..request(STRANGER, "orders", "/x") };
    let none = BTreeMap::new;
    let tcp = |who| Attributes { action: Action::Tcp, ..request(who, "stock", "") };
    let method = |method: &str, request| Attributes { method: method.into(), ..request };
    let table: Vec<(Attributes, Verdict, &[&str])> = vec![
        (request(ORDERS, "stock", "/"), Allow, &["orders-reads-stock"]),
        (method("PUT", request(ORDERS, "stock", "/")), Deny, &[]),
        (request(ORDERS, "orders", "/"), Deny, &[]),
        (request(STRANGER, "stock", "/"), Deny, &[]),
        (request(NOBODY, "stock", "/"), Deny, &[]),
        (request(NOBODY, "orders", "/public/a"), Allow, &["anyone-looks"]),
        (request(STRANGER, "orders", "/public/a"), Deny, &[]),
        (request(EVE, "stock", "/"), Allow, &["acl.cedar#2"]),
        (Attributes { action: Action::Grpc, ..request(EVE, "stock", "/") }, Allow, &["acl.cedar#2"]),
        (request(EVE, "orders", "/"), Deny, &[]),
        (request(EVE, "stock", "/admin"), Deny, &["no-admin"]),
        (method("DELETE", request(EVE, "stock", "/admin")), Deny, &["no-admin"]),
        (at("2026-01-01T07:59:59.999Z"), Deny, &[]),
        (at("2026-01-01T08:00:00Z"), Allow, &["by-day"]),
        (at("2026-01-01T18:00:00Z"), Deny, &[]),
        (sent(pair("x-team", "blue"), none()), Allow, &["with-header"]),
        (sent(pair("x-team", "red"), none()), Deny, &[]),
        (sent(none(), pair("page", "1")), Allow, &["with-query"]),
        (sent(pair("x-team", "blue"), pair("page", "1")), Allow, &["with-header", "with-query"]),
        (tcp(EVE), Allow, &["trusted"]),
        (tcp(ORDERS), Deny, &[]),
        (tcp(STRANGER), Deny, &[]),
    ];
    for (request, verdict, reasons) in table {
        let opinion = engine::evaluate(&bundle, &request).unwrap().opinion;
        let told: Vec<&str> = opinion.reasons.iter().map(String::as_str).collect();
        assert_eq!((opinion.verdict, told.as_slice()), (verdict, reasons), "{request:?}");
        assert!(!opinion.degraded);
    }
}

#[test]
fn limits_and_rules_whose_condition_holds_are_named() {
    let limits = "limits:\n  - {name: all, rate: 1/s}\n  - {name: writes, rate: 1/s, when: context.method != \"GET\"}\n  - {name: stock, service: stock, rate: 1/s}\n";
    let adapters = "handlers: [{name: out, adapter: stdio}]\nrules:\n  - {name: pages, match: context.path like \"*.html\", actions: [{handler: out}]}\n";
    let bundle = bundle(&[("mesh.yaml", MESH), ("limits.yaml", limits), ("adapters.yaml", adapters)]);
    let evaluation = engine::evaluate(&bundle, &request("unauthenticated", "orders", "/a.html")).unwrap();
    assert_eq!((evaluation.limits, evaluation.rules), (vec!["all".to_owned()], vec!["pages".to_owned()]));
    let put = Attributes { method: "PUT".into(), ..request("unauthenticated", "stock", "/") };
    let evaluation = engine::evaluate(&bundle, &put).unwrap();
    assert_eq!(evaluation.limits, ["all", "stock", "writes"]);
    assert!(evaluation.rules.is_empty());
}

/// Cedar skips a policy whose evaluation fails. Wherever that happens, it must not let a request pass.
#[test]
fn an_error_of_any_policy_or_condition_denies() {
    const OVERFLOW: &str = "9223372036854775807 + (if context.tls then 1 else 0) > 0";
    let allow = "permit (principal, action, resource);\n";
    let acl = |effect: &str| {
        format!("{allow}{effect} (principal, action == Action::\"http\", resource) when {{ {OVERFLOW} }};")
    };
    let limits = format!("limits:\n  - {{name: l, rate: 1/s, when: '{OVERFLOW}'}}\n");
    let adapters = format!(
        "handlers: [{{name: out, adapter: stdio}}]\nrules: [{{name: r, match: '{OVERFLOW}', actions: [{{handler: out}}]}}]\n"
    );
    let (permit, forbid) = (acl("permit"), acl("forbid"));
    let bundles = [
        bundle(&[("mesh.yaml", MESH), ("acl.cedar", &permit)]),
        bundle(&[("mesh.yaml", MESH), ("acl.cedar", &forbid)]),
        bundle(&[("mesh.yaml", MESH), ("acl.cedar", allow), ("limits.yaml", &limits)]),
        bundle(&[("mesh.yaml", MESH), ("acl.cedar", allow), ("adapters.yaml", &adapters)]),
    ];
    for bundle in bundles {
        let opinion = engine::evaluate(&bundle, &request("unauthenticated", "orders", "/")).unwrap().opinion;
        assert_eq!((opinion.verdict, opinion.degraded), (Verdict::Deny, true));
        assert!(opinion.valid_for.is_zero() && opinion.reasons.is_empty());
        assert!(opinion.message.contains("overflow"), "{}", opinion.message);
    }
}

/// Cedar has no such address, and an IPv4 range would not match it.
#[test]
fn an_address_that_cedar_refuses_makes_no_request() {
    let bundle = bundle(&[("mesh.yaml", MESH), ("acl.cedar", "permit (principal, action, resource);")]);
    let mapped = Attributes {
        source_ip: "::ffff:10.0.0.1".parse().unwrap(),
        ..request("unauthenticated", "orders", "/")
    };
    assert!(engine::evaluate(&bundle, &mapped).is_err());
}
