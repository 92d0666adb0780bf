use expect_test::{Expect, expect};
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mesh {
    #[serde(rename = "trust_domain")]
    _trust_domain: String,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default, rename = "strict")]
    _strict: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: Spanned<String>,
    port: Spanned<u16>,
    #[serde(rename = "mode")]
    _mode: Option<Mode>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Closed,
    Open,
}

fn check(source: &str, expected: &Expect) {
    let findings = parse::<Mesh>("mesh.yaml", source).unwrap_err();
    expected.assert_eq(&findings.render(false));
}

#[test]
fn an_unknown_field_is_named_with_the_one_that_was_meant() {
    check(
        "trust_domain: a\nservices:\n  - nmae: reviews\n    port: 1\n",
        &expect![[r#"
        error: unknown field `nmae`
         --> mesh.yaml:3:5
          |
        3 |   - nmae: reviews
          |     ^^^^
          |
          = help: did you mean `name`?

    "#]],
    );
    check(
        "trust_domain: a\ncolour: red\n",
        &expect![[r#"
        error: unknown field `colour`
         --> mesh.yaml:2:1
          |
        2 | colour: red
          | ^^^^^^
          |
          = help: it is one of `trust_domain`, `services`, `strict`

    "#]],
    );
}

#[test]
fn a_wrong_value_is_pointed_at() {
    check(
        "trust_domain: a\nservices:\n  - name: reviews\n    port: lots\n",
        &expect![[r#"
        error: `lots` is not a whole number from 0 to 65535
         --> mesh.yaml:4:11
          |
        4 |     port: lots
          |           ^^^^

    "#]],
    );
    check(
        "trust_domain: a\nservices:\n  - {name: ä, port: 70000}\n",
        &expect![[r#"
        error: `70000` is not a whole number from 0 to 65535
         --> mesh.yaml:3:21
          |
        3 |   - {name: ä, port: 70000}
          |                     ^^^^^

    "#]],
    );
    check(
        "trust_domain: a\nservices:\n  - {name: a, port: 1, mode: opne}\n",
        &expect![[r#"
        error: unknown value `opne`
         --> mesh.yaml:3:30
          |
        3 |   - {name: a, port: 1, mode: opne}
          |                              ^^^^
          |
          = help: did you mean `open`?

    "#]],
    );
    check(
        "trust_domain: a\nstrict: no\n",
        &expect![[r#"
        error: a boolean is written `true` or `false`
         --> mesh.yaml:2:9
          |
        2 | strict: no
          |         ^^

    "#]],
    );
}

#[test]
fn what_is_missing_or_twice_is_named() {
    check(
        "services: []\n",
        &expect![[r#"
        error: the field `trust_domain` is missing
         --> mesh.yaml:1:1
          |
        1 | services: []
          | ^^^^^^^^

    "#]],
    );
    check(
        "trust_domain: a\ntrust_domain: b\n",
        &expect![[r#"
        error: the key `trust_domain` is written twice
         --> mesh.yaml:2:1
          |
        2 | trust_domain: b
          | ^^^^^^^^^^^^

    "#]],
    );
    check(
        "",
        &expect![[r#"
        error: the file is empty, or ends too early
         --> mesh.yaml:1:1
          |
        1 |
          | ^

    "#]],
    );
}

#[test]
fn broken_yaml_is_pointed_at() {
    check(
        "trust_domain: [a\nservices: x\n",
        &expect![[r#"
        error: expected string scalar
         --> mesh.yaml:1:15
          |
        1 | trust_domain: [a
          |               ^

    "#]],
    );
    check(
        "trust_domain: a\n\tservices: x\n",
        &expect![[r#"
        error: while scanning a plain scalar, found a tab
         --> mesh.yaml:1:1
          |
        1 | trust_domain: a
          | ^

    "#]],
    );
    check(
        "trust_domain: a\n---\ntrust_domain: b\n",
        &expect![[r#"
        error: a second document starts here, but a file holds one
         --> mesh.yaml:3:1
          |
        3 | trust_domain: b
          | ^

    "#]],
    );
}

#[test]
fn spans_cover_the_text_of_a_value() {
    let source = "trust_domain: a\nservices:\n  - name: \"réviews\"   # the stars\n    port: &p 9080\n  - {name: b, port: *p}\n";
    let mesh: Mesh = parse("mesh.yaml", source).unwrap();
    let text = |range| source.get(range).unwrap();
    assert_eq!(text(span_of(&mesh.services[0].name, source)), "\"réviews\"");
    assert_eq!(text(span_of(&mesh.services[0].port, source)), "9080");
    assert_eq!(text(span_of(&mesh.services[1].name, source)), "b");
    assert_eq!(text(span_of(&mesh.services[1].port, source)), "*p");
}

#[test]
fn every_limit_holds() {
    let deep = format!("trust_domain: {}\n", "[".repeat(DEPTH_MAX + 1));
    let many = format!("trust_domain: a\nservices: [{}]\n", "a,".repeat(VALUES_MAX));
    let aliases = format!("trust_domain: &a a\nservices: [{}]\n", "*a,".repeat(ALIASES_MAX + 1));
    let large = format!("trust_domain: a #{}\n", "x".repeat(FILE_SIZE_MAX));
    for source in [deep, many, aliases, large] {
        let findings = parse::<serde_json::Value>("mesh.yaml", &source).unwrap_err();
        let message = &findings.iter().next().unwrap().message;
        assert!(
            message.contains("too complex")
                || message.contains("larger than 4 MiB")
                || message.contains("limit"),
            "{message}"
        );
    }
}

#[test]
fn files_are_read_within_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    let message = || load::<Mesh>(&path).unwrap_err().iter().next().unwrap().message.clone();
    assert!(message().starts_with("the file can't be read: "), "{}", message());
    std::fs::write(&path, b"trust_domain: a\nservices: \xff\n").unwrap();
    assert_eq!(message(), "the file is not UTF-8 text: line 2 holds other bytes");
    std::fs::write(&path, vec![b' '; FILE_SIZE_MAX + 1]).unwrap();
    assert_eq!(message(), "the file is larger than 4 MiB");
    std::fs::write(&path, "trust_domain: a\n").unwrap();
    load::<Mesh>(&path).unwrap();
}
