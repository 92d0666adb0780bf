use super::*;

fn trusting(keys: &[&SigningKey]) -> TrustedKeys {
    TrustedKeys::new(keys.iter().map(|key| key.public().clone()).collect()).unwrap()
}

#[test]
fn a_signature_is_by_a_trusted_key_and_of_this_manifest() {
    let (ours, next, other) =
        (SigningKey::generate().unwrap(), SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let trusted = trusting(&[&ours, &next]);
    for key in [&ours, &next] {
        let signature = key.sign(b"manifest");
        assert_eq!(trusted.verify(b"manifest", &signature), Ok(()));
        let key = key.public().id();
        assert_eq!(trusted.verify(b"manifesto", &signature), Err(SignatureError::Wrong(key)));
    }
    let signature = other.sign(b"manifest");
    let error = trusted.verify(b"manifest", &signature).unwrap_err().to_string();
    let [o, t, n] = [&other, &ours, &next].map(|key| key.public().id());
    assert_eq!(error, format!("it is signed by key {o}, trusted are {t}, {n}"));
    let error = TrustedKeys::default().verify(b"manifest", &signature).unwrap_err().to_string();
    assert_eq!(error, format!("it is signed by key {o}, trusted are none"));
    // Saying to be someone else does not help.
    let lie = Signature { key: t, ..signature };
    assert_eq!(trusted.verify(b"manifest", &lie), Err(SignatureError::Wrong(t)));
}

#[test]
fn what_is_signed_names_its_type() {
    // The form of the example in DSSE's protocol.md, with our type.
    let expected = "DSSEv1 48 application/vnd.tidegate.bundle-manifest.v1+json 11 hello world";
    assert_eq!(String::from_utf8(pre_authentication_encoding(b"hello world")).unwrap(), expected);
    let key = SigningKey::generate().unwrap();
    let mut signature = key.sign(b"manifest");
    let bare = key.pair.sign(b"manifest");
    signature.bytes.copy_from_slice(bare.as_ref());
    assert!(trusting(&[&key]).verify(b"manifest", &signature).is_err(), "a signature of the bytes alone");
}

#[test]
fn a_signature_has_one_form() {
    let signature = SigningKey::generate().unwrap().sign(b"manifest");
    let text = format!("{signature}\n");
    assert_eq!(Signature::parse(text.as_bytes()), Ok(signature));
    for other in [
        text.trim_end().to_owned(),
        format!("{text}\n"),
        text.replace("ed25519", "ed448"),
        text.to_uppercase(),
        text.replace(' ', "  "),
        String::new(),
    ] {
        assert_eq!(Signature::parse(other.as_bytes()), Err(SignatureError::Form), "{other}");
    }
    assert_eq!(Signature::parse(&[0xff; 202]), Err(SignatureError::Form));
}

/// What openssl wrote; `tests/tests/openssl.rs` asks the program itself.
const OPENSSL: [(&str, &str); 5] = [
    (
        "ed25519.pem",
        "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIIWwubyE3Sunp1C1781oZCgvmTVpgwJUxux8tZsgYG5N
-----END PRIVATE KEY-----
",
    ),
    (
        "ed25519.pub.pem",
        "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAEwq1I8pnB7O9YM3fCMqThiQfqaQWm49lve4BmKPuPC0=
-----END PUBLIC KEY-----
",
    ),
    (
        "ec.pem",
        "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2Rc4AxKorMUwF/j7
AmYkhPx6W0kXiQtix4dVb0DcbXShRANCAATZOEFfGzYtbsXkPMYaFk+epzoxpY+I
cHHpPio5xQEvVSAFLanGb9nLOCVZO5F4BRF/BjXM5Cr+sd2vOUlrJqE3
-----END PRIVATE KEY-----
",
    ),
    (
        "ec.pub.pem",
        "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2ThBXxs2LW7F5DzGGhZPnqc6MaWP
iHBx6T4qOcUBL1UgBS2pxm/ZyzglWTuReAURfwY1zOQq/rHdrzlJayahNw==
-----END PUBLIC KEY-----
",
    ),
    ("text", "hello"),
];

fn openssl() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in OPENSSL {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn keys_are_those_of_openssl() {
    let folder = openssl();
    let key = SigningKey::load(&folder.path().join("ed25519.pem")).unwrap();
    let trusted = TrustedKeys::load(&[folder.path().join("ed25519.pub.pem")]).unwrap();
    let signature = key.sign(b"manifest");
    assert_eq!(trusted.verify(b"manifest", &signature), Ok(()));
    // `openssl pkey -pubin -in ed25519.pub.pem -outform DER | sha256sum`
    assert_eq!(signature.key.to_string(), "9e27430cbe37f34f0e4e808a105dc13e7a070155cf3c6efbfdbbfad0cb9d1151");
    assert_eq!(key.to_pem().unwrap(), OPENSSL[0].1);
    assert_eq!(key.public().to_pem(), OPENSSL[1].1);
}

#[test]
fn other_keys_are_refused_with_what_they_are() {
    let folder = openssl();
    let told = |error: KeyError| error.to_string().replace(&format!("{}/", folder.path().display()), "");
    let private = |file: &str| told(SigningKey::load(&folder.path().join(file)).unwrap_err());
    let public = |file: &str| told(TrustedKey::load(&folder.path().join(file)).unwrap_err());
    let wanted = "but an Ed25519 private key (PEM, PKCS#8, not encrypted) is needed";
    assert_eq!(private("ec.pem"), format!("`ec.pem` holds another kind of key, {wanted}"));
    assert_eq!(private("ec.pub.pem"), format!("`ec.pub.pem` holds a block `PUBLIC KEY`, {wanted}"));
    assert!(private("text").starts_with("`text` holds no PEM ("));
    assert!(private("none").starts_with("can't read the key `none`: No such file"));
    let wanted = "but an Ed25519 public key (PEM, SubjectPublicKeyInfo) is needed";
    assert_eq!(public("ec.pub.pem"), format!("`ec.pub.pem` holds another kind of key, {wanted}"));
    assert_eq!(public("ed25519.pem"), format!("`ed25519.pem` holds a block `PRIVATE KEY`, {wanted}"));
    let many = vec![SigningKey::generate().unwrap().public().clone(); TRUSTED_KEYS_MAX + 1];
    assert_eq!(TrustedKeys::new(many).unwrap_err().to_string(), "at most 100 keys may be trusted");
}
