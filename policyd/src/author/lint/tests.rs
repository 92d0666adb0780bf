use super::*;
use crate::author::written;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop}
  payments: {namespace: bank}
";

const ENTITIES: &str = r#"[
  {"uid": {"type": "Group", "id": "crew"}, "attrs": {}, "parents": [{"type": "Group", "id": "all"}]},
  {"uid": {"type": "Group", "id": "all"}, "attrs": {}, "parents": []},
  {"uid": {"type": "Group", "id": "nobody"}, "attrs": {}, "parents": []},
  {"uid": {"type": "Namespace", "id": "bank"}, "attrs": {}, "parents": [{"type": "Group", "id": "crew"}]},
  {"uid": {"type": "Workload", "id": "spiffe://shop.example/ns/shop/sa/robot"}, "attrs": {}, "parents": []}
]"#;

fn files(texts: &[(&str, &str)]) -> Files {
    written::files(&[&[("mesh.yaml", MESH), ("entities.json", ENTITIES)], texts].concat())
}

/// The lints that find something in a bundle that loads, the validator's included; once a finding.
fn found(texts: &[(&str, &str)]) -> Vec<String> {
    let files = files(texts);
    let bundle = written::load(&files);
    let findings = lint(&bundle, &files);
    let mut names: Vec<String> =
        findings.iter().filter_map(|finding| finding.lint).map(str::to_owned).collect();
    names.sort();
    names
}

/// A policy for requests to `orders` under a condition.
fn permit(condition: &str) -> String {
    format!(
        "permit (principal, action == Action::\"http\", resource == Service::\"orders\") when {{ {condition} }};"
    )
}

fn conditions(lint: Lint, found_in: &[&str], not_in: &[&str]) {
    for condition in found_in {
        let names = found(&[("acl.cedar", &permit(condition))]);
        assert_eq!(names, [lint.name()], "{condition}");
    }
    for condition in not_in {
        let names = found(&[("acl.cedar", &permit(condition))]);
        assert!(!names.contains(&lint.name().to_owned()), "{condition}: {names:?}");
    }
}

fn policies(lint: Lint, found_in: &[&str], not_in: &[&str]) {
    for text in found_in {
        assert_eq!(found(&[("acl.cedar", text)]), [lint.name()], "{text}");
    }
    for text in not_in {
        let names = found(&[("acl.cedar", text)]);
        assert!(!names.contains(&lint.name().to_owned()), "{text}: {names:?}");
    }
}

#[test]
fn what_is_not_there() {
    policies(
        Lint::UnknownEntity,
        &[
            r#"permit (principal, action, resource == Service::"order");"#,
            r#"permit (principal, action, resource in Namespace::"shops");"#,
            r#"permit (principal in Group::"crow", action, resource);"#,
            r#"permit (principal in Namespace::"ship", action, resource);"#,
            r#"permit (principal == Workload::"spiffe://shop.example/ns/shop/sa/order", action, resource);"#,
            r#"permit (principal == Workload::"spiffe://Shop.example/ns/shop/sa/orders", action, resource);"#,
            r#"permit (principal == Workload::"orders", action, resource);"#,
            r#"permit (principal, action, resource) when { [Service::"order"].contains(resource) };"#,
            r#"permit (principal, action, resource) unless { principal in Group::"crow" };"#,
        ],
        &[
            r#"permit (principal == Workload::"spiffe://shop.example/ns/shop/sa/orders", action, resource);"#,
            r#"permit (principal == Workload::"spiffe://shop.example/ns/shop/sa/robot", action, resource);"#,
            r#"permit (principal == Workload::"spiffe://other.example/ns/shop/sa/any", action, resource);"#,
            r#"permit (principal == Workload::"unauthenticated", action, resource in Namespace::"bank");"#,
            r#"permit (principal in Group::"crew", action == Action::"http", resource == Service::"payments");"#,
        ],
    );
}

#[test]
fn actions_that_a_service_never_has() {
    const OTHERS: &str = "\
trust_domain: shop.example
services:
  orders: {}
  named: {operations: {read: {method: GET, path: /a}}}
  calls: {protocol: http2}
  db: {protocol: tcp}
  away: {protocol: tcp, external: {}}
";
    let found = |policy: &str| found(&[("mesh.yaml", OTHERS), ("acl.cedar", policy)]);
    for (action, services) in [
        (r#"== Action::"http""#, ["calls", "orders"].as_slice()),
        (r#"== Action::"grpc""#, &["calls"]),
        (r#"== Action::"tcp""#, &["away", "db"]),
        (r#"in Action::"tcp""#, &["away", "db"]),
        (r#"in [Action::"http", Action::"grpc"]"#, &["calls", "orders"]),
        (r#"in [Action::"tcp", Action::"grpc"]"#, &["away", "calls", "db"]),
        (r#"== Action::"read""#, &["calls", "orders", "named"]),
        ("", &["away", "calls", "db", "orders"]),
    ] {
        for service in ["away", "calls", "db", "orders"] {
            for resource in ["==", "in"] {
                let policy = format!(
                    "permit (principal, action {action}, resource {resource} Service::\"{service}\");"
                );
                let unmet = found(&policy).contains(&Lint::UnmetAction.name().to_owned());
                assert_eq!(unmet, !services.contains(&service), "{policy}");
            }
        }
    }
    let named = r#"permit (principal, action in Action::"http", resource == Service::"named");"#;
    assert!(!found(named).contains(&Lint::UnmetAction.name().to_owned()));
    let accepted = r#"@allow("unmet-action") permit (principal, action == Action::"tcp", resource == Service::"orders");"#;
    assert!(!found(accepted).contains(&Lint::UnmetAction.name().to_owned()));
}

#[test]
fn groups_without_members() {
    policies(
        Lint::EmptyGroup,
        &[
            r#"permit (principal in Group::"nobody", action, resource);"#,
            r#"permit (principal, action, resource in Group::"nobody");"#,
            r#"permit (principal, action, resource) when { principal in Group::"nobody" };"#,
        ],
        &[
            r#"permit (principal in Group::"all", action, resource);"#,
            r#"permit (principal in Namespace::"bank", action, resource);"#,
            r#"permit (principal, action, resource in Group::"all");"#,
        ],
    );
}

#[test]
fn conditions_that_no_request_meets() {
    conditions(
        Lint::ImpossibleCondition,
        &[
            r#"context.method == "GET" && context.method == "POST""#,
            r#"context.method == "GET" && "GET" != context.method"#,
            r#"context.path like "/a/*" && context.tls && context.path == "/b""#,
            r#"context.path like "/a/*" && context.path like "/b/*""#,
            r#"context.path like "/a/b/*" && !(context.path like "/a/*")"#,
            r#"["GET", "HEAD"].contains(context.method) && context.method == "POST""#,
            r#"["GET", "HEAD"].contains(context.method) && context.method != "GET" && context.method != "HEAD""#,
            r#"context.source_ip.isInRange(ip("10.0.0.0/8")) && context.source_ip.isInRange(ip("192.168.0.0/16"))"#,
            r#"context.source_ip.isInRange(ip("10.1.0.0/16")) && !context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
            r#"context.source_ip == ip("10.0.0.1") && context.source_ip.isInRange(ip("192.168.0.0/16"))"#,
            r#"context.time > datetime("2030-01-01") && context.time < datetime("2029-01-01")"#,
            r#"context.time >= datetime("2030-01-01") && datetime("2030-01-01") > context.time"#,
            r#"context.time.toTime() >= duration("22h") && context.time.toTime() < duration("6h")"#,
            "context.tls && !context.tls",
            "context.tls == true && context.tls == false",
            r#"context.headers has "x" && !(context.headers has "x")"#,
            r#"resource == Service::"payments""#,
            r#"context.tls || (context.method == "GET" && context.method == "POST")"#,
            r#""a" == "b" || context.tls"#,
        ],
        &[
            r#"context.method == "GET" || context.method == "POST""#,
            r#"context.path like "/a/*" && context.path == "/a/b""#,
            r#"context.path like "/a/*" && !(context.path like "/a/b/*")"#,
            r#"context.path like "/a/*" && context.path like "/*/b""#,
            r#"["GET", "HEAD"].contains(context.method) && context.method != "GET""#,
            r#"context.source_ip.isInRange(ip("10.0.0.0/8")) && context.source_ip.isInRange(ip("10.1.0.0/16"))"#,
            r#"context.time >= datetime("2030-01-01") && context.time <= datetime("2030-01-01")"#,
            r#"context.time.toTime() >= duration("22h") || context.time.toTime() < duration("6h")"#,
            r#"context.headers has "x" && !(context.headers has "y")"#,
            r#"context.method == "GET" && context.host == "GET""#,
        ],
    );
}

#[test]
fn scopes_and_unless_are_conditions_too() {
    policies(
        Lint::ImpossibleCondition,
        &[
            r#"permit (principal == Workload::"unauthenticated", action, resource)
               when { principal == Workload::"spiffe://shop.example/ns/shop/sa/orders" };"#,
            r#"permit (principal, action, resource) when { context.tls } unless { context.tls };"#,
            r#"permit (principal, action == Action::"http", resource)
               when { context.method == "GET" } unless { context.tls || context.method == "GET" };"#,
            r#"permit (principal, action, resource) when { resource is Workload };"#,
        ],
        &[
            r#"permit (principal, action, resource) when { context.tls } unless { context.source_ip.isIpv6() };"#,
        ],
    );
}

#[test]
fn conditions_that_every_request_meets() {
    conditions(
        Lint::AlwaysTrue,
        &[
            r#"context.path like "*" && context.tls"#,
            r#"context.path like "/*" && context.tls"#,
            "true",
            r#"context.method != "GET" || context.method != "POST""#,
            "context.tls && (context.tls || !context.tls)",
            "context.path == context.path",
        ],
        &[
            r#"context.path like "/a*" || context.path like "*/b""#,
            r#"context.method != "GET" || context.host != "a""#,
            r#"context.method == "GET" || context.method == "POST""#,
        ],
    );
}

const READERS: &str = r#"@id("readers") permit (principal, action == Action::"http", resource == Service::"orders")
when { context.method == "GET" && context.tls };
"#;

#[test]
fn permits_that_a_forbid_covers() {
    let with = |forbid: &str| format!("{READERS}{forbid}");
    let table = [
        (r#"forbid (principal, action, resource == Service::"orders");"#, true),
        (r#"forbid (principal, action, resource in Namespace::"shop") when { context.tls };"#, true),
        (
            r#"forbid (principal, action in [Action::"http", Action::"grpc"], resource) when { "GET" == context.method };"#,
            true,
        ),
        (r#"forbid (principal, action, resource) unless { !context.tls };"#, true),
        (r#"forbid (principal, action == Action::"grpc", resource);"#, false),
        (r#"forbid (principal, action, resource == Service::"payments");"#, false),
        (r#"forbid (principal, action, resource) when { !context.tls };"#, false),
        (r#"forbid (principal in Namespace::"shop", action, resource);"#, false),
        (r#"@shadow("true") forbid (principal, action, resource);"#, false),
    ];
    for (forbid, covers) in table {
        let expected: &[&str] = if covers { &["covered-by-forbid"] } else { &[] };
        assert_eq!(found(&[("acl.cedar", &with(forbid))]), expected, "{forbid}");
    }
}

#[test]
fn policies_that_others_imply() {
    let table = [
        (
            r#"permit (principal in Namespace::"shop", action == Action::"http", resource == Service::"orders")
            when { context.tls && context.method == "GET" };"#,
            "redundant-policy",
        ),
        (
            r#"permit (principal == Workload::"spiffe://shop.example/ns/shop/sa/orders", action == Action::"http", resource == Service::"orders")
            when { context.method == "GET" } when { context.tls && context.host == "a" };"#,
            "redundant-policy",
        ),
        (
            r#"permit (principal, action in [Action::"http"], resource in Namespace::"shop")
            when { context.tls };"#,
            "redundant-policy",
        ),
        (
            r#"permit (principal, action == Action::"http", resource == Service::"orders")
            when { context.tls } when { "GET" == context.method };"#,
            "duplicate-policy",
        ),
        (
            r#"permit (principal is Workload, action == Action::"http", resource == Service::"orders")
            unless { !context.tls || context.method != "GET" };"#,
            "duplicate-policy",
        ),
        (
            r#"permit (principal, action == Action::"http", resource == Service::"orders")
            when { context.method == "GET" && !context.tls };"#,
            "",
        ),
        (
            r#"forbid (principal, action == Action::"http", resource == Service::"orders")
            when { context.method == "POST" && context.tls };"#,
            "",
        ),
    ];
    for (policy, expected) in table {
        let names = found(&[("acl.cedar", &format!("{READERS}{policy}"))]);
        assert_eq!(names.join(" "), expected, "{policy}");
    }
}

#[test]
fn paths_that_can_be_escaped() {
    conditions(
        Lint::WildcardCrossesSlash,
        &[
            r#"context.path like "/a/*/b""#,
            r#"context.path like "/a/*/b/*""#,
            r#"context.tls && context.path like "/a/*.png""#,
        ],
        &[
            r#"context.path like "/a/*""#,
            r#"context.path like "/a/*/b" && !(context.path like "/a/*/*/b")"#,
            r#"context.tls && !(context.path like "/a/*/b")"#,
            r#"context.host like "a.*.b""#,
        ],
    );
    conditions(
        Lint::UnanchoredPattern,
        &[
            r#"context.path like "/admin*""#,
            r#"context.path like "*/public""#,
            r#"context.path like "*.png""#,
        ],
        &[
            r#"context.path like "/admin/*""#,
            r#"context.path like "/report-*""#,
            r#"context.tls && !(context.path like "/admin*")"#,
            r#"context.host like "*.example""#,
        ],
    );
    // A `forbid` that matches more lets less through; its `unless` lets more through.
    policies(
        Lint::UnanchoredPattern,
        &[
            r#"forbid (principal, action == Action::"http", resource) unless { context.path like "/admin*" };"#,
        ],
        &[r#"forbid (principal, action == Action::"http", resource) when { context.path like "/admin*" };"#],
    );
}

#[test]
fn texts_that_no_request_has() {
    conditions(
        Lint::UnmatchableText,
        &[
            r#"context.path == "orders""#,
            r#"context.path like "orders/*""#,
            r#"context.path == "/a/../b""#,
            r#"context.path like "/a/./*""#,
            r#"context.path == "/a/..""#,
            r#"context.path == "/caf%c3%a9""#,
            r#"context.path == "/café""#,
            r#"context.path == "/%61""#,
            r#"context.path like "/a%2Fb/*""#,
            r#"context.path == "/a%zz""#,
            r#"context.path == "/a?b=c""#,
            r#"context.path == "/a b""#,
            r#"["/a", "/b/../c"].contains(context.path)"#,
            r#"context.host == "Shop.example""#,
            r#"context.host like "*.Example""#,
            r#"context.host == "shop.example:8080""#,
            r#"context.path == """#,
        ],
        &[
            r#"context.path == "*""#,
            r#"context.path == "/a/...""#,
            r#"context.path like "/a/..*""#,
            r#"context.path like "/a/*.." || context.tls"#,
            r#"context.path == "/caf%C3%A9/%25""#,
            r#"context.host == "[::1]""#,
            r#"context.headers has "x" && context.headers["x"] == "a/../B""#,
        ],
    );
    conditions(
        Lint::DoubledSlash,
        &[r#"context.path == "/a//b""#, r#"context.path like "//*""#],
        &[r#"context.path == "/a/b""#],
    );
    conditions(
        Lint::LikeWithoutWildcard,
        &[r#"context.path like "/a""#, r#"context.method like "GET""#],
        &[r#"context.path like "/a/*""#],
    );
}

#[test]
fn names_that_look_like_others() {
    let twice = |one: &str, two: &str| {
        format!(
            "{}\n{}",
            permit(&format!("context.headers has \"{one}\"")),
            permit(&format!("context.headers has \"{two}\" && context.tls"))
        )
    };
    assert_eq!(found(&[("acl.cedar", &twice("x-user", "x_user"))]), ["similar-names"]);
    assert_eq!(found(&[("acl.cedar", &twice("x-user", "x-users"))]), [""; 0]);
    let limits = "limits: [{name: a, key: ['context.headers[\"x_user\"]'], rate: 1/s}]\n";
    let acl = permit(r#"context.headers has "x-user""#);
    assert_eq!(found(&[("acl.cedar", &acl), ("limits.yaml", limits)]), ["similar-names"]);

    policies(
        Lint::ConfusableText,
        &[
            // Cyrillic letters among Latin ones, and a character that turns the direction of writing.
            "@id(\"\u{430}dmins\") permit (principal, action, resource);",
            "@id(\"a\u{202e}b\") permit (principal, action, resource);",
            "permit (principal, action == Action::\"http\", resource) when { context.host == \"sh\u{43e}p\" };",
            "permit (principal, action == Action::\"http\", resource) when { context.headers has \"\u{430}dmin\" };",
        ],
        &["@id(\"администраторы\") permit (principal, action, resource);"],
    );
    let entities =
        "[{\"uid\": {\"type\": \"Group\", \"id\": \"\u{430}dmins\"}, \"attrs\": {}, \"parents\": []}]";
    assert_eq!(found(&[("entities.json", entities)]), ["confusable-text"]);
}

#[test]
fn conditions_of_limits_and_rules_are_looked_at() {
    let limit = |when: &str| format!("limits: [{{name: a, when: '{when}', rate: 1/s}}]\n");
    let table = [
        (r#"context.method == "GET" && context.method == "POST""#, "impossible-condition"),
        (r#"context.path like "a/*""#, "unmatchable-text"),
        (r#"context.path like "/a*""#, ""),
        ("true", ""),
    ];
    for (when, expected) in table {
        assert_eq!(found(&[("limits.yaml", &limit(when))]).join(" "), expected, "{when}");
    }
    assert_eq!(found(&[("limits.yaml", "limits: [{name: a, rate: 1/s}]\n")]), [""; 0]);
    let rules = "handlers: [{name: h, adapter: denier}]\nrules: [{name: r, match: 'context.path == \"a\"', actions: [{handler: h}]}]\n";
    assert_eq!(found(&[("adapters.yaml", rules)]), ["unmatchable-text"]);
}

#[test]
fn findings_are_accepted_by_name() {
    let policy = |allow: &str| {
        format!(
            "{allow} permit (principal, action == Action::\"http\", resource == Service::\"order\") when {{ context.path like \"/a*\" }};"
        )
    };
    let table = [
        ("", "unanchored-pattern unknown-entity"),
        (r#"@allow("unknown-entity")"#, "unanchored-pattern"),
        (r#"@allow("unknown-entity, unanchored-pattern")"#, ""),
        (r#"@allow("unknown-entty")"#, "unanchored-pattern unknown-entity unknown-lint"),
        (r#"@allow("unanchored-pattern,unknown-lint, x, unknown-entity")"#, ""),
    ];
    for (allow, expected) in table {
        assert_eq!(found(&[("acl.cedar", &policy(allow))]).join(" "), expected, "{allow}");
    }
    // What the validator suspects is accepted, too.
    let impossible = r#"@allow("impossible-condition") permit (principal, action, resource) when { resource is Workload };"#;
    assert_eq!(found(&[("acl.cedar", impossible)]), [""; 0]);
}
