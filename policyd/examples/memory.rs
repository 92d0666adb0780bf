//! What a policy costs in memory: in a plain `PolicySet`, in a bundle, and as a link of a template.
//!
//! `cargo run --release -p tidegate-policyd --example memory`, with how many policies if not 100,000.
//!
//! Each is measured in a process of its own, as what its resident memory grows by while all are loaded: what parsing
//! leaves behind is counted, the texts that are loaded are not.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement stops when something is wrong")]

#[path = "../benches/many/mod.rs"]
#[expect(dead_code, reason = "the benchmark needs the rest")]
mod many;

use std::process::Command;

use cedar_policy::PolicySet;
use tidegate_policyd::bundle::{Bundle, Files};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [kind, count] = arguments.as_slice() {
        println!("{}", grown_by(kind, count.parse().unwrap()));
        return;
    }
    let count: usize = arguments.first().map_or(100_000, |count| count.parse().unwrap());
    println!("{count} policies     bytes each");
    for (kind, name) in [("plain", "plain PolicySet"), ("bundle", "bundle"), ("links", "links in a bundle")] {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).args([kind, &count.to_string()]).output().unwrap();
        let bytes: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        println!("{name:20} {:10}", bytes / count);
    }
}

/// By how many bytes this process grows for `count` policies.
fn grown_by(kind: &str, count: usize) -> usize {
    let files = if kind == "links" { many::linked(count) } else { many::bundle(count, 100) };
    let small = Bundle::load(&many::bundle(many::CANDIDATES, 1)).unwrap();
    let before = resident();
    let set;
    let bundle;
    if kind == "plain" {
        set = plain(&files);
        assert_eq!(set.policies().count(), count);
    } else {
        bundle = Bundle::load(&files).unwrap();
        assert_eq!(bundle.policies.len(), count);
    }
    assert!(!small.policies.is_empty());
    resident() - before
}

fn plain(files: &Files) -> PolicySet {
    let mut all = PolicySet::new();
    for text in files.texts.iter().filter(|(name, _)| name.ends_with(".cedar")).map(|(_, text)| text) {
        all.merge(&text.parse().unwrap(), true).unwrap();
    }
    all
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
