//! The README shows what a user will see: its transcripts are run, and compared line by line.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use regex::Regex;
use rustix::process::Signal;

use crate::run::{self, Running};

/// What differs from run to run: ports, ids, times, the widths of columns that hold them.
fn plain(text: &str) -> String {
    let rules = [
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"/tmp/tidegate-\w+", "STATE"),
        (r"head [0-9a-f]+", "head HASH"),
        (r#""request_id":"[^"]+""#, r#""request_id":"ID""#),
        (r"date: [^\r\n]+", "date: NOW"),
        (r"content-length: \d+", "content-length: N"),
        (r"\d+ (s|min|h)\b", "TIME"),
        (r"[ \t\r]+", " "),
        (r" ?\n ?", "\n"),
    ];
    let replaced = rules.iter().fold(text.to_owned(), |text, (pattern, with)| {
        Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    });
    replaced.trim().to_owned()
}

/// The README's fenced blocks without a language: transcripts.
fn transcripts() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let mut blocks = readme.split("```");
    blocks.next();
    // Every other part is inside a fence.
    blocks.step_by(2).filter_map(|block| block.strip_prefix('\n')).map(str::to_owned).collect()
}

/// A mesh with a copy of Bookinfo's bundle, and what it showed.
struct Shown {
    up: Running,
    bundle: tempfile::TempDir,
    text: String,
    log: BufReader<std::process::ChildStderr>,
}

fn up() -> Shown {
    let bundle = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bookinfo")).unwrap() {
        let entry = entry.unwrap();
        // The bundle's tests lie in a folder of their own.
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), bundle.path().join(entry.file_name())).unwrap();
        }
    }
    let mut command = run::tidegate(&["up", bundle.path().to_str().unwrap(), "--log-format", "human"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut up = Running::spawn(command);
    let log = BufReader::new(up.take_stderr());
    let mut text = String::new();
    for line in BufReader::new(up.take_stdout()).lines() {
        let line = line.unwrap();
        text.push_str(&line);
        text.push('\n');
        if line == "Stop with Ctrl-C." {
            break;
        }
    }
    Shown { up, bundle, text, log }
}

#[test]
fn the_transcripts_are_what_a_user_sees() {
    let mut shown = up();
    let mut transcripts = transcripts().into_iter().filter(|block| !block.contains("──"));
    let overview = transcripts.next().unwrap();
    assert_eq!(plain(&overview), plain(&shown.text));
    let tries: Vec<&str> = shown
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with('#'))
        .collect();
    for typed in tries {
        let transcript = transcripts.next().unwrap();
        assert_eq!(plain(&transcript), plain(&format!("$ {typed}\n{}", run::shell(typed))));
    }

    let acl = shown.bundle.path().join("acl.cedar");
    let good = std::fs::read_to_string(&acl).unwrap();
    std::fs::write(&acl, good.replace("context.path like \"/ratings", "context.pth like \"/ratings"))
        .unwrap();
    let refusal = transcripts.next().unwrap();
    let mut told = String::new();
    while !told.contains("help:") {
        assert_ne!(shown.log.read_line(&mut told).unwrap(), 0, "the log ended: {told}");
    }
    assert!(plain(&told).contains(&plain(&refusal)), "the README has\n{refusal}\nthe log\n{told}");
    std::fs::write(&acl, good).unwrap();

    let audit = transcripts.next().unwrap();
    let line = shown.text.lines().find_map(|line| line.strip_prefix("Certificates: tidegate ")).unwrap();
    let output = run::run(&line.split(' ').collect::<Vec<_>>());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(plain(&audit), plain(&format!("$ tidegate {line}\n{printed}")));
    assert!(transcripts.next().is_none());

    shown.up.signal(Signal::INT);
    assert_eq!(shown.up.wait().code(), Some(0));
}
