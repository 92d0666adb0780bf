//! What is said of mistakes in `limits.yaml`, and what its examples allow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use expect_test::expect;
use tidegate_policyd::bundle::{Bundle, Files};

const MESH: &str = "trust_domain: shop.example\nservices:\n  orders: {namespace: shop, instances: [{endpoint: 127.0.0.1:1}]}\n";

fn files(limits: &str) -> Files {
    let texts = [("mesh.yaml", MESH), ("limits.yaml", limits)];
    let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned()));
    Files { folder: "bundle".into(), texts: texts.collect() }
}

fn told(limits: &str) -> String {
    Bundle::load(&files(limits)).unwrap_err().render(false)
}

#[test]
fn mistakes_in_amounts_are_told_at_once() {
    let limits = r#"limits:
  - {name: none}
  - {name: both, rate: 1/s, quota: 5 per day}
  - {name: period, quota: 5 per fortnight}
  - {name: zone, quota: 5 per day, time_zone: Europe/Atlantis}
  - {name: idle, concurrency: 0}
  - {name: slow, rate: 1/30d, burst: 9}
"#;
    expect![[r#"
        error: this limit says no amount
         --> limits.yaml:2:12
          |
        2 |   - {name: none}
          |            ^^^^
          |
          = help: say one of `rate`, `quota`, `concurrency` and `bandwidth`

        error: a limit can't have both `rate` and `quota`
         --> limits.yaml:3:36
          |
        3 |   - {name: both, rate: 1/s, quota: 5 per day}
          |                                    ^^^^^^^^^
          |
          = help: say one of `rate`, `quota`, `concurrency` and `bandwidth`

        error: `fortnight` is no period of the calendar
         --> limits.yaml:4:27
          |
        4 |   - {name: period, quota: 5 per fortnight}
          |                           ^^^^^^^^^^^^^^^
          |
          = help: write it as `1000 per day`, with second, minute, hour, day, week or month; or add `window: rolling`

        error: there is no time zone `Europe/Atlantis`
         --> limits.yaml:5:47
          |
        5 |   - {name: zone, quota: 5 per day, time_zone: Europe/Atlantis}
          |                                               ^^^^^^^^^^^^^^^

        error: this is no concurrency: the count `0` is not a whole number from 1 to 9007199254740991
         --> limits.yaml:6:31
          |
        6 |   - {name: idle, concurrency: 0}
          |                               ^
          |
          = help: use a `forbid` policy to let nothing pass

        error: a burst of 9 takes more than 100 days to come back
         --> limits.yaml:7:24
          |
        7 |   - {name: slow, rate: 1/30d, burst: 9}
          |                        ^^^^^

    "#]].assert_eq(&told(limits));
}

#[test]
fn what_belongs_to_another_kind_of_limit_is_told() {
    let limits = r#"limits:
  - {name: misplaced, rate: 1/s, window: rolling, time_zone: UTC}
  - {name: sliding, rate: 10/s, algorithm: sliding, burst: 3}
  - {name: shared, concurrency: 3, mode: exact}
  - {name: bytes, bandwidth: 1MiB/s, cost: 3}
"#;
    expect![[r#"
        error: `window` belongs to `quota`
         --> limits.yaml:2:42
          |
        2 |   - {name: misplaced, rate: 1/s, window: rolling, time_zone: UTC}
          |                                          ^^^^^^^

        error: `time_zone` belongs to a `quota` of the calendar
         --> limits.yaml:2:62
          |
        2 |   - {name: misplaced, rate: 1/s, window: rolling, time_zone: UTC}
          |                                                              ^^^

        error: `burst` belongs to a steady `rate`, or `bandwidth`
         --> limits.yaml:3:60
          |
        3 |   - {name: sliding, rate: 10/s, algorithm: sliding, burst: 3}
          |                                                            ^

        error: what is under way, and bytes, are counted by each proxy for itself
         --> limits.yaml:4:12
          |
        4 |   - {name: shared, concurrency: 3, mode: exact}
          |            ^^^^^^
          |
          = help: write `mode: local`, or leave it out

        error: `bandwidth` costs the bytes that pass
         --> limits.yaml:5:44
          |
        5 |   - {name: bytes, bandwidth: 1MiB/s, cost: 3}
          |                                            ^
          |
          = help: leave `cost` out

    "#]]
    .assert_eq(&told(limits));
}

#[test]
fn mistakes_in_overrides_and_refusals_are_told() {
    let limits = r#"limits:
  - name: others
    key: [principal, context.source_ip]
    rate: 1/s
    overrides:
      - {key: [a], amount: 2/s}
      - {key: [a, b], amount: 2/s}
      - {key: [a, 10.0.0.1], amount: never}
  - name: refusals
    rate: 1/s
    refusal: {status: 200, headers: {retry-after: "5"}}
"#;
    expect![[r#"
        error: the limit's key has 2 parts, and this one 1
         --> limits.yaml:6:15
          |
        6 |       - {key: [a], amount: 2/s}
          |               ^

        error: `b` is not of the type that this part of the key has
         --> limits.yaml:7:15
          |
        7 |       - {key: [a, b], amount: 2/s}
          |               ^

        error: this is not a rate: write it as `100/s`, `100/min` or `5 per 10s`
         --> limits.yaml:8:38
          |
        8 |       - {key: [a, 10.0.0.1], amount: never}
          |                                      ^^^^^

        error: 200 is not a status that refuses
          --> limits.yaml:11:23
           |
        11 |     refusal: {status: 200, headers: {retry-after: "5"}}
           |                       ^^^

        error: `retry-after` can't be a header field of a refusal with this value
          --> limits.yaml:11:51
           |
        11 |     refusal: {status: 200, headers: {retry-after: "5"}}
           |                                                   ^^^

    "#]]
    .assert_eq(&told(limits));
}

#[test]
fn what_is_written_is_what_is_allowed() {
    let limits = r#"limits:
  - {name: a, rate: 10/s, burst: 3}
  - {name: b, rate: 10/s, algorithm: sliding}
  - {name: c, quota: 7 per month, time_zone: Asia/Tokyo}
  - {name: d, quota: 7 per 12h, window: rolling}
  - {name: e, concurrency: 4}
  - {name: f, bandwidth: 2MiB/s, bytes: response}
  - {name: g, rate: 1/s, key: [principal], overrides: [{key: [x], amount: 9/s, burst: 20}], cost: 5}
"#;
    let bundle = Bundle::load(&files(limits)).unwrap();
    let allowed = bundle.limits.iter().map(|limit| {
        let limit = &limit.limit;
        let overrides: Vec<String> =
            limit.overrides.iter().map(|(key, other)| format!("{key} {other}")).collect();
        format!("{}: {} {:?} {:?} {overrides:?}", limit.name, limit.allowance, limit.cost, limit.mode)
    });
    expect![[r#"
        a: 10 per 1s, 3 at once Fixed(1) Leased []
        b: 10 in any 1s Fixed(1) Leased []
        c: 7 per month (Asia/Tokyo) Fixed(1) Leased []
        d: 7 in any 43200s Fixed(1) Leased []
        e: 4 at once Fixed(1) Local []
        f: 2097152 per 1s ResponseBytes Local []
        g: 1 per 1s Fixed(5) Leased ["s1:x 9 per 1s, 20 at once"]"#]]
    .assert_eq(&allowed.collect::<Vec<_>>().join("\n"));
    assert!(bundle.limit("c").is_some() && bundle.limit("x").is_none());
}
