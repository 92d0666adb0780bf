use expect_test::expect;
use proptest::prelude::*;

use super::*;

const MESH: &str = "trust_domain: bookinfo.example\nservices:\n  - nme: reviews\n    prot: 9080\n";

fn two_findings() -> Findings {
    let mut findings = Findings::new();
    findings.add_source("mesh.yaml", MESH);
    let warning = Finding::at("mesh.yaml", MESH, 62..66, "unknown field `prot`").as_warning();
    findings.push(warning.with_lint("short-names"));
    findings.push(
        Finding::at("mesh.yaml", MESH, 45..48, "unknown field `nme`").with_help("did you mean `name`?"),
    );
    findings.push(Finding::in_file("limits.yaml", "the file can't be read: permission denied"));
    findings
}

#[test]
fn findings_are_shown_with_line_and_caret() {
    let expected = expect![[r#"
        error: the file can't be read: permission denied
        --> limits.yaml

        error: unknown field `nme`
         --> mesh.yaml:3:5
          |
        3 |   - nme: reviews
          |     ^^^
          |
          = help: did you mean `name`?

        warning[short-names]: unknown field `prot`
         --> mesh.yaml:4:5
          |
        4 |     prot: 9080
          |     ^^^^

    "#]];
    expected.assert_eq(&two_findings().render(false));
}

#[test]
fn colour_is_on_demand_and_files_cant_smuggle_escapes() {
    assert!(two_findings().render(true).contains("\u{1b}["));
    let source = "key: \u{1b}[2Jx\n";
    let finding = Finding::at("a\u{1b}.yaml", source, 5..9, "bad \u{1b}[2J").with_help("try \u{1b}");
    assert!(!Findings::one(finding, source).render(false).contains('\u{1b}'));
}

#[test]
fn json_holds_the_same() {
    let expected = expect![[r#"
        [
          {
            "severity": "error",
            "lint": null,
            "file": "limits.yaml",
            "line": null,
            "column": null,
            "message": "the file can't be read: permission denied",
            "help": null
          },
          {
            "severity": "error",
            "lint": null,
            "file": "mesh.yaml",
            "line": 3,
            "column": 5,
            "message": "unknown field `nme`",
            "help": "did you mean `name`?"
          },
          {
            "severity": "warning",
            "lint": "short-names",
            "file": "mesh.yaml",
            "line": 4,
            "column": 5,
            "message": "unknown field `prot`",
            "help": null
          }
        ]"#]];
    expected.assert_eq(&serde_json::to_string_pretty(&two_findings().to_json()).unwrap());
}

#[test]
fn the_summary_counts() {
    let table = [
        (0, 0, "no errors in x"),
        (1, 0, "1 error in x"),
        (2, 1, "2 errors and 1 warning in x"),
        (0, 2, "2 warnings in x"),
    ];
    for (errors, warnings, expected) in table {
        let mut findings = Findings::new();
        findings.extend((0..errors).map(|_| Finding::in_file("a", "b")));
        findings.extend((0..warnings).map(|_| Finding::in_file("a", "b").as_warning()));
        assert_eq!(findings.summary("x"), expected);
        assert_eq!(findings.unless_errors(()).is_err(), errors > 0);
    }
}

#[test]
fn only_so_many_are_shown() {
    let mut findings = Findings::new();
    findings.extend((0..SHOWN_MAX + 7).map(|n| Finding::in_file(format!("{n}"), "gone")));
    let text = findings.render(false);
    assert_eq!(text.matches("gone").count(), SHOWN_MAX);
    assert!(text.ends_with("and 7 more\n"));
}

#[test]
fn columns_count_characters() {
    let source = "ä: 1\nöü: x\n";
    let finding = Finding::at("f", source, 12..13, "m");
    assert_eq!((finding.line, finding.column), (2, 5));
    assert_eq!(finding.span, 12..13);
}

#[test]
fn misspellings_are_recognised() {
    let fields = ["name", "port", "endpoints"];
    let table = [
        ("nmae", Some("name")),
        ("endpoint", Some("endpoints")),
        ("prot", Some("port")),
        ("host", None),
        ("", None),
    ];
    for (word, expected) in table {
        assert_eq!(did_you_mean(word, fields), expected, "{word}");
    }
}

proptest! {
    #[test]
    fn any_span_of_any_source_is_shown(source in "(.|\n){0,30}", start in 0usize..50, length in 0usize..50) {
        let finding = Finding::at("f", &source, start..start + length, "m");
        prop_assert!(source.get(finding.span.clone()).is_some());
        prop_assert!(finding.line >= 1 && finding.line <= source.matches('\n').count() + 1);
        prop_assert!(Findings::one(finding, source).render(false).contains("f:"));
    }

    /// Counted afresh, as an editor does.
    #[test]
    fn places_among_known_lines_are_right(source in "(ä|b|\n){0,30}", start in 0usize..50, length in 0usize..50) {
        let finding = Finding::among(&Lines::of(&source), "f", start..start + length, "m");
        let before = source.get(..finding.span.start).unwrap();
        let last = before.rsplit('\n').next().unwrap();
        prop_assert_eq!((finding.line, finding.column), (before.split('\n').count(), last.chars().count() + 1));
        prop_assert_eq!(&finding, &Finding::at("f", &source, start..start + length, "m"));
    }

    #[test]
    fn findings_are_sorted_however_they_came(places in prop::collection::vec(("[ab]", 0usize..9), 0..9)) {
        let mut findings = Findings::new();
        findings.extend(places.iter().map(|(file, start)| Finding::at(file.as_str(), "123456789", *start..9, "m")));
        prop_assert!(findings.iter().is_sorted_by_key(|finding| (finding.file.clone(), finding.span.start)));
        prop_assert_eq!(findings.iter().count(), places.len());
    }
}
