//! The examples in docs/ work.
//!
//! A fenced block marked `title=FILE` is a file. The blocks of one section are one bundle. A section without a
//! `mesh.yaml` uses the first one of docs/bundle.md.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use policyd::author::lint::lint;
use policyd::bundle::{Bundle, Files, mesh};
use tidegate_tests::program;
use tidegate_tests::repository::root;

/// The files of one section.
#[derive(Default)]
struct Section {
    heading: String,
    files: BTreeMap<String, String>,
}

fn sections(document: &str) -> Vec<Section> {
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let mut sections = vec![Section::default()];
    let mut block: Option<(Option<String>, String)> = None;
    for line in text.lines() {
        let section = sections.last_mut().unwrap();
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let title = info.split(' ').find_map(|word| word.strip_prefix("title="));
                block = Some((title.map(str::to_owned), String::new()));
            }
            (Some(_), Some(_)) => {
                if let Some((Some(title), text)) = block.take() {
                    let before = section.files.insert(title.clone(), text);
                    assert!(before.is_none(), "{document}, {}: two blocks are `{title}`", section.heading);
                }
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) if line.starts_with('#') => {
                sections.push(Section { heading: line.to_owned(), files: BTreeMap::new() });
            }
            (None, None) => {}
        }
    }
    sections.retain(|section| !section.files.is_empty());
    sections
}

fn default_mesh() -> String {
    let all = sections("bundle.md");
    all.iter()
        .find_map(|section| section.files.get(mesh::FILE))
        .expect("docs/bundle.md has a mesh.yaml")
        .clone()
}

#[test]
fn bundles_in_the_documents_load_without_a_finding() {
    for document in ["bundle.md", "adapters.md", "end-users.md", "tcp.md"] {
        let sections = sections(document);
        assert!(!sections.is_empty(), "{document} has examples");
        for Section { heading, mut files } in sections {
            // A bundle's tests are not read with it.
            files.retain(|name, _| !name.contains('/'));
            files.entry(mesh::FILE.to_owned()).or_insert_with(default_mesh);
            let files = Files { folder: root().join("docs"), texts: files };
            let bundle = Bundle::load(&files)
                .unwrap_or_else(|findings| panic!("docs/{document}, {heading}\n{}", findings.render(false)));
            let findings = lint(&bundle, &files);
            assert!(findings.is_empty(), "docs/{document}, {heading}\n{}", findings.render(false));
        }
    }
}

#[test]
fn configuration_files_in_the_documents_load() {
    let mut files: BTreeMap<String, String> =
        sections("operating.md").into_iter().flat_map(|section| section.files).collect();
    // Which is no file of ours: see below.
    files.remove(UNIT);
    let mut file =
        |name: &str| files.remove(name).unwrap_or_else(|| panic!("docs/operating.md has a {name}"));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };

    let ca = ca::config::Config::load(&write("ca.yaml", &file("ca.yaml"))).unwrap_or_else(|f| panic!("{f}"));
    // What the CA writes when it starts, and what `tidegate ca token` prints.
    let state = folder.path().join(&ca.state_dir);
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let authority = ca::authority::Authority::open(&state, &ca.trust_domain, ca.issuing_ca_ttl, now).unwrap();
    let bundle = folder.path().join(ca.bundle_path());
    fs::write(bundle, authority.bundle().unwrap().to_pem()).unwrap();
    write("policyd.token", "a-token\n");
    write("ratings.token", "a-token\n");

    let policyd = policyd::config::Config::load(&write("policyd.yaml", &file("policyd.yaml")));
    assert_eq!(policyd.unwrap_or_else(|f| panic!("{f}")).identity.join_token, "a-token");
    let behind_envoy: Vec<Section> = sections("envoy.md");
    let [Section { files: more, .. }] = behind_envoy.as_slice() else { panic!("docs/envoy.md has one file") };
    let text = more["policyd.yaml"].replace("shop.example", "bookinfo.example");
    let policyd = policyd::config::Config::load(&write("behind_envoy.yaml", &text));
    let envoy = policyd.unwrap_or_else(|f| panic!("{f}")).envoy.unwrap();
    assert_eq!(envoy.path_prefix.as_deref(), Some("/ext_authz"));
    let proxy = proxy::Config::load(&write("proxy.yaml", &file("proxy.yaml")));
    assert_eq!(proxy.unwrap_or_else(|f| panic!("{f}")).join_token, "a-token");
    let intercepting: Vec<Section> = sections("interception.md");
    let [Section { files: more, .. }] = intercepting.as_slice() else {
        panic!("docs/interception.md has one file")
    };
    let proxy = proxy::Config::load(&write("intercepting.yaml", &more["proxy.yaml"]));
    assert_eq!(proxy.unwrap_or_else(|f| panic!("{f}")).application, "127.0.0.1:9080");
    assert!(files.is_empty(), "no test reads {:?}", files.keys());
}

const UNIT: &str = "tidegate-proxy.service";

#[test]
fn the_unit_in_the_documents_is_one_that_systemd_takes() {
    let sections = sections("operating.md");
    let unit = sections.iter().find_map(|section| section.files.get(UNIT)).expect("a unit");
    let Some(verify) =
        program::find("systemd-analyze", "the_unit_in_the_documents_is_one_that_systemd_takes")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(UNIT);
    let installed = "/usr/local/bin/tidegate";
    assert!(unit.contains(installed));
    // Mistakes in a line are told, and are no failure.
    for (text, is_good) in [
        (unit.replace(installed, "/bin/true"), true),
        (unit.replace(installed, "/bin/true").replace("KillMode", "KillMod"), false),
    ] {
        fs::write(&file, text).unwrap();
        let told = Command::new(&verify).arg("verify").arg(&file).output().unwrap();
        let complaint = String::from_utf8_lossy(&told.stderr);
        let complaint: Vec<&str> = complaint.lines().filter(|line| line.contains(UNIT)).collect();
        assert_eq!(complaint.is_empty(), is_good, "{complaint:?}");
    }
}
