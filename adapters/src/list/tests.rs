use model::Value;
use serde_json::json;

use super::source::FILE_SIZE_MAX;
use super::*;
use crate::conformance::build_check;

fn instance(value: Option<Value>) -> Instance {
    let fields = value.map(|value| ("value".to_owned(), value)).into_iter().collect();
    Instance { name: "caller".to_owned(), fields }
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

#[tokio::test]
async fn what_is_not_known_to_be_allowed_is_denied() {
    let table = [
        ("deny", None, text("a"), Verdict::Deny, "on the deny list"),
        ("deny", None, text("b"), Verdict::Allow, ""),
        ("allow", None, text("a"), Verdict::Allow, ""),
        ("allow", None, text("b"), Verdict::Deny, "not on the allow list"),
        ("deny", None, None, Verdict::Deny, "the value to look up is missing"),
        ("allow", None, None, Verdict::Deny, "the value to look up is missing"),
        ("deny", Some("allow"), None, Verdict::Allow, ""),
        (
            "deny",
            Some("allow"),
            Some(Value::Long(1)),
            Verdict::Deny,
            "the value can't be compared with the list",
        ),
    ];
    for (mode, missing, value, verdict, message) in table {
        let mut config = json!({"mode": mode, "match": "exact", "entries": ["a"], "valid_for": "7s"});
        if let Some(missing) = missing {
            config["missing"] = json!(missing);
        }
        let handler = build_check(&List, &config, Path::new("")).await;
        let opinion = handler.check(&instance(value.clone())).await.unwrap();
        assert_eq!((opinion.verdict, opinion.message.as_str()), (verdict, message), "{mode} {value:?}");
        assert_eq!(opinion.valid_for, Duration::from_secs(7));
    }
}

#[test]
fn a_bad_configuration_is_told_all_at_once() {
    let table = [
        (json!({}), vec!["", "", ""]),
        (json!({"mode": "deny", "match": "exact"}), vec![""]),
        (json!({"mode": "deny", "match": "exact", "entries": []}), vec![]),
        (
            json!({"mode": "deny", "match": "cidr", "entries": ["x", "::/0", "10.1.1.1/8"]}),
            vec!["/entries/0", "/entries/2"],
        ),
        (
            json!({"mode": "x", "match": "y", "file": 1, "refresh": "1ms"}),
            vec!["/mode", "/match", "/file", "/refresh"],
        ),
    ];
    for (config, expected) in table {
        let errors = List.validate(&config, Path::new("")).err().unwrap_or_default();
        let pointers: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, expected, "{config}");
    }
}

struct FileList {
    _folder: tempfile::TempDir,
    path: PathBuf,
    handler: Arc<dyn CheckHandler>,
    changed: watch::Receiver<u64>,
}

impl FileList {
    async fn new(content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denied.txt");
        std::fs::write(&path, content).unwrap();
        let config = json!({"mode": "deny", "match": "cidr", "entries": ["10.9.9.9"], "file": "denied.txt"});
        let handler = build_check(&List, &config, folder.path()).await;
        let changed = handler.changed().unwrap();
        Self { _folder: folder, path, handler, changed }
    }

    async fn denies(&self, address: &str) -> bool {
        self.handler.check(&instance(text(address))).await.unwrap().verdict == Verdict::Deny
    }
}

#[tokio::test(start_paused = true)]
async fn an_edited_file_is_in_force_after_a_refresh() {
    let mut list = FileList::new("# callers who misbehave\n10.1.0.0/16   # the lab\n\n10.2.2.2\n").await;
    assert!(list.denies("10.1.2.3").await && list.denies("10.2.2.2").await && list.denies("10.9.9.9").await);
    assert!(!list.denies("10.3.3.3").await);
    std::fs::write(&list.path, "10.3.0.0/16\n").unwrap();
    list.changed.changed().await.unwrap();
    assert!(list.denies("10.3.3.3").await && list.denies("10.9.9.9").await);
    assert!(!list.denies("10.1.2.3").await);
}

#[tokio::test(start_paused = true)]
async fn a_broken_or_vanished_file_changes_nothing() {
    let mut list = FileList::new("10.1.1.1\n").await;
    let large = "# ".repeat(usize::try_from(FILE_SIZE_MAX).unwrap() / 2 + 1);
    let table: [&[u8]; 3] = [b"10.2.2.2\nnonsense\n", b"\xff\n", large.as_bytes()];
    for content in table {
        std::fs::write(&list.path, content).unwrap();
        tokio::time::sleep(10 * REFRESH).await;
        assert!(list.denies("10.1.1.1").await && !list.denies("10.2.2.2").await);
    }
    std::fs::remove_file(&list.path).unwrap();
    tokio::time::sleep(10 * REFRESH).await;
    assert!(list.denies("10.1.1.1").await);
    assert!(!list.changed.has_changed().unwrap());
    std::fs::write(&list.path, "10.4.4.4\n").unwrap();
    list.changed.changed().await.unwrap();
    assert!(list.denies("10.4.4.4").await && !list.denies("10.1.1.1").await);
}

#[tokio::test(start_paused = true)]
async fn a_touched_file_is_no_change_and_a_closed_handler_looks_no_more() {
    let list = FileList::new("10.1.1.1\n").await;
    std::fs::write(&list.path, "10.1.1.1\n").unwrap();
    tokio::time::sleep(10 * REFRESH).await;
    assert!(!list.changed.has_changed().unwrap());
    list.handler.close().await;
    std::fs::write(&list.path, "10.2.2.2\n").unwrap();
    tokio::time::sleep(10 * REFRESH).await;
    assert!(!list.changed.has_changed().unwrap());
    assert!(list.denies("10.1.1.1").await);
}

#[tokio::test]
async fn a_file_that_is_bad_from_the_start_fails_the_build_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"mode": "deny", "match": "cidr", "file": "denied.txt"});
    let build = async || {
        let validated = List.validate(&config, folder.path()).unwrap();
        validated.build(Environment::default()).await.unwrap_err().to_string()
    };
    assert!(build().await.ends_with("denied.txt` can't be opened"));
    std::fs::create_dir(folder.path().join("denied.txt")).unwrap();
    assert!(build().await.ends_with("denied.txt` can't be used: it is no regular file"));
    std::fs::remove_dir(folder.path().join("denied.txt")).unwrap();
    std::fs::write(folder.path().join("denied.txt"), "# one\n10.1.1.1\nnonsense\n").unwrap();
    let error = build().await;
    assert!(error.contains("denied.txt` can't be used: line 3: `nonsense` is no address"), "{error}");
}
