//! `tidegate policy diff`

use std::fs;

use expect_test::expect;

use super::{ACL, bundle, text};
use crate::run::{cvc5, run, shell};

const LINE: &str = r#"{"ts":"2026-01-01T12:00:00Z","request_id":"a","instance":"orders-v1","service":"orders","principal":"unauthenticated","action":"http","verdict":"allow","enforced":true,"source":"miss","reasons":["readers"],"limits":[],"rules":[],"revision":"5e.3","input":{"method":"GET","path":"/","host":"orders","source_ip":"127.0.0.1","tls":false}}"#;

#[test]
fn an_edit_is_told_with_what_it_does() {
    let old = bundle(&[]);
    let edited = ACL.replace("context.method == \"GET\"", "[\"GET\", \"HEAD\"].contains(context.method)");
    let new = bundle(&[("acl.cedar", &edited)]);
    let [old, new] = [&old, &new].map(|folder| folder.path().to_str().unwrap());
    let output = run(&["policy", "diff", old, new]);
    assert_eq!(output.status.code(), Some(1));
    expect![[r#"
        changed: policy `readers`
          @@ -5,3 +5,3 @@
             resource == Service::"orders"
           )
          -when { context.method == "GET" };
          +when { ["GET", "HEAD"].contains(context.method) };

        `orders`: deny becomes allow, for 4 requests
          old: no policy permits this request
          new: permitted by `readers`
          an example, as a test of the new bundle:
            - name: "HEAD / of orders"
              request: {principal: spiffe://a.example/ns/shop/sa/orders, service: orders, method: HEAD}
              expect: {decision: allow, policies: [readers], limits: [], rules: []}

        4 of 12 requests differ
        these show every outcome of all conditions, for every caller that policies may know
        symbolic: not done: cvc5 was not found: no `no/such/solver`; Debian has it in the package `cvc5`, and it can be fetched from https://github.com/cvc5/cvc5/releases; $CVC5 or --solver names another place
    "#]]
    .assert_eq(&text(&output.stdout));
    assert_eq!(run(&["policy", "diff", old, old]).status.code(), Some(0));
    assert_eq!(run(&["policy", "diff", old, "no/such/bundle"]).status.code(), Some(2));
}

#[test]
fn both_bundles_decide_on_the_requests_of_logs_too() {
    let old = bundle(&[("log.jsonl", LINE)]);
    let new = bundle(&[("acl.cedar", &ACL.replace("GET", "PUT"))]);
    let log = old.path().join("log.jsonl");
    fs::rename(&log, new.path().join("kept.jsonl")).unwrap();
    let log = new.path().join("kept.jsonl");
    let [old, new, log] = [old.path(), new.path(), &log].map(|path| path.to_str().unwrap());
    let output = run(&["policy", "diff", old, new, "--log", log, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["logs"]["replayed"], 1, "{shown}");
    assert_eq!(shown["logs"]["changed"], 1, "{shown}");
    assert_eq!(shown["edits"][0]["name"], "readers", "{shown}");
    assert_eq!(shown["decisions"]["exhaustive"], true, "{shown}");
    assert_eq!(shown["symbolic"]["result"], "not done", "{shown}");
}

#[test]
fn what_the_solver_finds_is_a_difference_that_can_be_explained() {
    let Some(cvc5) = cvc5("what_the_solver_finds_is_a_difference_that_can_be_explained") else { return };
    // No sample of requests has two headers that are alike, and such a path.
    let corner = "context.method == \"GET\" || (context.headers has \"a\" && context.headers has \"b\" && context.headers[\"a\"] == context.headers[\"b\"] && context.headers[\"a\"] like \"x*yz*w\")";
    let old = bundle(&[]);
    let new = bundle(&[("acl.cedar", &ACL.replace("context.method == \"GET\"", corner))]);
    let [old, new, cvc5] = [old.path(), new.path(), &cvc5].map(|path| path.to_str().unwrap());
    let output = run(&["policy", "diff", old, new, "--solver", cvc5, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["symbolic"]["result"], "differs", "{shown}");
    let output = run(&["policy", "diff", old, new, "--solver", cvc5]);
    let told = text(&output.stdout);
    let line = told.lines().find_map(|line| line.split_once("tidegate policy explain BUNDLE ")).unwrap().1;
    for (bundle, code) in [(old, 1), (new, 0)] {
        let explained =
            shell(&format!("{} policy explain {bundle} {line}; echo $?", env!("CARGO_BIN_EXE_tidegate")));
        assert_eq!(explained.lines().last(), Some(&*code.to_string()), "{told}{explained}");
    }
    let same = run(&["policy", "diff", old, old, "--solver", cvc5]);
    assert_eq!(same.status.code(), Some(0));
    assert!(
        text(&same.stdout).ends_with("symbolic: equivalent in all 3 environments\n"),
        "{}",
        text(&same.stdout)
    );
}
