use expect_test::expect;

use super::*;
use crate::author::unit_test;
use crate::author::written::{bookinfo, load};

/// Bookinfo with these texts replaced.
fn edited(edits: &[(&str, &str, &str)]) -> Files {
    let mut files = bookinfo();
    for (file, from, to) in edits {
        let text = files.texts.get_mut(*file).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        *text = text.replace(from, to);
    }
    files
}

fn difference(old: &Files, new: &Files) -> Difference {
    let (old_bundle, new_bundle) = (load(old), load(new));
    diff(Side { bundle: &old_bundle, files: old }, Side { bundle: &new_bundle, files: new }, &|_| {})
}

#[test]
fn what_is_the_same_is_no_difference() {
    let old = bookinfo();
    // Comments, forms, and which file a policy stands in do not count.
    let mut new = edited(&[
        ("limits.yaml", "# Rate limits.", "# The rates."),
        ("acl.cedar", "  principal,\n", "principal,"),
    ]);
    let acl = new.texts.remove("acl.cedar").unwrap();
    new.texts.insert("other.cedar".to_owned(), acl);
    let difference = difference(&old, &new);
    assert!(difference.is_empty(), "{}", text(&difference));
    expect![[r#"
        0 of 329 requests differ
        these show every outcome of all conditions, for every caller that policies may know
    "#]]
    .assert_eq(&text(&difference));
}

#[test]
fn texts_are_compared_by_name_and_decisions_by_requests() {
    let old = bookinfo();
    let new = edited(&[
        ("acl.cedar", "context.path like \"/ratings/*\"", "context.path like \"/ratings*\""),
        (
            "acl.cedar",
            "@id(\"the-page-reads-no-ratings\")\nforbid",
            "@id(\"the-page-reads-nothing\")\nforbid",
        ),
        ("limits.yaml", "rate: 10 per 10s", "rate: 20 per 10s"),
        ("limits.yaml", "service: ratings\n", "service: ratings\n    when: context.method == \"GET\"\n"),
        ("mesh.yaml", "certificate_ttl: 1h", "certificate_ttl: 2h"),
    ]);
    let difference = difference(&old, &new);
    expect![[r#"
        changed: limits.yaml: limits `api-per-address`
          @@ -6,5 +6,5 @@
               "context.source_ip"
             ],
          -  "rate": "10 per 10s",
          +  "rate": "20 per 10s",
             "mode": "local"
           }
        changed: limits.yaml: limits `ratings-per-caller`
          @@ -2,4 +2,5 @@
             "name": "ratings-per-caller",
             "service": "ratings",
          +  "when": "context.method == \"GET\"",
             "key": [
               "principal"
        changed: mesh.yaml `certificate_ttl`
          @@ -1 +1 @@
          -"1h"
          +"2h"
        changed: policy `reviews-read-ratings`
          @@ -5,3 +5,3 @@
             resource == Service::"ratings"
           )
          -when { context.method == "GET" && context.path like "/ratings/*" };
          +when { context.method == "GET" && context.path like "/ratings*" };
        removed: policy `the-page-reads-no-ratings`
        added: policy `the-page-reads-nothing`

        `ratings`: deny becomes allow, for 1 request
          old: no policy permits this request; rules `blocked`, `count-requests`
          new: permitted by `reviews-read-ratings`; limits `ratings-per-caller`; rules `blocked`, `count-requests`
          an example, as a test of the new bundle:
            - name: "GET /ratingsx of ratings"
              request: {principal: spiffe://bookinfo.example/ns/bookinfo/sa/reviews, service: ratings, path: /ratingsx}
              expect: {decision: allow, policies: [reviews-read-ratings], limits: [ratings-per-caller], rules: [blocked, count-requests]}

        `ratings`: deny as before, but otherwise, for 20 requests
          old: forbidden by `the-page-reads-no-ratings`; rules `blocked`, `count-requests`
          new: forbidden by `the-page-reads-nothing`; rules `blocked`, `count-requests`
          an example, as a test of the new bundle:
            - name: "GET / of ratings"
              request: {principal: spiffe://bookinfo.example/ns/bookinfo/sa/productpage, service: ratings}
              expect: {decision: deny, policies: [the-page-reads-nothing], limits: [], rules: [blocked, count-requests]}

        `ratings`: deny as before, but otherwise, for 1 request
          old: forbidden by `the-page-reads-no-ratings`
          new: forbidden by `the-page-reads-nothing`
          an example, as a test of the new bundle:
            - name: "GET / of ratings"
              request: {principal: spiffe://bookinfo.example/ns/bookinfo/sa/productpage, action: tcp, service: ratings}
              expect: {decision: deny, policies: [the-page-reads-nothing], limits: [], rules: []}

        22 of 357 requests differ
        these show every outcome of all conditions, for every caller that policies may know
    "#]].assert_eq(&text(&difference));
    let json = json(&difference);
    assert_eq!(json["decisions"]["exhaustive"], true);
    assert_eq!(json["edits"].as_array().unwrap().len(), difference.edits.len());
}

#[test]
fn an_example_is_a_test_that_the_new_bundle_passes_and_the_old_one_fails() {
    let old = bookinfo();
    let new = edited(&[("acl.cedar", "[\"/login\", \"/logout\"]", "[\"/login\"]")]);
    let difference = difference(&old, &new);
    assert!(!difference.decisions.changes.is_empty());
    for change in &difference.decisions.changes {
        let test = unit_test::test_text("it", &change.example, &change.new);
        let file = format!("tests:\n{test}");
        let passes = |files: &Files| {
            let bundle = load(files);
            let tests =
                unit_test::parse(&[("tests/a.yaml".to_owned(), file.clone())].into(), &bundle).unwrap();
            unit_test::run(&bundle, tests).iter().all(unit_test::Outcome::passed)
        };
        assert!(passes(&new) && !passes(&old), "{test}");
    }
}

#[test]
fn a_service_that_comes_or_goes_is_compared_too() {
    let old = bookinfo();
    let new = edited(&[(
        "mesh.yaml",
        "  ratings:\n    namespace: bookinfo\n",
        "  shipping: {namespace: bookinfo, instances: [{endpoint: '127.0.0.1:9'}]}\n  ratings:\n    namespace: bookinfo\n",
    )]);
    let there = difference(&old, &new);
    let names: Vec<&str> = there.edits.iter().map(|edit| edit.name.as_str()).collect();
    assert_eq!(names, ["shipping"]);
    let back = difference(&new, &old);
    assert_eq!(back.edits.first().map(|edit| &edit.edit), Some(&Edit::Removed));
    assert_eq!(there.decisions.changes.len(), back.decisions.changes.len());
}

#[test]
fn operations_are_told_apart() {
    let operations = |path: &str| {
        edited(&[
            (
                "mesh.yaml",
                "  ratings:\n    namespace: bookinfo\n",
                &format!(
                    "  ratings:\n    operations: {{getRatings: {{method: GET, path: '{path}'}}}}\n    namespace: bookinfo\n"
                ),
            ),
            ("acl.cedar", "Action::\"http\"", "Action::\"getRatings\""),
        ])
    };
    let files = |path: &str| {
        let mut files = operations(path);
        let acl = "permit (principal, action == Action::\"getRatings\", resource);";
        files.texts.insert("acl.cedar".to_owned(), acl.to_owned());
        files
    };
    let difference = difference(&files("/ratings/{id}"), &files("/ratings/{id}/stars"));
    let paths: Vec<&str> =
        difference.decisions.changes.iter().map(|change| change.example.path.as_str()).collect();
    assert_eq!(paths, ["/ratings/x", "/ratings/x/stars"], "{}", text(&difference));
}
