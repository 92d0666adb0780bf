//! `tidegate policy test`

use std::fs;
use std::path::Path;

use expect_test::expect;

use super::{bundle, policy, text};

#[test]
fn the_tests_of_bookinfo_pass() {
    let output = policy(&["test"], Path::new("policies/bookinfo"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "16 passed, 0 failed\n");
    let output = policy(&["test", "--filter", "no ratings"], Path::new("policies/bookinfo"));
    assert_eq!(text(&output.stdout), "2 passed, 0 failed\n");
}

#[test]
fn a_failed_test_is_shown_as_a_difference() {
    let tests = "\
tests:
  - name: anyone writes
    request: {service: orders, method: POST}
    expect: {decision: allow, policies: [readers]}
";
    let bundle = bundle(&[("tests/acl.yaml", tests)]);
    let output = policy(&["test"], bundle.path());
    assert_eq!(output.status.code(), Some(1));
    expect![[r#"
        failed: anyone writes
          --> tests/acl.yaml:2
           | request:
           |   service: orders
           |   method: POST
           | expect:
           | - decision: allow
           | + decision: deny
           | - policies: [readers]
           | + policies: []
           = no policy permits this request
           = help: tidegate policy explain policies/a --test 'anyone writes'

        0 passed, 1 failed
    "#]]
    .assert_eq(&text(&output.stdout).replace(bundle.path().to_str().unwrap(), "policies/a"));
    let output = policy(&["test", "--format", "json"], bundle.path());
    assert_eq!(output.status.code(), Some(1));
    expect![[r#"
        {
          "passed": 0,
          "failed": 1,
          "tests": [
            {
              "name": "anyone writes",
              "file": "tests/acl.yaml",
              "line": 2,
              "passed": false,
              "request": {
                "service": "orders",
                "method": "POST"
              },
              "expected": {
                "decision": "allow",
                "policies": [
                  "readers"
                ],
                "limits": null,
                "rules": null
              },
              "got": {
                "decision": "deny",
                "policies": [],
                "limits": [],
                "rules": [],
                "message": "no policy permits this request"
              }
            }
          ]
        }
    "#]]
    .assert_eq(&text(&output.stdout));
}

#[test]
fn tests_that_can_not_run_are_an_error() {
    assert_eq!(policy(&["test"], Path::new("/no/such/folder")).status.code(), Some(2));
    let output = policy(&["test"], bundle(&[]).path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the bundle has no tests"));
    let wrong = "tests:\n  - name: a\n    request: {service: order}\n    expect: {decision: deny}\n";
    let output = policy(&["test"], bundle(&[("tests/a.yaml", wrong)]).path());
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(told.contains("tests/a.yaml:3:24") && told.contains("did you mean `orders`?"), "{told}");
    let output = policy(&["test", "--filter", "zebra"], Path::new("policies/bookinfo"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no test's name holds `zebra`"));
}

/// Bookinfo covers itself; a few of its tests alone do not.
#[test]
fn coverage_tells_what_the_tests_have_seen() {
    let bookinfo = Path::new("policies/bookinfo");
    let output = policy(&["test", "--coverage", "--filter", "reviews read"], bookinfo);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    expect![[r#"
        2 passed, 0 failed

         policy or condition                                                                  place                 true  false  failed
         permit `anyone-may-read-the-page`                                                    acl.cedar:2:1        never
           when { context.method == "GET" || (context.method == "POST" && ["/login", "/lo… }  acl.cedar:10:3       never  never
         permit `the-page-reads-details-and-reviews`                                          acl.cedar:14:1       never
           when { [Service::"details", Service::"reviews"].contains(resource) }               acl.cedar:22:3       never  never
           when { context.method == "GET" }                                                   acl.cedar:23:3       never  never
           when { context.path like "/details/*" || context.path like "/reviews/*" }          acl.cedar:24:4       never  never
         permit `reviews-read-ratings`                                                        acl.cedar:27:1           1
           when { context.method == "GET" }                                                   acl.cedar:33:8           2  never
           when { context.path like "/ratings/*" }                                            acl.cedar:33:35          1      1
         forbid `the-page-reads-no-ratings`                                                   acl.cedar:37:1       never
         rule `blocked`                                                                       adapters.yaml:39:11      2
         rule `count-requests`                                                                adapters.yaml:44:11      2
         limit `api-per-address`                                                              limits.yaml:7:11     never
           when { context.path like "/api/*" }                                                limits.yaml:7:11     never  never
         limit `ratings-per-caller`                                                           limits.yaml:13:11        2

        never satisfied: permit `anyone-may-read-the-page` (acl.cedar:2:1)
        never satisfied: permit `the-page-reads-details-and-reviews` (acl.cedar:14:1)
        never satisfied: forbid `the-page-reads-no-ratings` (acl.cedar:37:1)
        never satisfied: limit `api-per-address` (limits.yaml:7:11)
        coverage 31.8 %: 4 of 8 policies satisfied, 3 of 14 outcomes of conditions seen
    "#]].assert_eq(&text(&output.stdout));

    let output = policy(&["test", "--coverage-min", "100"], bookinfo);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    expect![[r#"
        16 passed, 0 failed

        coverage 100.0 %: 8 of 8 policies satisfied, 14 of 14 outcomes of conditions seen
    "#]]
    .assert_eq(&text(&output.stdout));
    let output = policy(&["test", "--coverage-min", "80", "--filter", "reviews read"], bookinfo);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).ends_with("too little is covered: 80 % are asked for\n"));
}

#[test]
fn coverage_is_for_programs_too() {
    let tests = "tests:\n  - name: a\n    request: {service: orders}\n    expect: {decision: allow}\n";
    let bundle = bundle(&[("tests/a.yaml", tests)]);
    let output = policy(&["test", "--coverage", "--format", "json"], bundle.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    expect![[r#"
        {
          "requests": 1,
          "seen": 2,
          "outcomes": 3,
          "percent": 66.6,
          "policies": [
            {
              "kind": "permit",
              "shadow": false,
              "name": "readers",
              "place": {
                "file": "acl.cedar",
                "line": 1,
                "column": 1,
                "start": 0,
                "end": 124
              },
              "in_scope": 1,
              "satisfied": 1,
              "parts": [
                {
                  "part": "when",
                  "text": "context.method == \"GET\"",
                  "place": {
                    "file": "acl.cedar",
                    "line": 2,
                    "column": 8,
                    "start": 98,
                    "end": 121
                  },
                  "true": 1,
                  "false": 0,
                  "error": 0
                }
              ]
            }
          ]
        }
    "#]]
    .assert_eq(&format!("{:#}\n", json["coverage"]));

    let file = bundle.path().join("coverage");
    let out = file.to_str().unwrap();
    let output = policy(&["test", "--coverage=lcov", "--coverage-out", out], bundle.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let tracefile = fs::read_to_string(&file).unwrap();
    assert!(tracefile.contains(&format!("SF:{}/acl.cedar\nFN:1,permit readers\n", bundle.path().display())));
    let output = policy(&["test", "--coverage=html", "--coverage-out", out], bundle.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.contains(
        r#"<mark class="only-true" title="1× true, never false">context.method == &quot;GET&quot;</mark>"#
    ));

    for wrong in [&["test", "--coverage=html"][..], &["test", "--coverage-min", "101"]] {
        assert_eq!(policy(wrong, bundle.path()).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_example_behind_envoy_is_without_a_finding_and_its_tests_pass() {
    let bundle = Path::new("policies/envoy");
    for command in [["check"].as_slice(), &["test", "--coverage-min", "100"]] {
        let output = policy(command, bundle);
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !told.contains("warning"), "{command:?}: {told}");
    }
}
