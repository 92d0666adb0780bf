//! The smaller commands: help, completions, checks of bundles, exit codes.

use crate::run::run;

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        &[][..],
        &["up"],
        &["ca"],
        &["ca", "token"],
        &["policyd"],
        &["proxy"],
        &["net", "install"],
        &["net", "remove"],
        &["net", "show"],
        &["policy", "check"],
        &["policy", "test"],
        &["policy", "explain"],
        &["policy", "replay"],
        &["policy", "diff"],
        &["policy", "who-can"],
        &["policy", "what-can"],
        &["policy", "fmt"],
        &["bundle", "build"],
        &["bundle", "verify"],
        &["bundle", "show"],
        &["bundle", "unpack"],
        &["bundle", "key"],
        &["bundle", "history"],
        &["bundle", "rollback"],
        &["bundle", "release"],
        &["audit", "rotation"],
        &["sample", "bookinfo"],
        &["schema"],
        &["completions"],
    ] {
        let output = run(&[command, &["--help"]].concat());
        let help = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert!(help.contains("tidegate") && help.contains("Usage:"), "{command:?}: {help}");
        assert!(command == ["ca", "token"] || help.contains("Example"), "{command:?} has no example: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{command:?} is too wide: {help}");
    }
}

#[test]
fn a_wrong_flag_is_an_error_that_says_what_to_do() {
    let output = run(&["up", "policies/bookinfo", "--formt", "json"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("--format"), "{told}");
    let output = run(&["ca"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--config"));
}

#[test]
fn schemas_are_listed_printed_and_written() {
    let list = run(&["schema"]);
    assert_eq!(list.status.code(), Some(0));
    let names = "mesh       mesh.yaml\nlinks      links.yaml\nlimits     limits.yaml\nadapters   adapters.yaml\ntests      tests/*.yaml\n";
    assert_eq!(String::from_utf8(list.stdout).unwrap(), names);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("schema");
    let written = run(&["schema", "--out", folder.to_str().unwrap(), "--format", "json"]);
    assert_eq!(written.status.code(), Some(0));
    let list: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
    for (place, name) in ["mesh", "links", "limits", "adapters", "tests"].into_iter().enumerate() {
        let printed = run(&["schema", name]);
        assert_eq!(printed.status.code(), Some(0), "{name}");
        let file = folder.join(format!("{name}.json"));
        assert_eq!(list["schemas"][place]["schema"], file.to_str().unwrap());
        assert_eq!(std::fs::read(&file).unwrap(), printed.stdout, "{name}");
        let current = format!("{}/../policies/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(std::fs::read(current).unwrap(), printed.stdout, "{name}");
    }
    assert_eq!(run(&["schema", "mash"]).status.code(), Some(2));
    assert_eq!(run(&["schema", "--out", "/dev/null/x"]).status.code(), Some(2));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(String::from_utf8(output.stdout).unwrap().contains("rotation"), "{shell}");
    }
}

#[test]
fn checking_a_bundle_has_an_exit_code_and_json() {
    let good = run(&["policy", "check", "policies/bookinfo"]);
    let text = String::from_utf8(good.stdout).unwrap();
    assert_eq!(good.status.code(), Some(0), "{text}");
    assert_eq!(text, "no errors in policies/bookinfo: 4 services, 4 policies, 2 limits\n");

    let bundle = tempfile::tempdir().unwrap();
    std::fs::write(bundle.path().join("mesh.yaml"), "trust_domain: a.example\nservices: {}\n").unwrap();
    std::fs::write(
        bundle.path().join("acl.cedar"),
        "permit (principal, action, resource) when { contxt.tls };",
    )
    .unwrap();
    let folder = bundle.path().to_str().unwrap();
    let bad = run(&["policy", "check", "--format", "json", folder]);
    assert_eq!(bad.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    let finding = &findings["findings"][0];
    assert_eq!(
        (&finding["file"], &finding["line"], &finding["column"]),
        (&"acl.cedar".into(), &1.into(), &45.into())
    );
    let human = String::from_utf8(run(&["policy", "check", folder]).stdout).unwrap();
    assert!(human.contains("acl.cedar:1:45") && human.contains("^^^^^^"), "{human}");

    assert_eq!(run(&["policy", "check", "/no/such/folder"]).status.code(), Some(2));
    assert_eq!(run(&["audit", "rotation", "--ledger", "/no/such/file"]).status.code(), Some(2));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = crate::run::tidegate(&["policy", "check", "policies/bookinfo"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
