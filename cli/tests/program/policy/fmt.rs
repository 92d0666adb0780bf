//! `tidegate policy fmt`

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use expect_test::expect;

use super::{ACL, bundle, policy, text};

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
