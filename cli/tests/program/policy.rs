//! The tools of policy authors: what they print, and their exit codes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use expect_test::expect;
use tempfile::TempDir;

use crate::run::run;

const MESH: &str = "trust_domain: a.example\nservices: {orders: {namespace: shop}}\n";
const ACL: &str = r#"@id("readers") permit (principal, action == Action::"http", resource == Service::"orders")
when { context.method == "GET" };
"#;

fn bundle(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("mesh.yaml", MESH), ("acl.cedar", ACL)].iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn policy(arguments: &[&str], bundle: &Path) -> Output {
    run(&[&["policy"], arguments, &[bundle.to_str().unwrap()]].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_tests_of_bookinfo_pass() {
    let output = policy(&["test"], Path::new("policies/bookinfo"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "14 passed, 0 failed\n");
    let output = policy(&["test", "--filter", "no ratings"], Path::new("policies/bookinfo"));
    assert_eq!(text(&output.stdout), "2 passed, 0 failed\n");
}

#[test]
fn a_failed_test_is_shown_as_a_difference() {
    let tests = "\
tests:
  - name: anyone writes
    request: {service: orders, method: POST}
    expect: {decision: allow, policies: [readers]}
";
    let bundle = bundle(&[("tests/acl.yaml", tests)]);
    let output = policy(&["test"], bundle.path());
    assert_eq!(output.status.code(), Some(1));
    expect![[r#"
        failed: anyone writes
          --> tests/acl.yaml:2
           | decision  expected  allow
           |           got       deny
           | policies  expected  `readers`
           |           got       none
           = no policy permits this request

        0 passed, 1 failed
    "#]]
    .assert_eq(&text(&output.stdout));
    let output = policy(&["test", "--format", "json"], bundle.path());
    assert_eq!(output.status.code(), Some(1));
    expect![[r#"
        {
          "passed": 0,
          "failed": 1,
          "tests": [
            {
              "name": "anyone writes",
              "file": "tests/acl.yaml",
              "line": 2,
              "passed": false,
              "expected": {
                "decision": "allow",
                "policies": [
                  "readers"
                ],
                "limits": null,
                "rules": null
              },
              "got": {
                "decision": "deny",
                "policies": [],
                "limits": [],
                "rules": [],
                "message": "no policy permits this request"
              }
            }
          ]
        }
    "#]]
    .assert_eq(&text(&output.stdout));
}

#[test]
fn tests_that_can_not_run_are_an_error() {
    assert_eq!(policy(&["test"], Path::new("/no/such/folder")).status.code(), Some(2));
    let output = policy(&["test"], bundle(&[]).path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the bundle has no tests"));
    let wrong = "tests:\n  - name: a\n    request: {service: order}\n    expect: {decision: deny}\n";
    let output = policy(&["test"], bundle(&[("tests/a.yaml", wrong)]).path());
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(told.contains("tests/a.yaml:3:24") && told.contains("did you mean `orders`?"), "{told}");
    let output = policy(&["test", "--filter", "zebra"], Path::new("policies/bookinfo"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no test's name holds `zebra`"));
}

#[test]
fn cedar_files_are_formatted_once() {
    let bundle = bundle(&[]);
    let acl = bundle.path().join("acl.cedar");
    let output = policy(&["fmt", "--check"], bundle.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "acl.cedar\n1 of 1 Cedar files would change\n");
    assert_eq!(fs::read_to_string(&acl).unwrap(), ACL);

    fs::set_permissions(&acl, Permissions::from_mode(0o640)).unwrap();
    let output = policy(&["fmt"], bundle.path());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::metadata(&acl).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(text(&output.stdout), "acl.cedar\n1 of 1 Cedar files changed\n");
    expect![[r#"
        @id("readers")
        permit (
          principal,
          action == Action::"http",
          resource == Service::"orders"
        )
        when { context.method == "GET" };
    "#]]
    .assert_eq(&fs::read_to_string(&acl).unwrap());
    assert_eq!(fs::read_dir(bundle.path()).unwrap().count(), 2, "nothing else is left behind");

    let output = policy(&["fmt", "--check", "--format", "json"], bundle.path());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "{\"files\":1,\"changed\":[]}\n");
}

#[test]
fn a_link_stays_a_link() {
    let (bundle, elsewhere) = (bundle(&[]), tempfile::tempdir().unwrap());
    let (acl, real) = (bundle.path().join("acl.cedar"), elsewhere.path().join("shared.cedar"));
    fs::rename(&acl, &real).unwrap();
    std::os::unix::fs::symlink(&real, &acl).unwrap();
    assert_eq!(policy(&["fmt"], bundle.path()).status.code(), Some(0));
    assert!(fs::symlink_metadata(&acl).unwrap().is_symlink());
    assert_ne!(fs::read_to_string(&real).unwrap(), ACL);
}

#[test]
fn a_file_that_does_not_parse_keeps_all_from_being_formatted() {
    let bundle = bundle(&[("b.cedar", "permit (principal, action, resource) when { contxt };")]);
    let output = policy(&["fmt"], bundle.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("b.cedar:1:45"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(bundle.path().join("acl.cedar")).unwrap(), ACL);
}

#[test]
fn a_denial_is_explained() {
    let bundle = Path::new("policies/bookinfo");
    let output = policy(&["explain", "--service", "ratings", "--path", "/ratings/0"], bundle);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    expect![[r#"
        deny: no policy permits this request

        forbid: `the-page-reads-no-ratings` is not satisfied
          --> acl.cedar:39:3
           |
        39 |   principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/productpage",
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"

        permit: `reviews-read-ratings` is not satisfied
          --> acl.cedar:29:3
           |
        29 |   principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/reviews",
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"

        permit: `the-page-reads-details-and-reviews` is not satisfied
          --> acl.cedar:16:3
           |
        16 |   principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/productpage",
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: principal = "unauthenticated"
        ...
        22 |   [Service::"details", Service::"reviews"].contains(resource) &&
           |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: resource = "ratings"
        23 |   context.method == "GET" &&
        24 |   (context.path like "/details/*" || context.path like "/reviews/*")
           |    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ false: context.path = "/ratings/0"

        1 other policy is for other services

        limits charged: none
        rules that match: blocked, count-requests
    "#]].assert_eq(&text(&output.stdout));
}

#[test]
fn an_explanation_is_for_programs_too() {
    let request = "principal: spiffe://a.example/ns/shop/sa/cart\nservice: orders\nheaders: {x-user: anna}\n";
    let bundle = bundle(&[("tests/request", request)]);
    let file = bundle.path().join("tests/request");
    let file = file.to_str().unwrap();
    let output = policy(&["explain", "--request", file, "--format", "json"], bundle.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    expect![[r#"
        {
          "decision": "allow",
          "message": "permitted by `readers`",
          "policies": [
            "readers"
          ],
          "limits": [],
          "rules": [],
          "explained": [
            {
              "id": "readers",
              "effect": "permit",
              "place": {
                "file": "acl.cedar",
                "line": 1,
                "column": 1,
                "start": 0,
                "end": 124
              },
              "satisfied": true,
              "unmet": []
            }
          ],
          "others": 0
        }
    "#]]
    .assert_eq(&text(&output.stdout));
}

#[test]
fn a_request_that_can_not_be_is_an_error() {
    let bundle = Path::new("policies/bookinfo");
    let output = policy(&["explain", "--service", "rating", "--path", "x", "--header", "A=b"], bundle);
    assert_eq!(output.status.code(), Some(2));
    expect![[r#"
        error: there is no service `rating`
          help: did you mean `ratings`?
        error: `x` is not a path
          help: a path starts with `/`
        error: there is never a header `A`: policies see names in lower case
          help: write `a`
    "#]]
    .assert_eq(&text(&output.stderr));
    let output = policy(&["explain"], bundle);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--request <FILE>"), "{}", text(&output.stderr));
    let output = policy(&["explain", "--service", "ratings", "--request", "a.yaml"], bundle);
    assert_eq!(output.status.code(), Some(2));
}

/// In docs/policy-tools.md, the first file is a test of Bookinfo, and a block that starts with `$` is a transcript.
#[test]
fn what_the_document_shows_is_what_a_user_sees() {
    let document =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy-tools.md")).unwrap();
    let blocks: Vec<&str> = document.split("```").skip(1).step_by(2).collect();
    let tests = blocks.iter().find_map(|block| block.strip_prefix("yaml title=tests/acl.yaml\n")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bookinfo")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    fs::create_dir(folder.path().join("tests")).unwrap();
    fs::write(folder.path().join("tests/acl.yaml"), tests).unwrap();
    let folder = folder.path().to_str().unwrap();

    let transcripts: Vec<&str> =
        blocks.iter().filter_map(|block| block.strip_prefix("\n$ tidegate ")).collect();
    assert_eq!(transcripts.len(), 3);
    for transcript in transcripts {
        let (typed, shown) = transcript.split_once('\n').unwrap();
        let typed: Vec<&str> =
            typed.split(' ').map(|word| if word == "policies/bookinfo" { folder } else { word }).collect();
        let output = run(&typed);
        assert_eq!(shown, text(&output.stdout), "{}", text(&output.stderr));
    }
}
