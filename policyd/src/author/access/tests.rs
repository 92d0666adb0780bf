use proptest::prelude::*;

use super::*;
use crate::author::written;

const MESH: &str =
    "trust_domain: a.example\nservices: {orders: {namespace: shop}, cart: {namespace: shop}}\n";

/// The same, with operations of `orders`.
const OPERATIONS: &str = "
trust_domain: a.example
services:
  orders:
    namespace: shop
    operations:
      getOrder: {method: GET, path: '/orders/{id}', groups: [orders.read]}
      listOrders: {method: GET, path: /orders, groups: [orders.read]}
      putOrder: {method: PUT, path: '/orders/{id}'}
  cart: {namespace: shop}
";

fn loaded(acl: &str) -> (Bundle, Files) {
    loaded_in(MESH, acl)
}

fn loaded_in(mesh: &str, acl: &str) -> (Bundle, Files) {
    let files = written::files(&[("mesh.yaml", mesh), ("acl.cedar", acl)]);
    (written::load(&files), files)
}

/// The answers for `orders`: of each caller in words.
fn answers(acl: &str) -> String {
    answers_in(MESH, acl)
}

fn answers_in(mesh: &str, acl: &str) -> String {
    let (bundle, files) = loaded_in(mesh, acl);
    let asked = Asked { caller: None, service: Some("orders".into()) };
    let matrix = matrix(&bundle, &files, &asked, Action::Http, &|_| ()).unwrap();
    let answer = |(caller, mut cells): (&Caller, _)| {
        let cells: &mut dyn Iterator<Item = (&str, &Cell)> = &mut cells;
        let (_, cell) = cells.next().unwrap();
        format!("{}: {}", caller.name, matrix.word(cell))
    };
    let rows = matrix.rows().map(|(caller, cells)| answer((caller, cells)));
    rows.collect::<Vec<_>>().join(", ")
}

#[test]
fn answers_are_right() {
    let orders = r#"action == Action::"http", resource == Service::"orders""#;
    let table = [
        (
            String::new(),
            "cart: never, orders: never, unauthenticated: never, others: never, others in shop: never",
        ),
        (
            format!("permit (principal, {orders});"),
            "cart: always, orders: always, unauthenticated: always, others: always, others in shop: always",
        ),
        (
            format!(
                r#"permit (principal in Namespace::"shop", {orders}) when {{ context.method == "GET" }};"#
            ),
            "cart: conditionally, orders: conditionally, unauthenticated: never, others: never, others in shop: conditionally",
        ),
        // All methods together are all there are: it takes every value that conditions tell apart to see that.
        (
            format!(
                r#"permit (principal, {orders}) when {{ context.method == "GET" }};
                   permit (principal, {orders}) unless {{ context.method == "GET" }};"#
            ),
            "cart: always, orders: always, unauthenticated: always, others: always, others in shop: always",
        ),
        // Who has an identity comes by mutual TLS, and who has none in the clear.
        (
            format!(
                "permit (principal, {orders}); forbid (principal, action, resource) unless {{ context.tls }};"
            ),
            "cart: always, orders: always, unauthenticated: never, others: always, others in shop: always",
        ),
        (
            format!(
                r#"permit (principal, {orders}); forbid (principal == Workload::"spiffe://a.example/ns/shop/sa/cart", action, resource);"#
            ),
            "cart: never, orders: always, unauthenticated: always, others: always, others in shop: always",
        ),
        (
            r#"permit (principal, action == Action::"grpc", resource);"#.to_owned(),
            "cart: never, orders: never, unauthenticated: never, others: never, others in shop: never",
        ),
        // Strangers differ in what is read of them here: nothing is sure of those that nobody named.
        (
            format!(r#"permit (principal, {orders}) when {{ principal.service_account like "c*" }};"#),
            "cart: always, orders: never, unauthenticated: never, others: conditionally?, others in shop: conditionally?",
        ),
        // A condition that compares two facts is no atom: nothing is sure unless both outcomes are seen.
        (
            format!("permit (principal, {orders}) when {{ context.path == context.path }};"),
            "cart: conditionally?, orders: conditionally?, unauthenticated: conditionally?, others: conditionally?, others in shop: conditionally?",
        ),
    ];
    for (acl, expected) in table {
        assert_eq!(answers(&acl), expected, "{acl}");
    }
}

#[test]
fn operations_are_conditions_too() {
    let everyone = |may: &str| {
        let callers = ["cart", "orders", "unauthenticated", "others", "others in shop"];
        callers.map(|caller| format!("{caller}: {may}")).join(", ")
    };
    let permit = |action: &str| format!("permit (principal, action {action}, resource);\n");
    let (all, read) = (permit(r#"in Action::"http""#), permit(r#"in Action::"orders.read""#));
    let get = permit(r#"== Action::"getOrder""#);
    for (acl, may) in [
        (get.clone(), "conditionally"),
        (read.clone(), "conditionally"),
        // A path that no operation has is no operation.
        (format!("{read}{}", permit(r#"== Action::"putOrder""#)), "conditionally"),
        (all.clone(), "always"),
        (format!(r#"{all}forbid (principal, action == Action::"putOrder", resource);"#), "conditionally"),
        (format!(r#"{get}forbid (principal, action in Action::"orders.read", resource);"#), "never"),
        (format!(r#"{read}forbid (principal, action, resource) when {{ context has operation }};"#), "never"),
        (
            format!(r#"{all}forbid (principal, action, resource) unless {{ context has operation }};"#),
            "conditionally",
        ),
        // Operations are those of their service.
        (permit(r#"== Action::"http""#).replace("resource)", r#"resource == Service::"cart")"#), "never"),
    ] {
        assert_eq!(answers_in(OPERATIONS, &acl), everyone(may), "{acl}");
    }
}

#[test]
fn one_request_is_for_its_operation() {
    let (bundle, files) =
        loaded_in(OPERATIONS, r#"permit (principal, action in Action::"orders.read", resource);"#);
    for (method, path, may) in [
        ("GET", "/orders/1", May::Always),
        ("HEAD", "/orders", May::Always),
        ("PUT", "/orders/1", May::Never),
        ("GET", "/orders/1/x", May::Never),
    ] {
        let request = |principal: &Principal, service: &str| {
            Ok::<_, Findings>(Attributes {
                principal: principal.clone(),
                resource: service.to_owned(),
                method: method.to_owned(),
                path: path.to_owned(),
                ..Attributes::default()
            })
        };
        // What a caller may call: the other service has no such operation.
        let asked = Asked { caller: Some(Principal::Unauthenticated), service: None };
        let matrix = of_request(&bundle, &files, &asked, request).unwrap();
        assert_eq!(matrix.services, ["cart", "orders"]);
        assert_eq!(matrix.cells.iter().map(|cell| cell.may).collect::<Vec<_>>(), [May::Never, may], "{path}");
    }
}

#[test]
fn what_it_depends_on_is_told() {
    let (bundle, files) = loaded(
        r#"@id("readers") permit (principal, action == Action::"http", resource == Service::"orders")
           when { context.method == "GET" && context.path like "/orders/*" };
           @id("not-all") forbid (principal, action == Action::"http", resource) when { context.path == "/orders/0" };"#,
    );
    let asked = Asked { caller: Some(Principal::Unauthenticated), service: Some("orders".into()) };
    let matrix = matrix(&bundle, &files, &asked, Action::Http, &|_| ()).unwrap();
    assert_eq!(
        details(&matrix),
        "\nunauthenticated -> orders\n  permit `readers`  (acl.cedar:1)\n    when { context.method == \"GET\" && context.path like \"/orders/*\" }\n  forbid `not-all`  (acl.cedar:3)\n    when { context.path == \"/orders/0\" }\n"
    );
    assert!(!matrix.is_closed());
}

#[test]
fn progress_ends_when_all_cells_are_done() {
    let (bundle, files) = loaded("permit (principal, action, resource);");
    let told = std::cell::RefCell::new(Vec::new());
    let matrix = matrix(&bundle, &files, &Asked::default(), Action::Http, &|progress| {
        told.borrow_mut().push(progress);
    });
    let cells = matrix.unwrap().cells.len();
    assert_eq!(cells, 10);
    let expected = [vec![Progress::Cells(cells)], vec![Progress::Done; cells]].concat();
    assert_eq!(told.into_inner(), expected);
}

#[test]
fn one_request_has_one_answer() {
    let (bundle, files) = loaded(
        r#"@id("readers") permit (principal, action == Action::"http", resource == Service::"orders")
           when { context.method == "GET" };"#,
    );
    for (method, may) in [("GET", May::Always), ("PUT", May::Never)] {
        let request = |principal: &Principal, service: &str| {
            Ok::<_, Findings>(Attributes {
                principal: principal.clone(),
                resource: service.to_owned(),
                method: method.to_owned(),
                ..Attributes::default()
            })
        };
        let asked = Asked { caller: Some(Principal::Unauthenticated), service: Some("orders".into()) };
        let matrix = of_request(&bundle, &files, &asked, request).unwrap();
        assert_eq!(matrix.cells.iter().map(|cell| cell.may).collect::<Vec<_>>(), [may]);
        assert_eq!(matrix.is_closed(), may == May::Never);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `always` and `never` hold for requests of any kind, whatever the policies are.
    #[test]
    fn no_request_disproves_an_answer(
        policies in prop::collection::vec((any::<bool>(), 0usize..4, prop::collection::vec((0usize..8, any::<bool>()), 0..3)), 1..5),
        requests in prop::collection::vec(("GET|PUT|X", "/|/a|/a/b|/b", prop::option::of("x|y"), any::<bool>()), 8),
    ) {
        let scopes = ["principal", "principal in Namespace::\"shop\"", "principal == Workload::\"unauthenticated\"",
            "principal == Workload::\"spiffe://a.example/ns/shop/sa/cart\""];
        let tests = ["context.method == \"GET\"", "context.path like \"/a/*\"", "context.path == \"/a\"", "context.tls",
            "context.headers has \"h\"", "(context.headers has \"h\" && context.headers[\"h\"] == \"x\")",
            "[\"GET\", \"PUT\"].contains(context.method)", "context.host == context.method"];
        let acl: String = policies.iter().map(|(permit, scope, parts)| {
            let effect = if *permit { "permit" } else { "forbid" };
            let parts = parts.iter().map(|(test, holds)| format!("{}({})", if *holds { "" } else { "!" }, tests[*test]));
            let when = parts.collect::<Vec<_>>().join(" && ");
            let when = if when.is_empty() { String::new() } else { format!(" when {{ {when} }}") };
            format!("{effect} ({}, action == Action::\"http\", resource){when};\n", scopes[*scope])
        }).collect();
        let (bundle, files) = loaded(&acl);
        let matrix = matrix(&bundle, &files, &Asked::default(), Action::Http, &|_| ()).unwrap();
        for (caller, cells) in matrix.rows() {
            for (service, cell) in cells {
                for (method, path, header, same) in &requests {
                    let request = Attributes {
                        principal: caller.principal.clone(),
                        resource: service.to_owned(),
                        method: method.clone(),
                        path: path.clone(),
                        host: if *same { method.clone() } else { service.to_owned() },
                        headers: header.iter().map(|value| ("h".to_owned(), value.clone())).collect(),
                        tls: caller.principal != Principal::Unauthenticated,
                        ..Attributes::default()
                    };
                    let opinion = engine::evaluate(&bundle, &request).unwrap().opinion;
                    let allowed = opinion.verdict == Verdict::Allow && !opinion.degraded;
                    match cell.may {
                        May::Always => prop_assert!(allowed, "{}: {:?}\n{}", caller.name, request, acl),
                        May::Never => prop_assert!(!allowed, "{}: {:?}\n{}", caller.name, request, acl),
                        May::Conditionally => {}
                    }
                }
            }
        }
    }
}
