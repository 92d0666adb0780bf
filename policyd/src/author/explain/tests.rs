use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use model::Verdict;
use proptest::prelude::*;

use super::*;
use crate::author::unit_test::RequestText;
use crate::author::written;

const MESH: &str = "trust_domain: a.example\nservices: {orders: {namespace: shop}, users: {}}\n";
const ACL: &str = r#"@id("shop-reads")
permit (principal in Namespace::"shop", action == Action::"http", resource == Service::"orders")
when {
  // Reading only, and
  context.method == "GET" &&
  (context.path like "/orders/*" && context.headers has "x-user") &&
  context.headers["x-user"] == "anna"
};

@id("no-old-callers")
forbid (principal, action == Action::"http", resource)
unless {
  context.tls &&
  context.time > datetime("2026-01-01")
};

@id("from-the-office")
permit (principal, action in [Action::"http", Action::"grpc"], resource in Namespace::"shop")
when { context.source_ip.isInRange(ip("10.0.0.0/8")) || [principal].contains(principal) == false }
when { context.path == context.host };

permit (principal, action, resource == Service::"users");
"#;

fn files(acl: &str) -> Files {
    written::files(&[("mesh.yaml", MESH), ("acl.cedar", acl)])
}

fn of(acl: &str, request: &RequestText) -> Explanation {
    let files = files(acl);
    let bundle = written::load(&files);
    let request = RequestText { service: "orders".to_owned(), ..request.clone() };
    explain(&bundle, &files, &request.attributes(&bundle.mesh).unwrap()).unwrap()
}

fn explained_as(request: &RequestText, expected: &Expect) {
    expected.assert_eq(&text(&of(ACL, request), &files(ACL), false));
}

fn from_shop() -> RequestText {
    let principal = Some("spiffe://a.example/ns/shop/sa/cart".to_owned());
    RequestText { principal, path: Some("/orders/1".into()), ..RequestText::default() }
}

#[test]
fn every_part_that_does_not_hold_is_told_with_what_it_reads() {
    explained_as(
        &RequestText { method: Some("PUT".into()), ..RequestText::default() },
        &expect![[r#"
            deny: forbidden by `no-old-callers`

            forbid: `no-old-callers` is satisfied
            --> acl.cedar:10:1

            permit: `from-the-office` is not satisfied
              --> acl.cedar:19:8
               |
            19 | when { context.source_ip.isInRange(ip("10.0.0.0/8")) || [principal].contains(principal) == false }
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.source_ip = 127.0.0.1, principal = "unauthenticated"
            20 | when { context.path == context.host };
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.path = "/", context.host = "orders"

            permit: `shop-reads` is not satisfied
             --> acl.cedar:2:9
              |
            2 | permit (principal in Namespace::"shop", action == Action::"http", resource == Service::"orders")
              |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"
            ...
            5 |   context.method == "GET" &&
              |   ^^^^^^^^^^^^^^^^^^^^^^^ false: context.method = "PUT"
            6 |   (context.path like "/orders/*" && context.headers has "x-user") &&
              |    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.headers["x-user"] = absent
              |    |
              |    false: context.path = "/"

            1 other policy is for other services

            to be allowed, one of:
              - principal would have to be in Namespace::"shop" (is "unauthenticated"), for `shop-reads` at acl.cedar:2:9
                and context.method would have to be "GET" (is "PUT"), for `shop-reads` at acl.cedar:5:3
                and context.path would have to match "/orders/*" (is "/"), for `shop-reads` at acl.cedar:6:4
                and context.headers["x-user"] would have to be "anna" (is absent), for `shop-reads` at acl.cedar:7:3
                and context.tls would have to be true (is false), for `no-old-callers` at acl.cedar:13:3
                verified: allowed with principal: spiffe://a.example/ns/shop/sa/orders, method: GET, path: /orders/x, headers: {x-user: anna}, tls: true
              - context.source_ip.isInRange(ip("10.0.0.0/8")) || [principal].contains(principal) == false would have to be true (is false), for `from-the-office` at acl.cedar:19:8
                and context.path would have to be context.host (is "/"), for `from-the-office` at acl.cedar:20:8
                and context.tls would have to be true (is false), for `no-old-callers` at acl.cedar:13:3
                not verified: no such request was found

            limits charged: none
            rules that match: none
        "#]],
    );
}

#[test]
fn what_is_guarded_by_a_part_that_does_not_hold_is_no_error() {
    explained_as(
        &from_shop(),
        &expect![[r#"
            deny: no policy permits this request

            forbid: `no-old-callers` is not satisfied
              --> acl.cedar:13:3
               |
            13 |   context.tls &&
               |   ^^^^^^^^^^^ true: context.tls = true
            14 |   context.time > datetime("2026-01-01")
               |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ true: context.time = datetime("2026-01-01T12:00:00.000Z")

            permit: `from-the-office` is not satisfied
              --> acl.cedar:19:8
               |
            19 | when { context.source_ip.isInRange(ip("10.0.0.0/8")) || [principal].contains(principal) == false }
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.source_ip = 127.0.0.1, principal = "spiffe://a.example/ns/shop/sa/cart"
            20 | when { context.path == context.host };
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.path = "/orders/1", context.host = "orders"

            permit: `shop-reads` is not satisfied
             --> acl.cedar:6:37
              |
            6 |   (context.path like "/orders/*" && context.headers has "x-user") &&
              |                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.headers["x-user"] = absent

            1 other policy is for other services

            to be allowed, one of:
              - context.headers["x-user"] would have to be "anna" (is absent), for `shop-reads` at acl.cedar:7:3
                verified: allowed with headers: {x-user: anna}
              - context.source_ip.isInRange(ip("10.0.0.0/8")) || [principal].contains(principal) == false would have to be true (is false), for `from-the-office` at acl.cedar:19:8
                and context.path would have to be context.host (is "/orders/1"), for `from-the-office` at acl.cedar:20:8
                not verified: no such request was found

            limits charged: none
            rules that match: none
        "#]],
    );
}

#[test]
fn a_satisfied_policy_has_nothing_more_to_tell() {
    let headers = BTreeMap::from([("x-user".to_owned(), "anna".to_owned())]);
    let request = RequestText { headers, ..from_shop() };
    explained_as(
        &request,
        &expect![[r#"
            allow: permitted by `shop-reads`

            forbid: `no-old-callers` is not satisfied
              --> acl.cedar:13:3
               |
            13 |   context.tls &&
               |   ^^^^^^^^^^^ true: context.tls = true
            14 |   context.time > datetime("2026-01-01")
               |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ true: context.time = datetime("2026-01-01T12:00:00.000Z")

            permit: `from-the-office` is not satisfied
              --> acl.cedar:19:8
               |
            19 | when { context.source_ip.isInRange(ip("10.0.0.0/8")) || [principal].contains(principal) == false }
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.source_ip = 127.0.0.1, principal = "spiffe://a.example/ns/shop/sa/cart"
            20 | when { context.path == context.host };
               |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.path = "/orders/1", context.host = "orders"

            permit: `shop-reads` is satisfied
            --> acl.cedar:1:1

            1 other policy is for other services

            to be denied, one of:
              - context.tls would have to be false (is true), for `no-old-callers` at acl.cedar:13:3
                verified: denied with tls: false
              - context.time would have to be no later than 2026-01-01 (is datetime("2026-01-01T12:00:00.000Z")), for `no-old-callers` at acl.cedar:14:3
                verified: denied with time: 2025-12-31T23:59:59.999Z
              - context.method would have to be other than "GET" (is "GET"), for `shop-reads` at acl.cedar:5:3
                verified: denied with method: HEAD

            limits charged: none
            rules that match: none
        "#]],
    );
    let json = json(&of(ACL, &request));
    assert_eq!(json["decision"], "allow");
    assert_eq!(json["explained"][2]["satisfied"], true);
    assert_eq!(json["explained"][1]["unmet"][0]["reads"]["context.source_ip"], "127.0.0.1");
}

#[test]
fn shadow_policies_are_told_apart_and_decide_nothing() {
    let acl = r#"@id("reads") permit (principal, action == Action::"http", resource) when { context.method == "GET" };
@id("tls") @shadow("true") forbid (principal, action == Action::"http", resource) unless { context.tls };
@id("anyone") @shadow("true") permit (principal, action == Action::"http", resource) when { context.method == "PUT" };
@id("users") @shadow("true") forbid (principal, action == Action::"http", resource == Service::"users");
"#;
    let explanation = of(acl, &RequestText::default());
    expect![[r#"
        allow: permitted by `reads`
        with the shadow policies enforced, deny: forbidden by `tls`

        permit: `reads` is satisfied
        --> acl.cedar:1:1

        shadow forbid: `tls` is satisfied, and not enforced
        --> acl.cedar:2:1

        shadow permit: `anyone` is not satisfied
         --> acl.cedar:3:93
          |
        3 | @id("anyone") @shadow("true") permit (principal, action == Action::"http", resource) when { context.method == "PUT" };
          |                                                                                             ^^^^^^^^^^^^^^^^^^^^^^^ false: context.method = "GET"

        1 other policy is for other services

        to be denied:
          - context.method would have to be other than "GET" (is "GET"), for `reads` at acl.cedar:1:76
            verified: denied with method: HEAD

        limits charged: none
        rules that match: none
    "#]].assert_eq(&text(&explanation, &files(acl), false));
    let json = json(&explanation);
    let marks = |of: &str| {
        json["explained"].as_array().unwrap().iter().map(|policy| policy[of].clone()).collect::<Vec<_>>()
    };
    assert_eq!(marks("id"), ["reads", "tls", "anyone"]);
    assert_eq!(marks("shadow"), [false, true, true]);
    assert_eq!((&json["decision"], &json["shadow"]["decision"]), (&"allow".into(), &"deny".into()));
    assert!(of(ACL, &from_shop()).shadow.is_none(), "no shadow policies, no shadow");
}

#[test]
fn all_forbids_are_told() {
    let acl =
        r#"@id("a") forbid (principal, action, resource); @id("b") forbid (principal, action, resource);"#;
    assert_eq!(of(acl, &from_shop()).answer.message, "forbidden by `a`, `b`");
}

#[test]
fn a_failure_is_told_where_it_happens() {
    let acl = r#"@id("a") permit (principal, action == Action::"http", resource)
when { 9223372036854775807 + (if context.tls then 1 else 0) > 0 };"#;
    expect![[r#"
        deny: error while evaluating policy `a`: integer overflow while attempting to add the values `9223372036854775807` and `1`

        permit: `a` is not satisfied
         --> acl.cedar:2:8
          |
        2 | when { 9223372036854775807 + (if context.tls then 1 else 0) > 0 };
          |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ fails: integer overflow while attempting to add the values `9223372036854775807` and `1`: context.tls = true

        limits charged: none
        rules that match: none
    "#]].assert_eq(&text(&of(acl, &from_shop()), &files(acl), false));
}

/// A change in few words: `context.method be "GET" (is "PUT"); …: method: GET`.
fn changes(acl: &str, request: &RequestText) -> Vec<String> {
    let told = |change: Change| {
        let want = |want: &Want| format!("{} {} (is {})", want.subject, want.wanted, want.is);
        let wants: Vec<String> = change.wants.iter().map(want).collect();
        let differences = change.verified.map(|verified| verified.differences).unwrap_or_default();
        let with: Vec<String> = differences.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        format!("{} => {}", wants.join("; "), with.join(", "))
    };
    of(acl, request).changes.into_iter().map(told).collect()
}

#[test]
fn the_nearest_permit_tells_what_would_have_to_change() {
    let acl = r#"
permit (principal in Namespace::"shop", action == Action::"http", resource)
when { context.method == "GET" && context.path like "/orders/*" };
permit (principal, action == Action::"http", resource)
when { context.headers has "x-user" && context.headers["x-user"] == "anna" }
unless { context.tls && context.source_ip.isInRange(ip("10.0.0.0/8")) };
permit (principal, action == Action::"http", resource in Namespace::"other") when { true };
permit (principal, action == Action::"http", resource) when { [Service::"users"].contains(resource) };
"#;
    let request = RequestText { method: Some("PUT".into()), ..from_shop() };
    expect![[r#"
        context.method be "GET" (is "PUT") => method: GET
        context.headers["x-user"] be "anna" (is absent) => headers: {x-user: anna}"#]]
    .assert_eq(&changes(acl, &request).join("\n"));
    let request = RequestText { source_ip: Some("10.1.2.3".into()), ..request };
    expect![[r#"
        context.method be "GET" (is "PUT") => method: GET
        context.headers["x-user"] be "anna" (is absent); context.tls be false (is true) => headers: {x-user: anna}, tls: false
        context.headers["x-user"] be "anna" (is absent); context.source_ip not be in 10.0.0.0/8 (is 10.1.2.3) => headers: {x-user: anna}, source_ip: 127.0.0.1"#]].assert_eq(&changes(acl, &request).join("\n"));
    expect![[r#"
        context.headers["x-user"] be "anna" (is absent) => headers: {x-user: anna}
        principal be in Namespace::"shop" (is "unauthenticated"); context.path match "/orders/*" (is "/") => principal: spiffe://a.example/ns/shop/sa/orders, path: /orders/x, tls: true"#]].assert_eq(&changes(acl, &RequestText::default()).join("\n"));
}

#[test]
fn a_forbid_has_to_fail_and_a_permit_to_be_there() {
    let acl = r#"
@id("reads") permit (principal, action == Action::"http", resource) when { context.method == "GET" };
@id("secret") forbid (principal, action == Action::"http", resource) when { context.path like "/secret/*" }
unless { context.headers has "x-pass" };
"#;
    let secret = RequestText { path: Some("/secret/a".into()), ..RequestText::default() };
    expect![[r#"
        context.path not match "/secret/*" (is "/secret/a") => path: /
        context.headers["x-pass"] be there (is absent) => headers: {x-pass: x}"#]]
    .assert_eq(&changes(acl, &secret).join("\n"));
    let written = RequestText { method: Some("PUT".into()), ..secret };
    expect![[r#"
        context.method be "GET" (is "PUT"); context.path not match "/secret/*" (is "/secret/a") => method: GET, path: /
        context.method be "GET" (is "PUT"); context.headers["x-pass"] be there (is absent) => method: GET, headers: {x-pass: x}"#]].assert_eq(&changes(acl, &written).join("\n"));
    // And the other way round.
    expect![[r#"
        context.path match "/secret/*" (is "/") => path: /secret/x
        context.method be other than "GET" (is "GET") => method: HEAD"#]]
    .assert_eq(&changes(acl, &RequestText::default()).join("\n"));
}

#[test]
fn what_can_not_be_is_not_asked_for() {
    let impossible = r#"permit (principal, action == Action::"http", resource)
when { context.method == "GET" && context.method == "PUT" };"#;
    assert_eq!(changes(impossible, &RequestText::default()), Vec::<String>::new());
    let forbidden = r#"permit (principal, action, resource); forbid (principal, action, resource);"#;
    assert_eq!(changes(forbidden, &RequestText::default()), Vec::<String>::new());
    let failing = r#"permit (principal, action == Action::"http", resource)
when { 9223372036854775807 + (if context.tls then 1 else 0) > 0 };"#;
    assert_eq!(changes(failing, &from_shop()), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The law: with what is told to differ, the request is decided the other way.
    #[test]
    fn a_verified_change_turns_the_decision(
        method in "GET|PUT",
        path in "/orders/[ab]|/users",
        user in proptest::option::of("anna|ben"),
        principal in proptest::option::of("spiffe://a\\.example/ns/(shop|other)/sa/cart"),
    ) {
        let files = files(ACL);
        let bundle = written::load(&files);
        let request = RequestText {
            principal,
            service: "orders".to_owned(),
            method: Some(method),
            path: Some(path),
            headers: user.into_iter().map(|user| ("x-user".to_owned(), user)).collect(),
            ..RequestText::default()
        };
        let explanation = explain(&bundle, &files, &request.attributes(&bundle.mesh).unwrap()).unwrap();
        for verified in explanation.changes.iter().filter_map(|change| change.verified.as_ref()) {
            let changed = verified.request.attributes(&bundle.mesh).unwrap();
            prop_assert_ne!(Answer::of(&bundle, &changed).decision, explanation.answer.decision);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The law: a policy is told to be satisfied if Cedar says so.
    #[test]
    fn a_policy_is_satisfied_as_cedar_says(
        method in "GET|PUT",
        path in "/orders/[ab]|/users|/",
        user in proptest::option::of("anna|ben"),
        source_ip in "10\\.0\\.0\\.1|127\\.0\\.0\\.1",
        principal in proptest::option::of("spiffe://a\\.example/ns/(shop|other)/sa/cart"),
    ) {
        let files = files(ACL);
        let bundle = written::load(&files);
        let request = RequestText {
            principal,
            service: "orders".to_owned(),
            method: Some(method),
            host: Some(path.clone()),
            path: Some(path),
            headers: user.into_iter().map(|user| ("x-user".to_owned(), user)).collect(),
            source_ip: Some(source_ip),
            ..RequestText::default()
        };
        let attributes = request.attributes(&bundle.mesh).unwrap();
        let explanation = explain(&bundle, &files, &attributes).unwrap();
        let satisfied = |kind| -> Vec<String> {
            let policies = explanation.policies.iter();
            let satisfied = policies.filter(|policy| policy.kind == kind && policy.unmet.is_empty());
            satisfied.map(|policy| policy.id.clone()).collect()
        };
        let (permits, forbids) = (satisfied(Kind::Permit), satisfied(Kind::Forbid));
        let determining = if forbids.is_empty() { &permits } else { &forbids };
        let opinion = engine::evaluate(&bundle, &attributes).unwrap().opinion;
        prop_assert_eq!(opinion.verdict == Verdict::Allow, forbids.is_empty() && !permits.is_empty());
        prop_assert_eq!(&opinion.reasons, determining);
    }
}
