use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;
use crate::author::written;

fn bundle() -> Bundle {
    written::load(&written::bookinfo())
}

fn parse(text: &str) -> Result<Vec<UnitTest>, daemon::Findings> {
    read::parse(&BTreeMap::from([("tests/a.yaml".to_owned(), text.to_owned())]), &bundle())
}

fn wrong(text: &str, expected: &Expect) {
    expected.assert_eq(&parse(text).unwrap_err().render(false));
}

#[test]
fn the_tests_of_bookinfo_pass_and_name_every_policy_and_limit() {
    let bundle = bundle();
    let tests = load(&bundle).unwrap();
    let named = |pick: fn(&Expected) -> &Option<BTreeSet<String>>| -> BTreeSet<String> {
        tests.iter().filter_map(|test| pick(&test.expected).clone()).flatten().collect()
    };
    let policies: BTreeSet<String> =
        bundle.policies.policies().map(|policy| policy.id().to_string()).collect();
    let limits: BTreeSet<String> = bundle.limits.iter().map(|limit| limit.limit.name.clone()).collect();
    assert_eq!(named(|expected| &expected.policies), policies);
    assert_eq!(named(|expected| &expected.limits), limits);
    let outcomes = run(&bundle, tests);
    assert!(outcomes.iter().all(Outcome::passed), "{}", text(&outcomes, "bundle", false));
}

#[test]
fn what_is_not_said_has_a_default() {
    let mesh = bundle().mesh;
    let attributes =
        RequestText { service: "details".into(), ..RequestText::default() }.attributes(&mesh).unwrap();
    expect![[r#"
        Attributes {
            principal: Unauthenticated,
            action: Http,
            resource: "details",
            method: "GET",
            path: "/",
            host: "details",
            headers: {},
            query: {},
            cookies: {},
            claims: {},
            operation: None,
            source_ip: 127.0.0.1,
            tls: false,
            sni: None,
            destination_port: 0,
            time: 2026-01-01T12:00:00Z,
        }
    "#]]
    .assert_debug_eq(&attributes);
    let workload = Some("spiffe://bookinfo.example/ns/bookinfo/sa/reviews".to_owned());
    let text = RequestText { service: "details".into(), principal: workload, ..RequestText::default() };
    assert!(text.attributes(&mesh).unwrap().tls);
    assert!(!RequestText { tls: Some(false), ..text }.attributes(&mesh).unwrap().tls);
}

#[test]
fn a_failure_shows_what_was_expected_and_what_came() {
    let tests = parse(
        "\
tests:
  - name: the page reads ratings
    request: {service: ratings, path: /ratings/0, principal: 'spiffe://bookinfo.example/ns/bookinfo/sa/productpage'}
    expect: {decision: allow, policies: [reviews-read-ratings], limits: [ratings-per-caller], rules: []}
  - name: anyone reads the API
    request: {service: productpage, path: /api/v1/products}
    expect: {decision: allow, policies: [anyone-may-read-the-page], limits: []}
  - name: nobody writes it
    request: {service: productpage, path: /api/v1/products, method: PUT}
    expect: {decision: deny}
",
    );
    let outcomes = run(&bundle(), tests.unwrap());
    expect![[r#"
        failed: the page reads ratings
          --> tests/a.yaml:2
           | request:
           |   principal: spiffe://bookinfo.example/ns/bookinfo/sa/productpage
           |   service: ratings
           |   path: /ratings/0
           | expect:
           | - decision: allow
           | + decision: deny
           | - policies: [reviews-read-ratings]
           | + policies: [the-page-reads-no-ratings]
           | - limits: [ratings-per-caller]
           | + limits: []
           | - rules: []
           | + rules: [blocked, count-requests]
           = forbidden by `the-page-reads-no-ratings`
           = help: tidegate policy explain 'policies/book info' --test 'the page reads ratings'

        failed: anyone reads the API
          --> tests/a.yaml:5
           | request:
           |   service: productpage
           |   path: /api/v1/products
           | expect:
           |   decision: allow
           |   policies: [anyone-may-read-the-page]
           | - limits: []
           | + limits: [api-per-address]
           = permitted by `anyone-may-read-the-page`
           = help: tidegate policy explain 'policies/book info' --test 'anyone reads the API'

        1 passed, 2 failed
    "#]]
    .assert_eq(&text(&outcomes, "policies/book info", false));
    assert!(text(&outcomes, "a", true).contains("\u{1b}[31m- decision: allow\u{1b}[0m"));
    let json = json(&outcomes);
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &2.into()));
    assert_eq!(json["tests"][2]["got"]["message"], "no policy permits this request");
}

#[test]
fn mistakes_in_a_request_are_told_with_their_place() {
    wrong(
        "\
tests:
  - name: a
    request:
      principal: reviews
      action: htp
      service: rating
      path: ratings
    expect: {decision: deny}
",
        &expect![[r#"
            error: `reviews` is not a SPIFFE ID: it does not start with `spiffe://`
             --> tests/a.yaml:4:18
              |
            4 |       principal: reviews
              |                  ^^^^^^^
              |
              = help: write `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` or `unauthenticated`

            error: there is no action `htp`
             --> tests/a.yaml:5:15
              |
            5 |       action: htp
              |               ^^^
              |
              = help: did you mean `http`?

            error: there is no service `rating`
             --> tests/a.yaml:6:16
              |
            6 |       service: rating
              |                ^^^^^^
              |
              = help: did you mean `ratings`?

            error: `ratings` is not a path
             --> tests/a.yaml:7:13
              |
            7 |       path: ratings
              |             ^^^^^^^
              |
              = help: a path starts with `/`

        "#]],
    );
}

#[test]
fn what_no_proxy_would_say_of_a_request_is_a_mistake() {
    wrong(
        "\
tests:
  - name: a
    request:
      service: ratings
      path: '/ratings?page=2'
      host: Ratings
      headers: {X-User: a}
      source_ip: 10.0.0.1:80
      time: noon
    expect: {decision: deny}
",
        &expect![[r#"
            error: `/ratings?page=2` is not a path
             --> tests/a.yaml:5:13
              |
            5 |       path: '/ratings?page=2'
              |             ^^^^^^^^^^^^^^^^^
              |
              = help: policies see the path alone: write the rest under `query`

            error: there is never a host `Ratings`: policies see it in lower case
             --> tests/a.yaml:6:13
              |
            6 |       host: Ratings
              |             ^^^^^^^
              |
              = help: write `ratings`

            error: there is never a header `X-User`: policies see names in lower case
             --> tests/a.yaml:7:25
              |
            7 |       headers: {X-User: a}
              |                         ^
              |
              = help: write `x-user`

            error: `10.0.0.1:80` is not an IP address
             --> tests/a.yaml:8:18
              |
            8 |       source_ip: 10.0.0.1:80
              |                  ^^^^^^^^^^^
              |
              = help: write one such as `10.1.2.3` or `2001:db8::1`, without a port

            error: `noon` is not a time: failed to parse four digit integer as year: invalid digit, expected 0-9 but got n
             --> tests/a.yaml:9:13
              |
            9 |       time: noon
              |             ^^^^
              |
              = help: write it as RFC 3339 has it, such as `2026-01-01T12:00:00Z`

        "#]],
    );
}

#[test]
fn mistakes_in_names_are_told_with_their_place() {
    wrong(
        "\
tests:
  - name: a
    request: {service: ratings}
    expect: {decision: deny, policies: [reviews-read-rating], limits: [x], rules: [blockd]}
  - name: a
    request: {service: ratings}
    expect: {decision: allow}
",
        &expect![[r#"
            error: there is no policy `reviews-read-rating`
             --> tests/a.yaml:4:41
              |
            4 |     expect: {decision: deny, policies: [reviews-read-rating], limits: [x], rules: [blockd]}
              |                                         ^^^^^^^^^^^^^^^^^^^
              |
              = help: did you mean `reviews-read-ratings`?

            error: there is no limit `x`
             --> tests/a.yaml:4:72
              |
            4 |     expect: {decision: deny, policies: [reviews-read-rating], limits: [x], rules: [blockd]}
              |                                                                        ^
              |
              = help: name a limit of limits.yaml

            error: there is no rule `blockd`
             --> tests/a.yaml:4:84
              |
            4 |     expect: {decision: deny, policies: [reviews-read-rating], limits: [x], rules: [blockd]}
              |                                                                                    ^^^^^^
              |
              = help: did you mean `blocked`?

            error: two tests are called `a`
             --> tests/a.yaml:5:11
              |
            5 |   - name: a
              |           ^
              |
              = help: the name tells which one failed

        "#]],
    );
}

#[test]
fn a_file_that_is_no_list_of_tests_is_a_mistake() {
    wrong(
        "tests:\n  - name: a\n    requst: {}\n",
        &expect![[r#"
        error: unknown field `requst`
         --> tests/a.yaml:3:5
          |
        3 |     requst: {}
          |     ^^^^^^
          |
          = help: did you mean `request`?

    "#]],
    );
    wrong(
        "tests:\n  - name: a\n    request: {service: ratings}\n    expect: {decision: alow}\n",
        &expect![[r#"
        error: unknown value `alow`
         --> tests/a.yaml:4:24
          |
        4 |     expect: {decision: alow}
          |                        ^^^^
          |
          = help: did you mean `allow`?

    "#]],
    );
    wrong(
        "tests: []\n",
        &expect![[r#"
        error: the bundle has no tests
        --> tests/
         = help: write them into `tests/*.yaml`; see policies/bookinfo/tests

    "#]],
    );
}

#[test]
fn a_request_is_shown_as_its_author_would_write_it() {
    let text = RequestText {
        principal: Some("spiffe://bookinfo.example/ns/bookinfo/sa/reviews".into()),
        service: "ratings".into(),
        method: Some("PUT".into()),
        path: Some("/a b".into()),
        headers: BTreeMap::from([("end-user".into(), "jason: \"j\"".into()), ("x".into(), String::new())]),
        tls: Some(false),
        time: Some("2027-01-01T00:00:00Z".into()),
        source_ip: Some("::1".into()),
        ..RequestText::default()
    };
    let attributes = text.attributes(&bundle().mesh).unwrap();
    assert_eq!(RequestText::of(&attributes), text);
    let entries = text.entries();
    let yaml: String = entries.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    expect![[r#"
        principal: spiffe://bookinfo.example/ns/bookinfo/sa/reviews
        service: ratings
        method: PUT
        path: "/a b"
        headers: {end-user: "jason: \"j\"", x: ""}
        source_ip: "::1"
        tls: false
        time: 2027-01-01T00:00:00Z
    "#]]
    .assert_eq(&yaml);
    assert_eq!(request("a.yaml", &yaml, &bundle()).unwrap(), attributes);
    let bare = RequestText { service: "details".into(), ..RequestText::default() };
    assert_eq!(RequestText::of(&bare.attributes(&bundle().mesh).unwrap()), bare);
}

#[test]
fn a_test_is_found_by_name_or_place() {
    let tests = || {
        let test = |name: &str| {
            format!("  - name: {name}\n    request: {{service: details}}\n    expect: {{decision: deny}}\n")
        };
        let texts = [("tests/a.yaml", ["one", "two"]), ("tests/b.yaml", ["two", "three"])];
        let texts = texts
            .map(|(file, names)| (file.to_owned(), format!("tests:\n{}{}", test(names[0]), test(names[1]))));
        read::parse(&BTreeMap::from(texts), &bundle()).unwrap()
    };
    let found =
        |wanted: &str| find(tests(), wanted).map(|test| test.place()).map_err(|error| error.to_string());
    assert_eq!(found("one").unwrap(), "tests/a.yaml:2");
    assert_eq!(found("tests/b.yaml:2").unwrap(), "tests/b.yaml:2");
    assert_eq!(
        found("two").unwrap_err(),
        "several tests are called `two`: name one by its place, `tests/a.yaml:5`, `tests/b.yaml:2`"
    );
    assert_eq!(found("thre").unwrap_err(), "there is no test `thre`: did you mean `three`?");
}
