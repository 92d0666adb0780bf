//! `tidegate net`: what it prints, and how it fails, without touching the kernel.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use crate::run;

/// Runs `tidegate net …` with `folder` as the only place where programs are found.
fn net(folder: &Path, arguments: &[&str]) -> Output {
    run::tidegate(&[&["net"], arguments].concat()).env("PATH", folder).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const FULL: [&str; 15] = [
    "install",
    "--uid=1337,20000",
    "--outbound=15001",
    "--ports=80,8000-8999",
    "--exclude-ports=8125",
    "--exclude-to=10.9.0.0/16,169.254.169.254",
    "--exclude-to",
    "fd00:9::/32",
    "--inbound",
    "15006",
    "--exclude-from",
    "192.0.2.0/24",
    "--dry-run",
    "--format",
    "text",
];

#[test]
fn a_dry_run_prints_the_rules_and_needs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = net(folder.path(), &FULL);
    let rules = include_str!("../../src/interception/testdata/full.nft");
    assert_eq!((output.status.code(), told(&output).as_str()), (Some(0), rules));
    let output = net(folder.path(), &["install", "--uid=7", "--inbound=1", "--dry-run", "--format=json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["installed"], &report["inbound"]["listener"]), (&false.into(), &1.into()));
    assert_eq!(report["inbound"]["excluded_ports"], serde_json::json!(["22"]));
    assert!(report["ruleset"].as_str().unwrap().contains("redirect to :1\n"));
    assert!(report.get("outbound").is_none());
    let output = net(folder.path(), &["remove", "--dry-run"]);
    assert_eq!(told(&output), "table inet tidegate\ndelete table inet tidegate\n");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        ("install --outbound 1", "--uid"),
        ("install --uid 7", "--outbound"),
        ("install --uid root --outbound 1", "invalid value 'root'"),
        ("install --uid 7 --outbound 0", "invalid value '0'"),
        ("install --uid 7 --outbound 1 --ports 9-8", "no port from 1 to 65535"),
        ("install --uid 7 --outbound 1 --exclude-to 10.0.0.1/8", "write `10.0.0.0/8`"),
        ("install --uid 7 --outbound 1 --exclude-to home", "is no address nor network"),
        ("install --uid 7 --outbound 1 --exclude-from 10.0.0.0/8", "--inbound"),
    ] {
        let output = net(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(told(&output).contains(expected), "{arguments}: {}", told(&output));
    }
}

#[test]
fn an_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let install = ["install", "--uid", "7", "--outbound", "1"];
    let every = [&install[..], &["remove"], &["show"]];
    for command in every {
        let output = net(folder.path(), command);
        assert_eq!(output.status.code(), Some(2));
        assert!(told(&output).contains("apt-get install nftables"), "{command:?}: {}", told(&output));
    }
    let nft = folder.path().join("nft");
    for (said, expected) in [
        ("netlink: Error: cache initialization failed: Operation not permitted", "CAP_NET_ADMIN"),
        ("Error: syntax error, unexpected newline", "syntax error, unexpected newline"),
    ] {
        std::fs::write(&nft, format!("#!/bin/sh\necho '{said}' >&2\nexit 1\n")).unwrap();
        std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
        for command in every {
            let output = net(folder.path(), command);
            assert_eq!(output.status.code(), Some(2));
            assert!(told(&output).contains(expected), "{command:?}: {}", told(&output));
        }
    }
}
