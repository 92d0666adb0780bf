//! Templates and their links: what they decide, and how each mistake is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use expect_test::expect;
use model::{Attributes, Verdict};
use tidegate_policyd::author::explain;
use tidegate_policyd::bundle::{Bundle, Files, Policy};
use tidegate_policyd::engine;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
  stock: {namespace: depot, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";

const ACL: &str = r#"
@id("reader") @note("looks only")
permit (principal == ?principal, action == Action::"http", resource == ?resource)
when { context.method == "GET" };

@id("no-deletes")
forbid (principal is Workload in ?principal, action == Action::"http", resource)
when { context.method == "DELETE" };

@id("all-of-orders")
permit (principal, action == Action::"http", resource == Service::"orders");
"#;

const LINKS: &str = r#"links:
  - template: reader
    id: orders-reads-stock
    principal: Workload::"spiffe://shop.example/ns/shop/sa/orders"
    resource: Service::"stock"
  - template: no-deletes
    id: shop-deletes-nothing
    principal: Namespace::"shop"
"#;

fn files(acl: &str, links: &str) -> Files {
    let texts = [("mesh.yaml", MESH), ("acl.cedar", acl), ("links.yaml", links)];
    let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
    Files { folder: "bundle".into(), texts: BTreeMap::from(texts) }
}

fn told(acl: &str, links: &str) -> String {
    match Bundle::load(&files(acl, links)) {
        Ok(bundle) => format!("loaded\n{}", bundle.warnings.render(false)),
        Err(findings) => findings.render(false),
    }
}

fn request(method: &str, resource: &str) -> Attributes {
    Attributes {
        principal: "spiffe://shop.example/ns/shop/sa/orders".parse().unwrap(),
        resource: resource.into(),
        method: method.into(),
        path: "/".into(),
        host: resource.into(),
        source_ip: "10.0.0.1".parse().unwrap(),
        tls: true,
        ..Attributes::default()
    }
}

#[test]
fn links_decide_as_the_policies_that_they_amount_to() {
    let files = files(ACL, LINKS);
    let bundle = Bundle::load(&files).unwrap_or_else(|findings| panic!("{}", findings.render(false)));
    assert!(bundle.warnings.is_empty(), "{}", bundle.warnings.render(false));
    let ids: Vec<&str> = bundle.policies.policies().map(Policy::id).collect();
    assert_eq!(ids, ["all-of-orders", "orders-reads-stock", "shop-deletes-nothing"]);
    let linked = bundle.policies.policy("orders-reads-stock").unwrap();
    assert_eq!((linked.annotation("note"), linked.spot().file()), (Some("looks only"), "links.yaml"));
    assert_eq!(linked.spot().line(), 2);
    let tree = linked.tree().unwrap().to_string();
    assert!(tree.contains(r#"resource == Service::"stock""#) && !tree.contains('?'), "{tree}");

    let table: [(&str, &str, Verdict, &[&str]); 4] = [
        ("GET", "stock", Verdict::Allow, &["orders-reads-stock"]),
        ("PUT", "stock", Verdict::Deny, &[]),
        ("PUT", "orders", Verdict::Allow, &["all-of-orders"]),
        ("DELETE", "orders", Verdict::Deny, &["shop-deletes-nothing"]),
    ];
    for (method, resource, verdict, reasons) in table {
        let attributes = request(method, resource);
        let opinion = engine::evaluate(&bundle, &attributes).unwrap().opinion;
        assert_eq!(
            (opinion.verdict, opinion.reasons),
            (verdict, reasons.iter().map(|id| (*id).into()).collect())
        );
        let by_cedar = cedar_policy::Authorizer::new().is_authorized(
            &cedar(&attributes),
            &bundle.policies.to_set(),
            &bundle.entities,
        );
        assert_eq!(by_cedar.decision() == cedar_policy::Decision::Allow, verdict == Verdict::Allow);
    }
    let names: Vec<String> =
        bundle.atoms["stock"].atoms().iter().map(|atom| format!("{:?}", atom.name)).collect();
    assert_eq!(names, ["Method", "Method"]);
}

fn cedar(attributes: &Attributes) -> cedar_policy::Request {
    let context = serde_json::json!({"method": attributes.method});
    let context = cedar_policy::Context::from_json_value(context, None).unwrap();
    let uid = |text: String| text.parse().unwrap();
    let principal = uid(format!("Workload::\"{}\"", attributes.principal));
    let resource = uid(format!("Service::\"{}\"", attributes.resource));
    cedar_policy::Request::new(principal, uid("Action::\"http\"".into()), resource, context, None).unwrap()
}

#[test]
fn links_are_explained_like_other_policies() {
    const STOCK_IS: &str = r#"principal == Workload::"spiffe://shop.example/ns/depot/sa/stock""#;
    let stock = "  - template: reader\n    id: stock-reads-stock\n    principal: Workload::\"spiffe://shop.example/ns/depot/sa/stock\"\n    resource: Service::\"stock\"\n";
    let files = files(ACL, &format!("{LINKS}{stock}"));
    let bundle = Bundle::load(&files).unwrap();
    let explanation = explain::explain(&bundle, &files, &request("PUT", "stock")).unwrap();
    let unmet = |id: &str| -> Vec<&str> {
        let policy = explanation.policies.iter().find(|policy| policy.id == id).unwrap();
        policy.unmet.iter().map(|unmet| unmet.part.text.as_str()).collect()
    };
    assert_eq!(unmet("orders-reads-stock"), [r#"context.method == "GET""#]);
    assert_eq!(unmet("stock-reads-stock"), [STOCK_IS, r#"context.method == "GET""#]);
    assert_eq!(unmet("shop-deletes-nothing"), [r#"context.method == "DELETE""#]);
}

#[test]
fn all_mistakes_of_links_are_told_at_once() {
    let links = r#"links:
  - {template: raeder, id: a}
  - template: all-of-orders
    id: b
  - template: reader
    id: c
    principal: Workload::"x"
  - template: no-deletes
    id: d
    principal: Workload:x
    resource: Service::"stock"
  - template: no-deletes
    id: all-of-orders
    principal: Namespace::"depot"
  - template: reader
    id: c
    principal: Workload::"x"
    resource: Service::"x"
"#;
    expect![[r#"
        error: there is no template `raeder`
         --> links.yaml:2:16
          |
        2 |   - {template: raeder, id: a}
          |                ^^^^^^
          |
          = help: did you mean `reader`?

        error: there is no template `all-of-orders`
         --> links.yaml:3:15
          |
        3 |   - template: all-of-orders
          |               ^^^^^^^^^^^^^
          |
          = help: name a policy with `?principal` or `?resource` in its scope by its `@id`

        error: the template `reader` has a slot `?resource`, which nothing fills
         --> links.yaml:5:15
          |
        5 |   - template: reader
          |               ^^^^^^
          |
          = help: add `resource: Type::"id"`

        error: `Workload:x` names no entity
          --> links.yaml:10:16
           |
        10 |     principal: Workload:x
           |                ^^^^^^^^^^
           |
           = help: write it as in Cedar: `Workload::"spiffe://…"`

        error: the template `no-deletes` has no slot `?resource`
          --> links.yaml:11:15
           |
        11 |     resource: Service::"stock"
           |               ^^^^^^^^^^^^^^^^
           |
           = help: leave it out

        error: duplicate template or policy id `all-of-orders`
          --> links.yaml:12:15
           |
        12 |   - template: no-deletes
           |               ^^^^^^^^^^
           |
           = help: give each policy an id of its own; the other one is in acl.cedar at line 10

    "#]]
    .assert_eq(&told(ACL, links));
}

#[test]
fn links_are_validated_against_the_schema() {
    let links = r#"links:
  - template: reader
    id: a
    principal: Service::"stock"
    resource: Service::"stock"
  - template: reader
    id: b
    principal: Workloat::"stock"
    resource: Service::"stock"
"#;
    expect![[r#"
        warning: nothing links the template `no-deletes`
         --> acl.cedar:6:1
          |
        6 | @id("no-deletes")
          | ^^^^^^^^^^^^^^^^^
          |
          = help: link it in links.yaml, or remove it

        error: the link `a` can never apply: no request has such a principal and resource
         --> links.yaml:2:15
          |
        2 |   - template: reader
          |               ^^^^^^
          |
          = help: the scope of `reader` is `principal == ?principal, action == Action::"http", resource == ?resource`

        error: for policy `b`, unrecognized entity type `Workloat`
         --> links.yaml:8:16
          |
        8 |     principal: Workloat::"stock"
          |                ^^^^^^^^^^^^^^^^^
          |
          = help: did you mean `Workload`?

    "#]].assert_eq(&told(ACL, links));
    expect![[r#"
        error: unknown field `name`
         --> links.yaml:1:28
          |
        1 | links: [{template: reader, name: x}]
          |                            ^^^^
          |
          = help: it is one of `template`, `id`, `principal`, `resource`

    "#]]
    .assert_eq(&told(ACL, "links: [{template: reader, name: x}]"));
}
