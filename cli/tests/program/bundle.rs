//! Bundles as signed archives: built, looked at, and refused when they were changed.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::run::{run, shell};

const MESH: &str = "trust_domain: shop.example\nservices: {orders: {namespace: shop}}\n";
const ACL: &str = r#"@id("readers") permit (principal, action == Action::"http", resource == Service::"orders")
when { context.method == "GET" };
"#;

/// A folder with a bundle, `shop`, and a key, `release`.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("shop/mesh.yaml", MESH);
        desk.write("shop/acl.cedar", ACL);
        desk.write("shop/tests/a.yaml", "tests: []\n");
        desk.write("shop/.git/config", "hidden\n");
        desk.ok(&["key", "{}/release"]);
        desk
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `tidegate bundle`; `{}` stands for this folder.
    fn bundle(&self, arguments: &[&str]) -> Output {
        let here = self.0.path().to_str().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace("{}", here)).collect();
        let arguments: Vec<&str> =
            std::iter::once("bundle").chain(arguments.iter().map(String::as_str)).collect();
        run(&arguments)
    }

    /// What a successful `tidegate bundle` printed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.bundle(arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{told}", text(&output.stdout));
        text(&output.stdout)
    }

    fn build(&self, archive: &str, serial: &str) -> String {
        #[rustfmt::skip]
        let arguments = ["build", "{}/shop", "--sign", "{}/release.key.pem", "-o", archive, "--serial", serial, "--created", "1764547200"];
        self.ok(&arguments)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_bundle_is_packed_looked_at_and_unpacked() {
    let desk = Desk::new();
    let told = desk.build("{}/shop.tgb", "7");
    for part in
        ["name     shop\nserial   7\ncreated  2025-12-01T00:00:00Z\nfiles    3, ", "\nsigned   by key "]
    {
        assert!(told.contains(part), "{told}");
    }
    desk.build("{}/again.tgb", "7");
    assert_eq!(fs::read(desk.path("shop.tgb")).unwrap(), fs::read(desk.path("again.tgb")).unwrap());

    let verified = desk.ok(&["verify", "{}/shop.tgb", "--key", "{}/release.pub.pem"]);
    assert_eq!(verified, format!("{}verified\n", told.split("written").next().unwrap()));
    let shown: Value = serde_json::from_str(&desk.ok(&["show", "{}/shop.tgb", "--format", "json"])).unwrap();
    assert_eq!((&shown["serial"], &shown["verified"]), (&7.into(), &false.into()));
    let names: Vec<&String> = shown["files"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["acl.cedar", "mesh.yaml", "tests/a.yaml"]);
    assert!(desk.ok(&["show", "{}/shop.tgb"]).contains("not verified: say `--key FILE`"));
    let shown = desk.ok(&["show", "{}/shop.tgb", "--key", "{}/release.pub.pem"]);
    assert!(shown.contains("\nverified\n") && shown.contains("tests/a.yaml"), "{shown}");

    desk.ok(&["unpack", "{}/shop.tgb", "{}/copy", "--key", "{}/release.pub.pem"]);
    assert_eq!(fs::read_to_string(desk.path("copy/acl.cedar")).unwrap(), ACL);
    let output = desk.bundle(&["unpack", "{}/shop.tgb", "{}/copy", "--key", "{}/release.pub.pem"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is there already"));
}

#[test]
fn standard_tools_read_it_too() {
    let desk = Desk::new();
    desk.build("{}/shop.tgb", "7");
    let archive = desk.path("shop.tgb");
    let listed = "\
.tidegate/manifest.json
.tidegate/signature
acl.cedar
mesh.yaml
tests/a.yaml
";
    assert_eq!(shell(&format!("tar -tf {archive}")), listed);
    assert_eq!(shell(&format!("tar -xOf {archive} acl.cedar")), ACL);
    let shown: Value = serde_json::from_str(&desk.ok(&["show", "{}/shop.tgb", "--format", "json"])).unwrap();
    let sum = format!("tar -xOf {archive} .tidegate/manifest.json | sha256sum");
    assert_eq!(shell(&sum).split(' ').next(), shown["digest"].as_str());
}

#[test]
fn what_was_changed_or_is_strangers_is_refused() {
    let desk = Desk::new();
    desk.build("{}/shop.tgb", "7");
    let made = desk.ok(&["key", "{}/other", "--format", "json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["public"], desk.path("other.pub.pem"));
    let verify = |key: &str| desk.bundle(&["verify", "{}/shop.tgb", "--key", key]);
    let output = verify("{}/other.pub.pem");
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("it is signed by key ") && told.contains(", trusted are "), "{told}");
    desk.ok(&["verify", "{}/shop.tgb", "--key", "{}/other.pub.pem", "--key", "{}/release.pub.pem"]);

    let archive = fs::read(desk.path("shop.tgb")).unwrap();
    let at = archive.windows(7).position(|bytes| bytes == b"readers").unwrap();
    let mut changed = archive;
    changed[at] = b'R';
    fs::write(desk.path("shop.tgb"), changed).unwrap();
    for command in [
        &["verify", "{}/shop.tgb", "--key", "{}/release.pub.pem"][..],
        &["show", "{}/shop.tgb"],
        &["unpack", "{}/shop.tgb", "{}/new", "--key", "{}/release.pub.pem"],
    ] {
        let output = desk.bundle(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(text(&output.stdout).contains("the archive's `acl.cedar` was changed"));
    }
    assert!(!Path::new(&desk.path("new")).exists());
    for command in
        [&["verify", "{}/shop.tgb"][..], &["show", "{}/shop.tgb"], &["unpack", "{}/shop.tgb", "{}/new"]]
    {
        let output = desk.bundle(&[command, &["--key", "{}/release.pub.pem", "--format", "json"]].concat());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&told["verified"], output.status.code()), (&false.into(), Some(1)));
    }
    assert_eq!(desk.bundle(&["verify", "{}/none", "--key", "{}/release.pub.pem"]).status.code(), Some(2));
    assert_eq!(verify("{}/release.key.pem").status.code(), Some(2));
}

#[test]
fn a_bundle_with_a_mistake_is_not_packed() {
    let desk = Desk::new();
    desk.write("shop/acl.cedar", "permit (principal, action resource);");
    let build = ["build", "{}/shop", "--sign", "{}/release.key.pem", "-o", "{}/shop.tgb"];
    let output = desk.bundle(&build);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("acl.cedar:1:27") && told.ends_with("no archive was written\n"), "{told}");
    assert!(!Path::new(&desk.path("shop.tgb")).exists());
    // What an adapter needs is missed before policyd misses it.
    desk.write("shop/acl.cedar", ACL);
    desk.write(
        "shop/adapters.yaml",
        "handlers: [{name: blocked, adapter: list, config: {mode: deny, match: exact, file: blocked.txt}}]\n",
    );
    let told = desk.ok(&build);
    assert!(
        told.contains("warning: the handler `blocked` can't start: ") && told.contains("`blocked.txt`"),
        "{told}"
    );
    desk.write("shop/blocked.txt", "someone\n");
    assert!(!desk.ok(&build).contains("warning"));
}

#[test]
fn a_key_is_never_overwritten() {
    let desk = Desk::new();
    let before = fs::read(desk.path("release.key.pem")).unwrap();
    let output = desk.bundle(&["key", "{}/release"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(desk.path("release.key.pem")).unwrap(), before);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(desk.path("release.key.pem")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}
