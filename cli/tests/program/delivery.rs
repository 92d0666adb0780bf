//! A signed archive on its way into a policyd that runs, and back again: docs/delivery.md, as it happens.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::mpsc::{self, Receiver};

use regex::Regex;
use rustix::process::Signal;
use serde_json::Value;

use crate::daemons::free;
use crate::run::{self, Running};

/// A daemon, and what it logs.
struct Daemon {
    running: Running,
    log: Receiver<String>,
}

impl Daemon {
    fn start(folder: &Path, kind: &str, config: &str, said: &str) -> Self {
        let mut command = run::tidegate(&[kind, "--config", config]);
        command.current_dir(folder).stderr(Stdio::piped());
        let mut running = Running::spawn(command);
        let lines = BufReader::new(running.take_stderr()).lines();
        let (told, log) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| told.send(line)));
        let daemon = Self { running, log };
        daemon.heard(said);
        daemon
    }

    /// Waits until the log says `said`, and returns that line.
    fn heard(&self, said: &str) -> String {
        let heard = self.log.iter().inspect(|line| eprintln!("{line}")).find(|line| line.contains(said));
        assert!(heard.is_some(), "it ended without saying `{said}`");
        heard.unwrap_or_default()
    }

    fn stop(self) {
        self.running.signal(Signal::TERM);
        assert_eq!(self.running.wait().code(), Some(0));
    }
}

/// What differs from run to run.
fn plain(text: &str) -> String {
    let rules = [
        (r"\b[0-9a-f]{64}\b", "SHA-256"),
        (r"\b[0-9a-f]{12}\b", "SHORT"),
        (r"\b[0-9a-f]{8,16}\.(\d+)\b", "EPOCH.$1"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"\b\d{13}\b", "SERIAL"),
        (r"/tmp/\S+/", ""),
        (r"\d+ bytes", "N bytes"),
        (r"[ \t]+", " "),
        (r" ?\n ?", "\n"),
    ];
    let replaced = rules.iter().fold(text.to_owned(), |text, (pattern, with)| {
        Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    });
    replaced.trim().to_owned()
}

/// A folder with Bookinfo's bundle, in which the document's commands are typed.
struct Site {
    folder: tempfile::TempDir,
    /// What the document still shows: commands with what they print, and the answer of `/readyz`.
    transcripts: std::vec::IntoIter<String>,
    admin: String,
}

impl Site {
    fn new(document: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("policies/bookinfo")).unwrap();
        for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bookinfo")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), folder.path().join("policies/bookinfo").join(entry.file_name()))
                    .unwrap();
            }
        }
        let [ca, ca_admin, listen, admin] = free();
        let config =
            document.split("```yaml title=policyd.yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let addresses = [("127.0.0.1:7000", ca), ("127.0.0.1:7001", listen), ("127.0.0.1:7101", admin)];
        let config =
            addresses.iter().fold(config.to_owned(), |text, (from, to)| text.replace(from, &to.to_string()));
        fs::write(folder.path().join("policyd.yaml"), config).unwrap();
        let config =
            format!("trust_domain: bookinfo.example\nstate_dir: state/ca\nlisten: {ca}\nadmin: {ca_admin}\n");
        fs::write(folder.path().join("ca.yaml"), config).unwrap();
        let blocks = document.split("```").skip(1).step_by(2);
        let shown =
            blocks.filter_map(|block| block.strip_prefix('\n')).map(str::to_owned).collect::<Vec<_>>();
        Self { folder, transcripts: shown.into_iter(), admin: admin.to_string() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// `tidegate` in this folder.
    fn typed(&self, typed: &str) -> Output {
        run::tidegate(&typed.split(' ').collect::<Vec<_>>()).current_dir(self.folder.path()).output().unwrap()
    }

    /// Types the next command of the document, and compares what comes.
    fn as_shown(&mut self, start: &str) {
        let shown = self.transcripts.next().unwrap();
        let typed = shown.lines().next().unwrap().strip_prefix("$ tidegate ").unwrap().to_owned();
        assert!(typed.starts_with(start), "{typed}");
        let output = self.typed(&typed);
        let printed = format!("$ tidegate {typed}\n{}", String::from_utf8(output.stdout).unwrap());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(plain(&shown), plain(&printed), "the document shows\n{shown}\nthis is\n{printed}{told}");
    }

    fn build(&self) {
        let build = "bundle build policies/bookinfo --sign release.key.pem -o bookinfo.tgb";
        let output = self.typed(build);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }

    fn edit(&self, comment: &str) {
        let acl = self.path("policies/bookinfo/acl.cedar");
        let text = fs::read_to_string(&acl).unwrap();
        fs::write(acl, format!("{text}// {comment}\n")).unwrap();
    }

    fn policyd(&self, said: &str) -> Daemon {
        let id = "spiffe://bookinfo.example/ns/tidegate/sa/policyd";
        let output = self.typed(&format!("ca token --config ca.yaml --id {id} --instance policyd"));
        fs::write(self.path("policyd.token"), output.stdout).unwrap();
        Daemon::start(self.folder.path(), "policyd", "policyd.yaml", said)
    }

    /// The history as JSON, and the exit code.
    fn history(&self) -> (Value, Option<i32>) {
        let output = self.typed("bundle history state/policyd --format json");
        (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
    }

    fn get(&self, path: &str) -> String {
        run::shell(&format!("curl -s http://{}/{path}", self.admin))
    }

    fn metric(&self, name: &str) -> String {
        let text = self.get("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("tidegate_policyd_{name} ")));
        assert!(line.is_some(), "no {name} in {text}");
        line.unwrap_or_default().to_owned()
    }
}

#[test]
fn the_document_is_what_happens() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/delivery.md")).unwrap();
    let mut site = Site::new(&document);
    site.as_shown("bundle key");
    site.as_shown("bundle build");
    site.as_shown("bundle verify");
    let ca = Daemon::start(site.folder.path(), "ca", "ca.yaml", "the CA serves");
    let policyd = site.policyd("policyd serves");

    site.edit("the second");
    site.build();
    policyd.heard("the bundle was changed and is in force");
    site.as_shown("bundle history");
    let (history, code) = site.history();
    let digests: Vec<Value> =
        history["entries"].as_array().unwrap().iter().map(|e| e["digest"].clone()).collect();
    assert_eq!((digests.len(), code), (2, Some(0)));
    assert_eq!(history["in_force"], digests[1]);

    // A byte is changed: refused, and the old one stays.
    let mut bytes = fs::read(site.path("bookinfo.tgb")).unwrap();
    let at = bytes.len() - 1025;
    bytes[at] ^= 1;
    fs::write(site.path("bookinfo.tgb"), bytes).unwrap();
    policyd.heard("the bundle was changed and is refused");
    let (history, code) = site.history();
    assert_eq!((&history["in_force"], code), (&digests[1], Some(1)));
    assert!(history["status"]["source_refused"][0]["file"].as_str().unwrap().ends_with("bookinfo.tgb"));
    assert_eq!(site.metric("bundle_valid"), "0");

    // A second policyd on the same folder would write the same history.
    let config = fs::read_to_string(site.path("policyd.yaml")).unwrap();
    let ports = |line: &&str| line.starts_with("listen:") || line.starts_with("admin:");
    let config = config.lines().filter(|line| !ports(line)).collect::<Vec<_>>().join("\n");
    fs::write(site.path("second.yaml"), config).unwrap();
    let output = site.typed("policyd --config second.yaml");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && told.contains("another policyd uses `state/policyd`"),
        "{told}"
    );
    policyd.stop();

    let policyd = site.policyd("the last good one serves instead");
    policyd.heard("policyd serves");
    let (history, code) = site.history();
    assert_eq!(
        (&history["in_force"], &history["status"]["why"], code),
        (&digests[1], &"last_good".into(), Some(1))
    );
    assert_eq!(site.metric("bundle_last_good"), "1");
    // The document shows it between the history and the rollback.
    let shown = site.transcripts.next().unwrap();
    assert_eq!(plain(&shown), plain(&site.get("readyz")));

    site.as_shown("bundle rollback");
    let (history, _) = site.history();
    assert_eq!((&history["in_force"], &history["pinned"]), (&digests[0], &digests[0]));
    assert_eq!(site.metric("bundle_pinned"), "1");
    site.edit("the third");
    site.build();
    policyd.heard("the bundle is good again, and waits for a release");
    assert_eq!(site.history().0["in_force"], digests[0]);
    site.as_shown("bundle release");
    let (history, code) = site.history();
    assert_eq!((&history["status"]["why"], code), (&"source".into(), Some(0)));
    assert!(!digests.contains(&history["in_force"]));
    assert!(site.transcripts.next().is_none());

    // Nothing runs: the next start is what is chosen now.
    policyd.stop();
    let number = history["entries"][0]["number"].to_string();
    let output = site.typed(&format!("bundle rollback state/policyd --to {number}"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("policyd does not run"));
    let policyd = site.policyd("policyd serves");
    assert_eq!(site.history().0["in_force"], digests[0]);
    policyd.stop();
    ca.stop();
}

#[test]
fn a_rollback_that_can_not_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let told = |arguments: &[&str]| {
        let output = run::run(&[&["bundle"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for command in ["history", "rollback", "release"] {
        assert!(told(&[command, state]).contains("is no state folder of a policyd"), "{command}");
    }
    let digest = "3f9a12ab".repeat(8);
    let entry = format!(
        r#"{{"number":1,"at":"2026-01-01T00:00:00Z","digest":"{digest}","why":"source","revision":"1.1","name":"shop","serial":null,"signed_by":null,"changes":"the first"}}"#
    );
    fs::write(folder.path().join("history.jsonl"), format!("{entry}\n")).unwrap();
    assert!(told(&["rollback", state]).contains("no bundle came before 3f9a12ab3f9a"));
    assert!(told(&["rollback", state, "--to", "2"]).contains("the history has no `2`"));
    assert!(told(&["rollback", state, "--to", "3f9"]).contains("no digest of at least 8 digits"));
    assert!(told(&["rollback", state, "--to", "1"]).contains("is kept no longer"));
    assert!(told(&["rollback", state, "--to", "3f9a12ab"]).contains("is kept no longer"));
    assert!(told(&["release", state]).contains("nothing is pinned"));
}
