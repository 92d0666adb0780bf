//! Keys and signatures of bundles are those of openssl.

#![cfg(test)]

use std::path::Path;
use std::process::Command;

use policyd::delivery::signature::pre_authentication_encoding;
use policyd::delivery::{Digest, SigningKey, TrustedKeys};
use tidegate_tests::program;

#[test]
fn openssl_makes_keys_for_us_and_verifies_what_we_sign() {
    let Some(openssl) = program::find("openssl", "openssl_makes_keys_for_us_and_verifies_what_we_sign")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(&openssl).args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let path = |name: &str| folder.path().join(name);
    run(&["genpkey", "-algorithm", "ed25519", "-out", "theirs.pem"]);
    run(&["pkey", "-in", "theirs.pem", "-pubout", "-out", "theirs.pub.pem"]);
    let theirs = SigningKey::load(&path("theirs.pem")).unwrap();
    let signature = theirs.sign(b"manifest");
    assert_eq!(TrustedKeys::load(&[path("theirs.pub.pem")]).unwrap().verify(b"manifest", &signature), Ok(()));
    let der = run(&["pkey", "-pubin", "-in", "theirs.pub.pem", "-outform", "DER"]);
    assert_eq!(signature.key, Digest::of(&der));

    let ours = SigningKey::generate().unwrap();
    std::fs::write(path("ours.pem"), ours.to_pem().unwrap()).unwrap();
    std::fs::write(path("ours.pub.pem"), ours.public().to_pem()).unwrap();
    assert_eq!(run(&["pkey", "-in", "ours.pem", "-pubout"]), ours.public().to_pem().as_bytes());
    std::fs::write(path("signed"), pre_authentication_encoding(b"manifest")).unwrap();
    std::fs::write(path("signature"), ours.sign(b"manifest").as_bytes()).unwrap();
    let verify = "pkeyutl -verify -pubin -inkey ours.pub.pem -rawin -in signed -sigfile signature";
    run(&verify.split(' ').collect::<Vec<_>>());

    run(&["genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", "locked.pem"]);
    let told = SigningKey::load(&path("locked.pem")).unwrap_err().to_string();
    assert!(told.contains("holds a block `ENCRYPTED PRIVATE KEY`"), "{told}");
    assert!(SigningKey::load(Path::new("none")).is_err());
}
