//! `tidegate up`, as a user runs it.

use std::net::TcpStream;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::run;

/// The processes whose parent is `id`.
fn children(id: u32) -> Vec<u32> {
    let of = |entry: std::fs::DirEntry| -> Option<(u32, u32)> {
        let child = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in brackets may hold blanks; the parent is the second field after it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((child, parent))
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.ok()?));
    all.filter(|(_, parent)| *parent == id).map(|(child, _)| child).collect()
}

#[test]
fn up_shows_a_mesh_that_works_and_leaves_nothing_behind() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let command = run::tidegate(&["up", "policies/bookinfo", "--format", "json", "--state", state]);
    let (up, line) = run::Running::start(command);
    let shown: Value = serde_json::from_str(&line).unwrap();

    let services = shown["services"].as_array().unwrap();
    assert_eq!(services.len(), 6);
    for row in services {
        assert_eq!((&row["healthy"], &row["enforcement"]), (&true.into(), &"enforce".into()), "{row}");
        assert!(
            row["spiffe_id"].as_str().unwrap().starts_with("spiffe://bookinfo.example/ns/bookinfo/sa/"),
            "{row}"
        );
    }

    let tries: Vec<&str> =
        shown["tries"].as_array().unwrap().iter().map(|line| line["run"].as_str().unwrap()).collect();
    let [allowed, denied, limited] = tries.as_slice() else { panic!("three lines to try, not {tries:?}") };
    assert!(run::shell(allowed).contains("William Shakespeare"), "{allowed}");
    let refusal = run::shell(denied);
    assert!(refusal.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{refusal}");
    assert!(refusal.contains("x-tidegate-policy: the-page-reads-no-ratings\r\n"), "{refusal}");
    let codes = run::shell(limited);
    assert!(codes.starts_with("200 ") && codes.trim_end().ends_with("429"), "{codes}");

    let ledger = Path::new(state).join("ledger.sqlite");
    let history = run::run(&["bundle", "history", &format!("{state}/policyd"), "--format", "json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!((&history["running"], &history["entries"][0]["name"]), (&true.into(), &"bookinfo".into()));
    let audit = run::run(&["audit", "rotation", "--ledger", ledger.to_str().unwrap()]);
    assert_eq!(audit.status.code(), Some(0), "{}", String::from_utf8_lossy(&audit.stdout));

    let processes = children(up.id());
    assert_eq!(processes.len(), 7, "the services, and who ends them if nobody else can");
    up.signal(Signal::INT);
    assert_eq!(up.wait().code(), Some(0));
    for process in processes {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} was left behind");
    }
    for row in services {
        for socket in ["inbound", "outbound", "admin"] {
            let address = row[socket].as_str().unwrap();
            assert!(TcpStream::connect(address).is_err(), "{address} is still served");
        }
    }
}

#[test]
fn a_bundle_with_mistakes_is_told_and_nothing_starts() {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::write(bundle.path().join("mesh.yaml"), "trust_domain: a.example\nservces: {}\n").unwrap();
    let output = run::run(&["up", bundle.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("unknown field `servces`"), "{told}");
    assert!(told.contains("mesh.yaml:2:1") && told.contains("did you mean `services`?"), "{told}");
}

#[test]
fn a_service_that_cannot_be_started_is_named() {
    let bundle = tempfile::tempdir().unwrap();
    let mesh = "trust_domain: a.example\nservices:\n  a:\n    instances: [{version: v1, command: [/no/such/program]}]\n";
    std::fs::write(bundle.path().join("mesh.yaml"), mesh).unwrap();
    let output = run::run(&["up", bundle.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("`/no/such/program` of `a-v1` can't be started"), "{told}");
}

#[test]
fn closing_the_terminal_ends_the_services_too() {
    let (up, line) = run::Running::start(run::tidegate(&["up", "policies/bookinfo", "--format", "json"]));
    assert!(line.starts_with('{'), "{line}");
    let processes = children(up.id());
    assert_eq!(processes.len(), 7, "the services, and who ends them if nobody else can");
    up.signal(Signal::HUP);
    assert_eq!(up.wait().code(), Some(0));
    for process in processes {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} was left behind");
    }
}

/// Whether a process has ended; its parent may not have asked about it yet.
fn has_ended(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z")))
}

#[test]
fn the_services_do_not_outlive_a_kill() {
    let (up, line) = run::Running::start(run::tidegate(&["up", "policies/bookinfo", "--format", "json"]));
    assert!(line.starts_with('{'), "{line}");
    let processes = children(up.id());
    assert_eq!(processes.len(), 7);
    up.signal(Signal::KILL);
    assert!(!up.wait().success());
    for process in processes {
        while !has_ended(process) {
            std::thread::yield_now();
        }
    }
}
