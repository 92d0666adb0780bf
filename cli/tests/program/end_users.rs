//! docs/end-users.md shows what a user will see: its example runs, and its transcripts are typed and compared.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use regex::Regex;
use rustix::process::Signal;

use crate::run::{self, Running};

/// What differs from run to run: ports, ids, times.
fn plain(text: &str) -> String {
    let rules = [
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r#""request_id":"[^"]+""#, r#""request_id":"ID""#),
        (r"date: [^\r\n]+", "date: NOW"),
        (r"\r", ""),
    ];
    let replaced = rules.iter().fold(text.to_owned(), |text, (pattern, with)| {
        Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    });
    replaced.trim().to_owned()
}

#[test]
fn the_document_is_what_happens() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/end-users.md")).unwrap();
    let blocks: Vec<&str> = document.split("```").skip(1).step_by(2).collect();
    let bundle = tempfile::tempdir().unwrap();
    for block in &blocks {
        let (info, text) = block.split_once('\n').unwrap();
        let Some((_, name)) = info.split_once("title=") else { continue };
        let path = bundle.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Any free port.
        fs::write(path, text.replace("127.0.0.1:8080", "127.0.0.1:0")).unwrap();
    }
    let tokens = blocks.iter().find_map(|block| block.strip_prefix("sh\n")).unwrap();
    let folder = bundle.path().to_str().unwrap();

    let mut command = run::tidegate(&["up", folder]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut up = Running::spawn(command);
    let mut shown = BufReader::new(up.take_stdout()).lines().map(Result::unwrap);
    let ingress = shown.find_map(|line| {
        let address = line.strip_prefix("details ")?.trim_start().strip_prefix("http://")?;
        Some(address.trim_end_matches('/').to_owned())
    });
    let ingress = ingress.unwrap();
    assert!(shown.any(|line| line == "Stop with Ctrl-C."));

    let transcripts: Vec<&str> = blocks.iter().filter_map(|block| block.strip_prefix("\n$ ")).collect();
    let steps: Vec<&str> = transcripts.iter().flat_map(|block| block.split("\n$ ")).collect();
    assert_eq!(steps.len(), 6);
    for step in steps {
        let (typed, expected) = step.split_once('\n').unwrap();
        let typed = typed.replace("127.0.0.1:8080", &ingress);
        let printed = match typed.strip_prefix("tidegate ") {
            Some(arguments) => {
                let real = |word| if word == "users" { folder } else { word };
                let arguments: Vec<&str> = arguments.split(' ').map(real).collect();
                String::from_utf8(run::run(&arguments).stdout).unwrap()
            }
            None => run::shell(&format!("{tokens}\n{typed}")),
        };
        assert_eq!(plain(&printed.replace(folder, "users")), plain(expected), "{typed}");
    }
    up.signal(Signal::INT);
    assert_eq!(up.wait().code(), Some(0));
}
