//! What the lints tell an author, word for word; that the examples give them nothing to tell; and that they are quick.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use expect_test::expect_file;
use tidegate_policyd::author::lint::{Lint, lint};
use tidegate_policyd::bundle::{Bundle, Files};
use tokio::time::Instant;

fn folder(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_lint_has_its_words() {
    let files = Files::read(&folder("../testdata/lints")).unwrap();
    let bundle = Bundle::load(&files).unwrap_or_else(|wrong| panic!("{wrong}"));
    let findings = lint(&bundle, &files);
    for (_, name) in Lint::ALL {
        assert!(findings.iter().any(|finding| finding.lint == Some(name)), "nothing is found by {name}");
    }
    for finding in findings.iter() {
        assert!(finding.help.is_some() && finding.line > 0, "{finding:?}");
    }
    expect_file!["../../testdata/lints/findings.txt"].assert_eq(&findings.render(false));
}

#[test]
fn examples_are_free_of_findings() {
    for entry in std::fs::read_dir(folder("../policies")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("mesh.yaml").exists() {
            let files = Files::read(&folder).unwrap();
            let bundle = Bundle::load(&files).unwrap_or_else(|wrong| panic!("{wrong}"));
            assert_eq!(lint(&bundle, &files).render(false), "", "{}", folder.display());
        }
    }
}

#[test]
fn every_lint_is_documented() {
    let document = std::fs::read_to_string(folder("../docs/policy-tools.md")).unwrap();
    let rows: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for (_, name) in Lint::ALL {
        assert!(rows.contains(&name), "docs/policy-tools.md: add a row for `{name}` to the table of lints");
    }
    let told = std::fs::read_to_string(folder("../testdata/lints/findings.txt")).unwrap();
    let example = document.split("```\n").find(|block| block.starts_with("warning[")).unwrap();
    assert!(told.contains(example), "docs/policy-tools.md shows what no lint says");
}

/// Ten thousand policies, of which each has a finding.
#[test]
fn ten_thousand_policies_take_seconds() {
    let mut acl = String::new();
    for n in 0..10_000 {
        let policy = format!(
            "@id(\"p{n}\") permit (principal == Workload::\"spiffe://a.example/ns/x/sa/caller-{n}\", action == Action::\"http\", \
             resource == Service::\"s{}\") when {{ context.path like \"/api-{n}*\" && context.method == \"GET\" }};",
            n % 100
        );
        writeln!(acl, "{policy}").unwrap();
    }
    let mut mesh = "trust_domain: a.example\nservices:\n".to_owned();
    (0..100).for_each(|n| writeln!(mesh, "  s{n}: {{}}").unwrap());
    let texts = BTreeMap::from([("acl.cedar".to_owned(), acl), ("mesh.yaml".to_owned(), mesh)]);
    let files = Files { folder: "bundle".into(), texts };
    let bundle = Bundle::load(&files).unwrap_or_else(|wrong| panic!("{wrong}"));
    let start = Instant::now();
    let findings = lint(&bundle, &files);
    let took = start.elapsed();
    println!("{took:?} for {} findings", findings.iter().count());
    assert_eq!(findings.iter().count(), 20_000);
    // A debug build on a busy machine; a quadratic lint would take minutes.
    assert!(took < Duration::from_secs(30), "{took:?}");
}
