use std::os::unix::fs::PermissionsExt;

use super::*;

const TTL: Duration = Duration::from_secs(1000);

fn open(folder: &Path, now: i64) -> Result<Authority, AuthorityError> {
    let domain = "a.example".parse().unwrap();
    Authority::open(folder, &domain, TTL, Timestamp::from_second(now).unwrap())
}

#[test]
fn root_and_issuing_authority_survive_until_half_of_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("made/when/missing");
    let first = open(&state, 10_000).unwrap();
    let again = open(&state, 10_499).unwrap();
    assert_eq!(first.root().certificate(), again.root().certificate());
    assert_eq!(first.issuing().certificate(), again.issuing().certificate());
    assert_eq!(again.replace_at(), Timestamp::from_second(10_500).unwrap());
    let later = open(&state, 10_500).unwrap();
    assert_eq!(first.root().certificate(), later.root().certificate());
    assert_ne!(first.issuing().serial(), later.issuing().serial());
    for file in [ROOT_FILE, ISSUING_FILE] {
        let mode = fs::metadata(state.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn the_profile_is_that_of_spiffe() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path(), 10_000).unwrap();
    for (signer, path_length) in [(authority.root(), 1), (authority.issuing(), 0)] {
        let certificate = leaf::parse(signer.certificate()).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        assert_eq!(leaf::uri_names(&certificate).unwrap(), ["spiffe://a.example"]);
        assert!(certificate.name_constraints().unwrap().is_none());
        assert_eq!(signer.serial().len(), 32);
    }
    assert!(authority.issuing().is_signed_by(authority.root()));
}

#[test]
fn a_root_that_ended_or_is_foreign_is_an_error_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), 10_000).unwrap();
    let after = 10_000 + i64::try_from(ROOT_TTL.as_secs()).unwrap();
    assert!(matches!(open(folder.path(), after), Err(AuthorityError::RootExpired(_))));
    let foreign = Authority::open(
        folder.path(),
        &"b.example".parse().unwrap(),
        TTL,
        Timestamp::from_second(10_000).unwrap(),
    );
    assert!(matches!(foreign, Err(AuthorityError::Root(_))));
    open(folder.path(), 10_001).unwrap();
}

#[test]
fn a_broken_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1"), folder.path().join("2"));
    open(&one, 10_000).unwrap();
    open(&two, 10_000).unwrap();
    let root = |folder: &Path| fs::read_to_string(folder.join(ROOT_FILE)).unwrap();
    let split = "-----BEGIN CERTIFICATE-----";
    let (key, _) = root(&one).split_once(split).map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (_, certificate) = root(&two).split_once(split).map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for content in ["", "hello", &key, &format!("{key}{split}{certificate}")] {
        fs::write(one.join(ROOT_FILE), content).unwrap();
        let error = open(&one, 10_000).unwrap_err().to_string();
        assert!(error.contains("root.pem` does not hold"), "{error}");
    }
}
