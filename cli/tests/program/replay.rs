//! `tidegate policy replay`, as a user runs it.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::run::{run, tidegate};

const ALLOWED: &str = r#"{"ts":"2026-01-01T12:00:00Z","request_id":"a","instance":"ratings-v1","service":"ratings","principal":"spiffe://bookinfo.example/ns/bookinfo/sa/reviews","action":"http","verdict":"allow","enforced":true,"source":"miss","reasons":["reviews-read-ratings"],"limits":["ratings-per-caller"],"rules":["count-requests"],"revision":"5e.3","input":{"method":"GET","path":"/ratings/0","host":"ratings","source_ip":"127.0.0.1","tls":true}}"#;
const BUNDLE: &str = "policies/bookinfo";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_exit_code_says_whether_anything_changes_or_was_replayed_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = path.to_str().unwrap();
    let other = ALLOWED.replace("\"allow\"", "\"deny\"").replace("\"ratings-per-caller\"", "");
    for (lines, code, shown, told) in [
        (format!("{ALLOWED}\n"), 0, "nothing changes: 1 request would be decided alike\n", ""),
        (format!("{ALLOWED}\n{other}\n"), 1, "1 of 2 requests would be decided otherwise\n", ""),
        ("{}\n".to_owned(), 2, "nothing changes: 0 requests", "error: no line could be decided again\n"),
    ] {
        std::fs::write(&path, lines).unwrap();
        let output = run(&["policy", "replay", BUNDLE, "--log", log]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with(shown), "{}", text(&output.stdout));
        assert_eq!(text(&output.stderr), told);
    }
    let output = run(&["policy", "replay", BUNDLE, "--log", "no/such/log"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`no/such/log` can't be read"), "{}", text(&output.stderr));
    let output = run(&["policy", "replay", "no/such/bundle", "--log", log]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn standard_input_is_a_log_too() {
    let mut command = tidegate(&["policy", "replay", BUNDLE, "--log", "-", "--format", "json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{ALLOWED}\nno line").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["replayed"], &shown["changed"]), (&1.into(), &0.into()), "{shown}");
    assert_eq!(shown["skipped"][0]["first"], "standard input:2");
}
