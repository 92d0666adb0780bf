//! The tools of policy authors: what they print, and their exit codes. One file for each tool.

mod access;
mod diff;
mod explain;
mod fmt;
mod test;

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::run::{cvc5, run, tidegate};

const MESH: &str = "trust_domain: a.example\nservices: {orders: {namespace: shop}}\n";
const ACL: &str = r#"@id("readers") permit (principal, action == Action::"http", resource == Service::"orders")
when { context.method == "GET" };
"#;

fn bundle(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("mesh.yaml", MESH), ("acl.cedar", ACL)].iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn policy(arguments: &[&str], bundle: &Path) -> Output {
    run(&[&["policy"], arguments, &[bundle.to_str().unwrap()]].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// In docs/policy-tools.md, the first file is a test of Bookinfo, and a block that starts with `$` is a transcript.
#[test]
fn what_the_document_shows_is_what_a_user_sees() {
    let document =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy-tools.md")).unwrap();
    let blocks: Vec<&str> = document.split("```").skip(1).step_by(2).collect();
    let tests = blocks.iter().find_map(|block| block.strip_prefix("yaml title=tests/acl.yaml\n")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bookinfo")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    fs::create_dir(folder.path().join("tests")).unwrap();
    fs::write(folder.path().join("tests/acl.yaml"), tests).unwrap();
    let log = folder.path().join("decisions.jsonl");
    let logged = blocks.iter().find_map(|block| block.strip_prefix("json title=decisions.jsonl\n")).unwrap();
    fs::write(&log, logged).unwrap();
    // The edit that the document speaks of.
    let edited = bundle(&[]);
    for entry in
        fs::read_dir(folder.path()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
    {
        let text = fs::read_to_string(entry.path()).unwrap().replace("\"/ratings/*\"", "\"/ratings*\"");
        fs::write(edited.path().join(entry.file_name()), text).unwrap();
    }
    let [folder, edited, log] = [folder.path(), edited.path(), &log].map(|path| path.to_str().unwrap());

    let transcripts: Vec<&str> =
        blocks.iter().filter_map(|block| block.strip_prefix("\n$ tidegate ")).collect();
    assert_eq!(transcripts.len(), 7);
    let real = |word| match word {
        "policies/bookinfo" => folder,
        "edited" => edited,
        "decisions.jsonl" => log,
        word => word,
    };
    for transcript in transcripts {
        let (typed, shown) = transcript.split_once('\n').unwrap();
        let typed: Vec<&str> = typed.split(' ').map(real).collect();
        // Without it, only what it finds would be missing.
        let solver =
            if typed.contains(&"diff") { cvc5("what_the_document_shows_is_what_a_user_sees") } else { None };
        if solver.is_none() && typed.contains(&"diff") {
            continue;
        }
        let output = tidegate(&typed).env("CVC5", solver.unwrap_or_default()).output().unwrap();
        let printed =
            text(&output.stdout).replace(log, "decisions.jsonl").replace(folder, "policies/bookinfo");
        assert_eq!(shown, printed, "{}", text(&output.stderr));
    }
}
