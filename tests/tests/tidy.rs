//! Rules that no compiler checks. Each failure says what to do.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tidegate_tests::repository::{files, quoted, root, short, table};

/// The most lines of a Rust file without its tests, and in all.
const LINES_MAX: usize = 400;
const LINES_WITH_TESTS_MAX: usize = 600;

/// Libraries that a crate must not use, and why: who, what, why.
const FORBIDDEN: [(&str, &[&str], &str); 4] = [
    ("proxy", &["cedar-policy", "cedar-policy-core"], "the proxy knows atoms, not Cedar"),
    ("policyd", &["hyper", "hyper-util", "http", "httparse"], "policyd knows attributes, not HTTP"),
    ("envoy", &["cedar-policy", "cedar-policy-core"], "policyd's door knows decisions, not Cedar"),
    ("model", &["tokio", "hyper", "tonic", "rustls"], "model has no I/O"),
];

fn assert_tidy(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", short(path)))
}

/// Every Rust file that people write.
fn sources() -> Vec<(PathBuf, String)> {
    let written = |path: &PathBuf| !path.components().any(|part| part.as_os_str() == "gen");
    files(root(), "rs").into_iter().filter(written).map(|path| (path.clone(), read(&path))).collect()
}

/// A member of the workspace.
struct Member {
    /// Its folder, as seen from the root.
    folder: String,
    manifest: PathBuf,
    license: String,
    /// The real names of the libraries that it names.
    dependencies: BTreeSet<String>,
}

/// The members by package name.
fn members() -> BTreeMap<String, Member> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let member = |package: &Value| {
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let dependencies = package["dependencies"].as_array().unwrap();
        Member {
            folder: short(manifest.parent().unwrap()),
            license: text(&package["license"]),
            dependencies: dependencies.iter().map(|dependency| text(&dependency["name"])).collect(),
            manifest,
        }
    };
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(|package| (text(&package["name"]), member(package))).collect()
}

/// The libraries of others in the root manifest.
fn libraries() -> Vec<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let entries = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.contains("path = "));
    entries.filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
}

fn architecture() -> String {
    read(&root().join("ARCHITECTURE.md"))
}

#[test]
fn every_module_says_what_it_is() {
    // `foo/tests.rs` is the end of `foo.rs`, moved out of the way.
    let silent =
        sources().into_iter().filter(|(path, text)| !text.starts_with("//!") && !path.ends_with("tests.rs"));
    let wrong: Vec<String> = silent
        .map(|(path, _)| {
            format!("{}: start it with `//!` and a sentence that says what it is for", short(&path))
        })
        .collect();
    assert_tidy(&wrong);
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let code = text.lines().take_while(|line| !is_test && *line != "#[cfg(test)]").count();
        let all = text.lines().count();
        if code > LINES_MAX {
            wrong.push(format!("{}: {code} lines of code; split it at {LINES_MAX}", short(&path)));
        }
        if all > LINES_WITH_TESTS_MAX {
            let fix = "move its tests to a file of their own, or split it";
            wrong.push(format!("{}: {all} lines; {fix} at {LINES_WITH_TESTS_MAX}", short(&path)));
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn nothing_is_left_to_do() {
    // Written in two parts, so that this file does not find itself.
    let marks = [concat!("to", "do!("), concat!("db", "g!("), concat!("unimpl", "emented!(")];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                wrong.push(format!("{}:{}: finish what `{mark}…)` stands for", short(&path), number + 1));
            }
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let members = members();
    let architecture = architecture();
    let said: BTreeMap<String, Vec<String>> = table(&architecture, "Code map")
        .into_iter()
        .map(|row| (quoted(&row[0]).collect(), quoted(&row[1]).map(str::to_owned).collect()))
        .collect();
    let mut wrong = Vec::new();
    for member in members.values() {
        let Some(said) = said.get(&member.folder) else {
            wrong.push(format!("ARCHITECTURE.md: add a row for `{}` to the code map", member.folder));
            continue;
        };
        let ours = member.dependencies.iter().filter_map(|name| members.get(name));
        let real: BTreeSet<&str> = ours.map(|member| member.folder.as_str()).collect();
        let said: BTreeSet<&str> = said.iter().map(String::as_str).collect();
        // `*` is for what stands on top of all.
        if !said.contains("*") && said != real {
            wrong.push(format!(
                "{} depends on {real:?}, but the code map of ARCHITECTURE.md says {said:?}: correct the one that is wrong",
                short(&member.manifest)
            ));
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn crates_do_not_know_what_is_not_theirs_to_know() {
    let members = members();
    let mut wrong = Vec::new();
    for (folder, forbidden, why) in FORBIDDEN {
        let member = members.values().find(|member| member.folder == folder).unwrap();
        for library in forbidden.iter().filter(|library| member.dependencies.contains(**library)) {
            wrong.push(format!("{}: remove `{library}`: {why}", short(&member.manifest)));
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn protobuf_stops_at_the_door() {
    let doors = [
        "policyd/src/server",
        "ca/src/server",
        "envoy/src/ext_authz",
        "proxy/src/policy_client",
        "identity/src/client",
        "api/",
        "tests/",
    ];
    let wire = [concat!("api::", "policy"), concat!("api::", "certificate"), concat!("api::", "envoy")];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let path = short(&path);
        let is_door = doors.iter().any(|door| path.starts_with(door)) || path.contains("/tests");
        if !is_door && wire.iter().any(|module| text.contains(module)) {
            wrong.push(format!("{path}: use the types of `model` or `api::config`, not those of the wire"));
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn every_library_is_used_and_justified() {
    let members = members();
    let used: BTreeSet<&str> =
        members.values().flat_map(|member| &member.dependencies).map(String::as_str).collect();
    let architecture = architecture();
    let rows = table(&architecture, "Libraries");
    let justified: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let libraries = libraries();
    let mut wrong = Vec::new();
    for library in &libraries {
        if !used.contains(library.as_str()) {
            wrong.push(format!("Cargo.toml: remove `{library}`, which no crate uses"));
        }
        if !justified.contains(library.as_str()) {
            wrong.push(format!("ARCHITECTURE.md: say in the table of libraries why `{library}` is there"));
        }
    }
    let gone = justified.iter().filter(|name| !libraries.iter().any(|library| library == *name));
    wrong.extend(
        gone.map(|name| {
            format!("ARCHITECTURE.md: remove `{name}` from the libraries, it is not in Cargo.toml")
        }),
    );
    assert_tidy(&wrong);
}

#[test]
fn every_crate_names_only_libraries_that_it_uses() {
    let mut wrong = Vec::new();
    for member in members().values() {
        let code: String = files(&root().join(&member.folder), "rs").iter().map(|path| read(path)).collect();
        let manifest = read(&member.manifest);
        let sections = manifest.split("\n[").filter(|section| section.contains("dependencies]"));
        let entries = sections.flat_map(|section| section.lines().skip(1));
        let names = entries.filter_map(|line| line.split(['.', ' ']).next());
        for name in names.filter(|name| !name.is_empty() && !name.starts_with('#')) {
            let in_code = match name {
                "rustls-webpki" => "webpki".to_owned(),
                _ => name.replace('-', "_"),
            };
            let uses = ["::", " ", ";", ",", "}"].map(|end| format!("{in_code}{end}"));
            if !uses.iter().any(|text| code.contains(text.as_str())) {
                wrong.push(format!(
                    "{}: remove `{name}`, which its code does not use",
                    short(&member.manifest)
                ));
            }
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn every_crate_keeps_the_rules_of_the_workspace() {
    let mut wrong = Vec::new();
    for member in members().values() {
        if !read(&member.manifest).contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: add `[lints]` with `workspace = true`", short(&member.manifest)));
        }
        if member.license != "Apache-2.0" {
            wrong.push(format!("{}: add `license.workspace = true`", short(&member.manifest)));
        }
    }
    if !read(&root().join("LICENSE")).contains("Apache License") {
        wrong.push("LICENSE: put the text of the Apache License 2.0 there".to_owned());
    }
    assert_tidy(&wrong);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for path in files(root(), "md") {
        let text = read(&path);
        let targets =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            if !file.exists() || !anchor.is_empty() && !anchors(&read(&file)).any(|found| found == anchor) {
                wrong.push(format!("{}: the link to `{target}` leads nowhere", short(&path)));
            }
        }
    }
    assert_tidy(&wrong);
}

/// What the headings of a Markdown text are called in links, as GitHub makes it.
fn anchors(markdown: &str) -> impl Iterator<Item = String> {
    let headings = markdown.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    })
}

#[test]
fn files_that_documents_name_exist() {
    let folders: Vec<String> = members().into_values().map(|member| member.folder).collect();
    let kinds = [".rs", ".proto", ".toml", ".yaml", ".cedar", ".md", "/"];
    let mut wrong = Vec::new();
    for path in files(root(), "md") {
        let text = read(&path);
        // Line by line, so that a code block's backticks don't turn the rest inside out.
        for name in text.lines().flat_map(quoted) {
            let is_path = folders.iter().any(|folder| name.starts_with(&format!("{folder}/")))
                && kinds.iter().any(|kind| name.ends_with(kind))
                && !name.contains(['*', '<', ' ', '{']);
            if is_path && !root().join(name).exists() {
                wrong.push(format!("{}: there is no `{name}`", short(&path)));
            }
        }
    }
    assert_tidy(&wrong);
}

#[test]
fn every_metric_is_documented() {
    let documented = read(&root().join("docs/operating.md"));
    let mut wrong = Vec::new();
    for folder in ["policyd", "ca", "proxy", "envoy"] {
        let path = root().join(folder).join("src/metrics.rs");
        let text = read(&path);
        let first_string =
            |text: &str| Some(text.trim_start().strip_prefix('"')?.split_once('"')?.0.to_owned());
        let prefix = text.split("sub_registry_with_prefix(").nth(1).and_then(first_string).unwrap();
        for name in text.split(".register(").skip(1).filter_map(first_string) {
            let metric = format!("`{prefix}_{name}");
            let ends = ["`", "{"].map(|end| format!("{metric}{end}"));
            if !ends.iter().any(|text| documented.contains(text.as_str())) {
                wrong.push(format!("docs/operating.md: say what {metric}` of {} counts", short(&path)));
            }
        }
    }
    assert_tidy(&wrong);
}
