use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::super::Bundle;
use super::*;
use crate::engine;

const OPENAPI: &str = "\
openapi: 3.1.0
info: {title: Reviews, version: '1'}
servers:
  - url: https://api.example/v1/
  - url: /beta
paths:
  /reviews/{id}:
    parameters: [{name: id, in: path, required: true, schema: {type: string}}]
    get:
      operationId: getReview
      tags: [reviews.read, Reviews & more]
      responses: {'200': {description: ok}}
    delete:
      operationId: deleteReview
      servers: [{url: https://admin.example}]
  /reviews:
    get: {responses: {}}
";

fn files(texts: &[(&str, &str)]) -> Files {
    let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Files { folder: ".".into(), texts: texts.collect() }
}

fn load(service: &str, texts: &[(&str, &str)]) -> Result<Bundle, Findings> {
    let mesh = format!("trust_domain: shop.example\nservices:\n  other: {{}}\n  reviews:\n{service}");
    Bundle::load(&files(&[texts, &[("mesh.yaml", mesh.as_str())]].concat()))
}

fn wrong(service: &str, texts: &[(&str, &str)], expected: &Expect) {
    let text =
        load(service, texts).map_or_else(|findings| findings.render(false), |_| "no findings".to_owned());
    expected.assert_eq(&text);
}

fn routes(bundle: &Bundle) -> String {
    let routes = bundle.mesh.services["reviews"].operations.operations.routes().iter();
    routes.map(|Route { method, template, operation }| format!("{method} {template} {operation}\n")).collect()
}

const OPERATIONS: &str = "    operations:
      getReview: {method: GET, path: '/reviews/{id}', groups: [reviews.read]}
      listReviews: {method: GET, path: /reviews, groups: [reviews.read, lists]}
      deleteReview: {method: DELETE, path: '/reviews/{id}'}
";

#[test]
fn operations_are_actions_in_http_and_in_their_groups() {
    let acl = r#"
        @id("readers-read") permit (principal, action in Action::"reviews.read", resource == Service::"reviews");
        @id("one-action") permit (principal == Workload::"unauthenticated", action == Action::"deleteReview", resource);
        @id("all-of-http") forbid (principal, action in Action::"http", resource) when { context.host == "closed" };
        @id("none-but-operations") forbid (principal, action in Action::"http", resource == Service::"reviews")
        unless { context has operation };
        @id("by-name") forbid (principal, action, resource == Service::"reviews")
        when { context has operation && context.operation == "listReviews" && context.host == "no-lists" };
    "#;
    let limits =
        "limits: [{name: reads, rate: 1/s, when: 'action in Action::\"reviews.read\"', key: [action]}]";
    let bundle = load(OPERATIONS, &[("acl.cedar", acl), ("limits.yaml", limits)])
        .unwrap_or_else(|findings| panic!("{}", findings.render(false)));
    type Strs = &'static [&'static str];
    let table: &[(&str, &str, &str, Strs, Strs)] = &[
        ("GET", "/reviews/7", "reviews", &["readers-read"], &["reads"]),
        ("HEAD", "/reviews/7", "reviews", &["readers-read"], &["reads"]),
        ("GET", "/reviews", "reviews", &["readers-read"], &["reads"]),
        ("DELETE", "/reviews/7", "reviews", &["one-action"], &[]),
        ("GET", "/reviews/7/replies", "reviews", &["none-but-operations"], &[]),
        ("POST", "/reviews", "reviews", &["none-but-operations"], &[]),
        ("GET", "/reviews/7", "closed", &["all-of-http"], &["reads"]),
        ("GET", "/reviews", "no-lists", &["by-name"], &["reads"]),
        ("GET", "/reviews/7", "no-lists", &["readers-read"], &["reads"]),
    ];
    for (method, path, host, reasons, limits) in table {
        let request = model::Attributes {
            resource: "reviews".into(),
            method: (*method).into(),
            path: (*path).into(),
            host: (*host).into(),
            ..model::Attributes::default()
        };
        let evaluation = engine::evaluate(&bundle, &request).unwrap();
        assert_eq!(evaluation.opinion.reasons, *reasons, "{method} {path} {host}");
        assert_eq!(evaluation.limits, *limits, "{method} {path} {host}");
    }
    // Of another service, and of another kind of exchange, it is no operation.
    let other = model::Attributes {
        resource: "other".into(),
        method: "GET".into(),
        path: "/reviews/7".into(),
        ..model::Attributes::default()
    };
    assert_eq!(bundle.mesh.operation(&other), None);
    let grpc = model::Attributes { resource: "reviews".into(), action: Action::Grpc, ..other };
    assert_eq!(bundle.mesh.operation(&grpc), None);
}

#[test]
fn mistakes_are_told_where_they_stand() {
    wrong(
        "    operations:
      http: {method: GET, path: /a}
      get review: {method: get, path: 'reviews?x'}
      getReview: {method: GET, path: '/reviews/{id}', groups: [tcp, 'a b', listReviews]}
      showReview: {method: GET, path: '/reviews/{review}'}
      listReviews: {method: GET, path: /a/../b}
    openapi: review.yaml
",
        &[("reviews.yaml", OPENAPI)],
        &expect![[r#"
            error: `http` is the action of all such requests
             --> mesh.yaml:6:7
              |
            6 |       http: {method: GET, path: /a}
              |       ^^^^
              |
              = help: choose another name

            error: `get review` can't be the name of an operation or a group
             --> mesh.yaml:7:7
              |
            7 |       get review: {method: get, path: 'reviews?x'}
              |       ^^^^^^^^^^
              |
              = help: use a-z, A-Z, 0-9, `-`, `_`, `.`, `/` and `:`, up to 128 of them

            error: `get` is not an HTTP method
             --> mesh.yaml:7:28
              |
            7 |       get review: {method: get, path: 'reviews?x'}
              |                            ^^^
              |
              = help: write it in capitals, such as `GET`: methods are told apart by case

            error: `reviews?x` is not a path: it does not start with `/`
             --> mesh.yaml:7:39
              |
            7 |       get review: {method: get, path: 'reviews?x'}
              |                                       ^^^^^^^^^^^
              |
              = help: write a path as proxies see it, such as `/reviews/{id}` or `/files/{*path}`

            error: `tcp` is the action of all such requests
             --> mesh.yaml:8:64
              |
            8 |       getReview: {method: GET, path: '/reviews/{id}', groups: [tcp, 'a b', listReviews]}
              |                                                                ^^^
              |
              = help: choose another name

            error: `a b` can't be the name of an operation or a group
             --> mesh.yaml:8:69
              |
            8 |       getReview: {method: GET, path: '/reviews/{id}', groups: [tcp, 'a b', listReviews]}
              |                                                                     ^^^^^
              |
              = help: use a-z, A-Z, 0-9, `-`, `_`, `.`, `/` and `:`, up to 128 of them

            error: `/a/../b` is not a path: proxies resolve `.` and `..` before they compare
              --> mesh.yaml:10:40
               |
            10 |       listReviews: {method: GET, path: /a/../b}
               |                                        ^^^^^^^
               |
               = help: write a path as proxies see it, such as `/reviews/{id}` or `/files/{*path}`

            error: the bundle has no file `review.yaml`
              --> mesh.yaml:11:14
               |
            11 |     openapi: review.yaml
               |              ^^^^^^^^^^^
               |
               = help: did you mean `reviews.yaml`?

        "#]],
    );
}

#[test]
fn operations_that_can_not_be_told_apart_are_told_with_both_places() {
    let operations = "    operations:
      getReview: {method: GET, path: '/reviews/{id}'}
      putReview: {method: PUT, path: '/reviews/{id}'}
      showReview: {method: GET, path: '/reviews/{review}'}
    openapi: more.yaml
";
    let more = "openapi: 3.0.0\npaths:\n  /reviews/{x}:\n    get: {operationId: readReview}\n";
    wrong(
        operations,
        &[("more.yaml", more)],
        &expect![[r#"
        error: `showReview` can't be told apart from `getReview`, which has `GET /reviews/{id}` in mesh.yaml:6
         --> mesh.yaml:8:39
          |
        8 |       showReview: {method: GET, path: '/reviews/{review}'}
          |                                       ^^^^^^^^^^^^^^^^^^^
          |
          = help: give each operation of a method a path of its own

        error: this file is not read: no file of a bundle has this name
        --> more.yaml
         = help: did you mean `mesh.yaml`?

        error: `readReview` can't be told apart from `getReview`, which has `GET /reviews/{id}` in mesh.yaml:6
         --> more.yaml:3:3
          |
        3 |   /reviews/{x}:
          |   ^^^^^^^^^^^^
          |
          = help: give each operation of a method a path of its own

    "#]],
    );
}

#[test]
fn an_openapi_document_says_the_operations() {
    let bundle = load("    openapi: reviews.yaml\n", &[("reviews.yaml", OPENAPI)]).unwrap();
    expect![[r#"
        GET /v1/reviews/{id} getReview
        GET /beta/reviews/{id} getReview
        DELETE /reviews/{id} deleteReview
    "#]]
    .assert_eq(&routes(&bundle));
    assert_eq!(
        bundle.mesh.actions(),
        Actions::from([
            ("deleteReview".into(), BTreeSet::new()),
            ("getReview".into(), BTreeSet::from(["reviews.read".into()])),
        ])
    );
    expect![[r#"
        warning[unusable-tag]: the tag `Reviews & more` can't be the name of a group: it makes none
          --> reviews.yaml:11:28
           |
        11 |       tags: [reviews.read, Reviews & more]
           |                            ^^^^^^^^^^^^^^
           |
           = help: use a-z, A-Z, 0-9, `-`, `_`, `.`, `/` and `:`, if policies shall name it

        warning[unnamed-operation]: `GET /reviews` has no name: no operation is made of it
          --> reviews.yaml:16:3
           |
        16 |   /reviews:
           |   ^^^^^^^^
           |
           = help: give it an `operationId`

    "#]]
    .assert_eq(&bundle.warnings.render(false));
    let json = r#"{"openapi": "3.0.3", "paths": {"/a": {"get": {"operationId": "a", "x-more": [1]}}}}"#;
    let bundle = load("    openapi: reviews.json\n", &[("reviews.json", json)]).unwrap();
    assert_eq!(routes(&bundle), "GET /a a\n");
}

#[test]
fn what_is_no_openapi_document_is_refused() {
    let refused =
        |text: &str, expected: &Expect| wrong("    openapi: r.yaml\n", &[("r.yaml", text)], expected);
    refused(
        "swagger: '2.0'\npaths: {}\n",
        &expect![[r#"
            error: `r.yaml` is no OpenAPI document: it does not begin with `openapi: 3.…`
            --> r.yaml
             = help: write it as OpenAPI 3.0 or 3.1

        "#]],
    );
    refused(
        "openapi: 4.0.0\n",
        &expect![[r#"
            error: this is OpenAPI 4.0.0
             --> r.yaml:1:10
              |
            1 | openapi: 4.0.0
              |          ^^^^^
              |
              = help: write it as OpenAPI 3.0 or 3.1

        "#]],
    );
    refused(
        "openapi: 3.0.0\nservers: [{url: 'https://{region}.example/{base}'}, {url: v1}]\npaths:\n  /a: {$ref: other.yaml}\n  /b/{x}.json:\n    get: {operationId: b}\n",
        &expect![[r#"
            error: `https://{region}.example/{base}` does not say which path requests begin with
             --> r.yaml:2:17
              |
            2 | servers: [{url: 'https://{region}.example/{base}'}, {url: v1}]
              |                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
              |
              = help: write the path of the server, such as `/v1`

            error: `v1` does not say which path requests begin with
             --> r.yaml:2:59
              |
            2 | servers: [{url: 'https://{region}.example/{base}'}, {url: v1}]
              |                                                           ^^
              |
              = help: write the path of the server, such as `/v1`

            error: `/a` refers to another place, which is not read
             --> r.yaml:4:14
              |
            4 |   /a: {$ref: other.yaml}
              |              ^^^^^^^^^^
              |
              = help: write its operations here

        "#]],
    );
}

#[test]
fn there_are_not_too_many() {
    let many: String =
        (0..=ROUTES_MAX).map(|n| format!("      o{n}: {{method: GET, path: /{n}}}\n")).collect();
    let findings = load(&format!("    operations:\n{many}"), &[]).unwrap_err();
    assert_eq!(
        findings.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>(),
        ["a service has at most 2000 operations"]
    );
}

#[test]
fn many_operations_that_no_policy_names_cost_no_validation_and_are_actions_all_the_same() {
    let many: String = (0..500)
        .map(|n| format!("      o{n}: {{method: GET, path: /{n}, groups: [g{}]}}\n", n % 2))
        .collect();
    let acl = r#"permit (principal, action in Action::"g1", resource) unless { action == Action::"o3" };"#;
    let bundle = load(&format!("    operations:\n{many}"), &[("acl.cedar", acl)]).unwrap();
    let envs = |schema: &cedar_policy::Schema| schema.actions().count();
    // http, grpc, tcp; o3, and one for each list of named groups; the groups of these.
    assert_eq!(envs(&bundle.schemas.request), 3 + 3 + 2);
    assert_eq!(envs(&bundle.schemas.entities), 3 + 500 + 2);
    let decided: BTreeMap<u32, bool> = (0..6)
        .map(|n| {
            let request = model::Attributes {
                resource: "reviews".into(),
                method: "GET".into(),
                path: format!("/{n}"),
                ..model::Attributes::default()
            };
            (n, engine::evaluate(&bundle, &request).unwrap().opinion.verdict == model::Verdict::Allow)
        })
        .collect();
    assert_eq!(
        decided,
        BTreeMap::from([(0, false), (1, true), (2, false), (3, false), (4, false), (5, true)])
    );
}

#[test]
fn a_group_is_no_operation_and_an_authors_action_neither() {
    let operations =
        "    operations:\n      a: {method: GET, path: /a, groups: [b]}\n      b: {method: GET, path: /b}\n";
    wrong(
        operations,
        &[],
        &expect![[r#"
        error: `b` of `reviews` is a group, and an operation too
         --> mesh.yaml:4:3
          |
        4 |   reviews:
          |   ^^^^^^^
          |
          = help: give one of them another name

    "#]],
    );
    let schema = "action getReview appliesTo { principal: Workload, resource: Service };";
    wrong(
        OPERATIONS,
        &[("schema.cedarschema", schema)],
        &expect![[r#"
        error: `getReview` is declared by mesh.yaml, as an operation
         --> schema.cedarschema:1:1
          |
        1 | action getReview appliesTo { principal: Workload, resource: Service };
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: leave it out

    "#]],
    );
    // But it may say what groups are in.
    let schema = "action \"all.read\"; action \"reviews.read\" in [\"all.read\"];";
    let acl = r#"permit (principal, action in Action::"all.read", resource);"#;
    let bundle = load(OPERATIONS, &[("schema.cedarschema", schema), ("acl.cedar", acl)])
        .unwrap_or_else(|findings| panic!("{}", findings.render(false)));
    let request = model::Attributes {
        resource: "reviews".into(),
        method: "GET".into(),
        path: "/reviews".into(),
        ..model::Attributes::default()
    };
    assert_eq!(engine::evaluate(&bundle, &request).unwrap().opinion.verdict, model::Verdict::Allow);
}
