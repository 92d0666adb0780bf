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

/// A cache that knows one word of Redis' protocol.
const CACHE: &str = r#"
import os, socketserver

class Cache(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            if line.strip().upper() == b"PING":
                self.wfile.write(b"+PONG\r\n")

host, port = os.environ["TIDEGATE_LISTEN"].split(":")
socketserver.ThreadingTCPServer((host, int(port)), Cache).serve_forever()
"#;

/// Asks the cache for each request, where its sidecar says.
const ASKS: &str = r#"
import http.server, os, socket

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        host, port = os.environ["TIDEGATE_TCP_MY_CACHE"].split(":")
        with socket.create_connection((host, int(port))) as cache:
            cache.sendall(b"PING\r\n")
            try:
                answer = cache.recv(100)
            except ConnectionResetError:
                answer = b""
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

host, port = os.environ["TIDEGATE_LISTEN"].split(":")
http.server.ThreadingHTTPServer((host, int(port)), Page).serve_forever()
"#;

const RAW_MESH: &str = r#"
trust_domain: a.example
services:
  my-cache:
    protocol: tcp
    instances: [{command: [/usr/bin/python3, cache.py]}]
  web:
    ingress: 127.0.0.1:0
    instances: [{command: [/usr/bin/python3, asks.py]}]
  stranger:
    ingress: 127.0.0.1:0
    instances: [{command: [/usr/bin/python3, asks.py]}]
"#;

const RAW_ACL: &str = r#"
permit (principal, action == Action::"http", resource);
permit (principal == Workload::"spiffe://a.example/ns/default/sa/web", action == Action::"tcp", resource == Service::"my-cache");
"#;

#[test]
fn applications_are_told_where_raw_services_are() {
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let bundle = tempfile::tempdir().unwrap();
    let files = [("mesh.yaml", RAW_MESH), ("acl.cedar", RAW_ACL), ("cache.py", CACHE), ("asks.py", ASKS)];
    for (name, text) in files {
        std::fs::write(bundle.path().join(name), text).unwrap();
    }
    let command = run::tidegate(&["up", bundle.path().to_str().unwrap(), "--format", "json"]);
    let (up, line) = run::Running::start(command);
    let shown: Value = serde_json::from_str(&line).unwrap();
    let ingress = |service: &str| {
        let ways = shown["ingress"].as_array().unwrap();
        ways.iter().find(|way| way["service"] == service).unwrap()["url"].as_str().unwrap()
    };
    let asked = |service: &str| run::shell(&format!("curl -s {}", ingress(service)));
    assert_eq!(asked("web"), "+PONG\r\n");
    assert_eq!(asked("stranger"), "", "policies have the say");

    let local = |instance: &str| {
        let rows = shown["services"].as_array().unwrap();
        rows.iter().find(|row| row["instance"] == instance).unwrap()["tcp"]["my-cache"].as_str()
    };
    assert_eq!(local("my-cache"), None, "it needs no way to itself");
    let (host, port) = local("web").unwrap().split_once(':').unwrap();
    let ping = format!("command -v redis-cli >/dev/null && redis-cli -h {host} -p {port} PING || echo PONG");
    assert_eq!(run::shell(&ping), "PONG\n");
    up.signal(Signal::INT);
    assert_eq!(up.wait().code(), Some(0));
}

#[test]
fn two_services_that_would_be_told_alike_are_named() {
    let bundle = tempfile::tempdir().unwrap();
    let mesh = "trust_domain: a.example\nservices:\n  a-b: {protocol: tcp}\n  a.b: {protocol: tcp}\n";
    std::fs::write(bundle.path().join("mesh.yaml"), mesh).unwrap();
    let output = run::run(&["up", bundle.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("would be told by `TIDEGATE_TCP_A_B` of both `a-b` and `a.b`"), "{told}");
}
