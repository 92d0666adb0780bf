//! `tidegate policy explain`

use std::path::Path;

use expect_test::expect;

use super::{bundle, policy, text};

#[test]
fn a_denial_is_explained() {
    let bundle = Path::new("policies/bookinfo");
    let output = policy(&["explain", "--service", "ratings", "--path", "/ratings/0"], bundle);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    expect![[r#"
        deny: no policy permits this request

        forbid: `the-page-reads-no-ratings` is not satisfied
          --> acl.cedar:39:3
           |
        39 |   principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/productpage",
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"

        permit: `reviews-read-ratings` is not satisfied
          --> acl.cedar:29:3
           |
        29 |   principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/reviews",
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"

        permit: `the-page-reads-details-and-reviews` is not satisfied
          --> acl.cedar:16:3
           |
        16 |   principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/productpage",
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"
        ...
        22 |   [Service::"details", Service::"reviews"].contains(resource) &&
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: resource = "ratings"
        23 |   context.method == "GET" &&
        24 |   (context.path like "/details/*" || context.path like "/reviews/*")
           |    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.path = "/ratings/0"

        1 other policy is for other services

        to be allowed:
          - principal would have to be Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/reviews" (is "unauthenticated"), for `reviews-read-ratings` at acl.cedar:29:3
            verified: allowed with principal: spiffe://bookinfo.example/ns/bookinfo/sa/reviews, tls: true

        limits charged: none
        rules that match: blocked, count-requests
    "#]].assert_eq(&text(&output.stdout));
}

#[test]
fn an_explanation_is_for_programs_too() {
    let request = "principal: spiffe://a.example/ns/shop/sa/cart\nservice: orders\nheaders: {x-user: anna}\n";
    let bundle = bundle(&[("tests/request", request)]);
    let file = bundle.path().join("tests/request");
    let file = file.to_str().unwrap();
    let output = policy(&["explain", "--request", file, "--format", "json"], bundle.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    expect![[r#"
        {
          "decision": "allow",
          "message": "permitted by `readers`",
          "policies": [
            "readers"
          ],
          "limits": [],
          "rules": [],
          "shadow": null,
          "explained": [
            {
              "id": "readers",
              "effect": "permit",
              "shadow": false,
              "place": {
                "file": "acl.cedar",
                "line": 1,
                "column": 1,
                "start": 0,
                "end": 124
              },
              "satisfied": true,
              "unmet": []
            }
          ],
          "others": 0,
          "changes": [
            {
              "wants": [
                {
                  "subject": "context.method",
                  "wanted": "be other than \"GET\"",
                  "is": "\"GET\"",
                  "policy": "readers",
                  "place": {
                    "file": "acl.cedar",
                    "line": 2,
                    "column": 8,
                    "start": 98,
                    "end": 121
                  }
                }
              ],
              "verified": true,
              "request": {
                "principal": "spiffe://a.example/ns/shop/sa/cart",
                "service": "orders",
                "method": "HEAD",
                "headers": {
                  "x-user": "anna"
                }
              }
            }
          ]
        }
    "#]]
    .assert_eq(&text(&output.stdout));
}

#[test]
fn a_request_that_can_not_be_is_an_error() {
    let bundle = Path::new("policies/bookinfo");
    let output = policy(&["explain", "--service", "rating", "--path", "x", "--header", "A=b"], bundle);
    assert_eq!(output.status.code(), Some(2));
    expect![[r#"
        error: there is no service `rating`
          help: did you mean `ratings`?
        error: `x` is not a path
          help: a path starts with `/`
        error: there is never a header `A`: policies see names in lower case
          help: write `a`
    "#]]
    .assert_eq(&text(&output.stderr));
    let output = policy(&["explain"], bundle);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--request <FILE>"), "{}", text(&output.stderr));
    let output = policy(&["explain", "--service", "ratings", "--request", "a.yaml"], bundle);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_request_of_a_test_is_explained() {
    let bookinfo = Path::new("policies/bookinfo");
    let output = policy(&["explain", "--test", "the page writes no reviews"], bookinfo);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("false: context.method = \"POST\""), "{}", text(&output.stdout));
    let output = policy(&["explain", "--test", "the page writes reviews"], bookinfo);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: there is no test `the page writes reviews`: did you mean `the page writes no reviews`?\n"
    );
    let output = policy(&["explain", "--test", "a", "--service", "ratings"], bookinfo);
    assert_eq!(output.status.code(), Some(2));
}
