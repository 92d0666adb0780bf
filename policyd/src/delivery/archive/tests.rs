use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static TRUSTED: LazyLock<TrustedKeys> =
    LazyLock::new(|| TrustedKeys::new(vec![KEY.public().clone()]).unwrap());
static SHOP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let content =
        content(&[("mesh.yaml", "trust_domain: shop.example\n"), ("tests/a.yaml", "x"), ("z.txt", "")]);
    build(&manifest(&content), &content, &KEY).unwrap()
});

fn content(files: &[(&str, &str)]) -> Content {
    let mut content = Content::default();
    for (name, text) in files {
        content.insert(Name::new(*name).unwrap(), text.as_bytes().to_vec());
    }
    content
}

fn manifest(content: &Content) -> Manifest {
    Manifest::new("shop".to_owned(), "2026-01-01T00:00:00Z".parse().unwrap(), 7, content).unwrap()
}

/// An archive of any members, whose manifest, signed, lists `content`.
fn with_members(content: &Content, members: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let text = manifest(content).to_json();
    let mut tar = tar::Builder::new(Vec::new());
    let signature = format!("{}\n", KEY.sign(text.as_bytes()));
    for (name, bytes) in [(MANIFEST_MEMBER, text.as_bytes()), (SIGNATURE_MEMBER, signature.as_bytes())] {
        tar.append(&header(name, bytes.len() as u64).unwrap(), bytes).unwrap();
    }
    members(&mut tar);
    tar.into_inner().unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    Archive::open(bytes, &TRUSTED).unwrap_err().to_string()
}

#[test]
fn what_was_packed_is_what_comes_out() {
    let archive = Archive::open(&SHOP, &TRUSTED).unwrap();
    assert_eq!(archive.manifest, manifest(&archive.content));
    assert_eq!(archive.signature.key, KEY.public().id());
    let names: Vec<&str> = archive.content.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["mesh.yaml", "tests/a.yaml", "z.txt"]);
    assert_eq!(build(&archive.manifest, &archive.content, &KEY).unwrap(), *SHOP, "the same bytes each time");
    assert_eq!(Archive::look(&SHOP).unwrap(), archive);
}

#[test]
fn the_form_stays_the_same_from_version_to_version() {
    // But for the key: a policyd of another version has to read what was built with this one.
    let zeros = format!("ed25519 {} {}\n", "0".repeat(64), "0".repeat(128));
    let signature = Signature::parse(zeros.as_bytes()).unwrap();
    let content = content(&[("acl.cedar", "permit (principal, action, resource);\n"), ("mesh.yaml", "")]);
    let bytes = pack(manifest(&content).to_json().as_bytes(), &signature, &content).unwrap();
    let expected =
        expect_test::expect!["4608 bytes, 695e19bb623d1b3c6f5f5fabd6e43ab9f66e755797db76c9a342134325b77f16"];
    expected.assert_eq(&format!("{} bytes, {}", bytes.len(), Digest::of(&bytes)));
}

#[test]
fn strangers_are_refused_before_anything_else() {
    let stranger = SigningKey::generate().unwrap();
    let trusted = TrustedKeys::new(vec![stranger.public().clone()]).unwrap();
    let told = Archive::open(&SHOP, &trusted).unwrap_err().to_string();
    assert_eq!(
        told,
        format!("it is signed by key {}, trusted are {}", KEY.public().id(), stranger.public().id())
    );
    // Neither the manifest nor the files are looked at: both are nonsense here.
    let mut tar = tar::Builder::new(Vec::new());
    let signature = format!("{}\n", stranger.sign(b"other"));
    for (name, bytes) in [(MANIFEST_MEMBER, &b"{"[..]), (SIGNATURE_MEMBER, signature.as_bytes())] {
        tar.append(&header(name, bytes.len() as u64).unwrap(), bytes).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    assert!(refusal(&bytes).starts_with("it is signed by key "), "{}", refusal(&bytes));
    let told = Archive::open(&bytes, &trusted).unwrap_err().to_string();
    assert!(told.starts_with("the signature is not that of the manifest"), "{told}");
}

#[test]
fn what_is_no_archive_is_told() {
    let mut folder = tar::Builder::new(Vec::new());
    folder.append(&header("mesh.yaml", 1).unwrap(), &b"x"[..]).unwrap();
    let plain = folder.into_inner().unwrap();
    let mut unsigned = tar::Builder::new(Vec::new());
    unsigned.append(&header(MANIFEST_MEMBER, 1).unwrap(), &b"x"[..]).unwrap();
    unsigned.append(&header("mesh.yaml", 1).unwrap(), &b"x"[..]).unwrap();
    let unsigned = unsigned.into_inner().unwrap();
    for (bytes, why) in [
        (&b""[..], "this is no signed bundle archive: it does not start with a manifest"),
        (b"hello", "this is no signed bundle archive: it does not start with a manifest"),
        (&[0; 4096], "this is no signed bundle archive: it does not start with a manifest"),
        (&plain, "this is no signed bundle archive: it does not start with a manifest"),
        (&unsigned, "this is no signed bundle archive: it has no signature"),
        (&[0x1f, 0x8b, 8, 0], "the archive is compressed"),
        (&SHOP[..1024], "this is no signed bundle archive: it has no signature"),
    ] {
        assert!(refusal(bytes).starts_with(why), "{}", refusal(bytes));
    }
}

#[test]
fn only_regular_files_of_the_manifest_in_its_order() {
    let content = content(&[("a", "1"), ("b", "2")]);
    let file = |name: &'static str, text: &'static str| {
        move |tar: &mut tar::Builder<Vec<u8>>| {
            let mut header = header("x", text.len() as u64).unwrap();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, text.as_bytes()).unwrap();
        }
    };
    let kind = |kind: EntryType| {
        move |tar: &mut tar::Builder<Vec<u8>>| {
            let mut header = header("a", 0).unwrap();
            header.set_entry_type(kind);
            header.set_link_name("/etc/passwd").unwrap();
            header.set_cksum();
            tar.append(&header, &b""[..]).unwrap();
        }
    };
    type Add = Box<dyn FnOnce(&mut tar::Builder<Vec<u8>>)>;
    let both = |one: Add, two: Add| -> Add {
        Box::new(|tar| {
            one(tar);
            two(tar);
        })
    };
    let a = || Box::new(file("a", "1")) as Add;
    let b = || Box::new(file("b", "2")) as Add;
    let no_file = "the archive's member `a` is no regular file, and an archive holds nothing else";
    let cases: Vec<(Add, &str)> = vec![
        (a(), "the archive has `its end` where its manifest has `b`"),
        (both(b(), a()), "the archive has `b` where its manifest has `a`"),
        (
            both(both(a(), b()), Box::new(file("c", ""))),
            "the archive has `c` where its manifest has `its end`",
        ),
        (both(a(), Box::new(file("b", "3"))), "the archive's `b` was changed"),
        (both(a(), Box::new(file("b", "22"))), "the archive's `b` was changed"),
        (Box::new(file("../a", "1")), "the archive's member `../a` can't be used"),
        (Box::new(file("/a", "1")), "the archive's member `/a` can't be used"),
        (Box::new(file(".a", "1")), "the archive's member `.a` can't be used"),
        (Box::new(kind(EntryType::Symlink)), no_file),
        (Box::new(kind(EntryType::Link)), no_file),
        (Box::new(kind(EntryType::Directory)), no_file),
        (Box::new(kind(EntryType::Fifo)), no_file),
        (Box::new(kind(EntryType::Block)), no_file),
        (Box::new(kind(EntryType::GNULongName)), no_file),
        (Box::new(kind(EntryType::XHeader)), no_file),
        (Box::new(kind(EntryType::GNUSparse)), no_file),
    ];
    for (members, why) in cases {
        let told = refusal(&with_members(&content, members));
        assert!(told.starts_with(why), "{told}\n{why}");
    }
    let good = with_members(&content, both(a(), b()));
    assert_eq!(good, build(&manifest(&content), &content, &KEY).unwrap());
    let longer = [&good[..], &[0; 512]].concat();
    assert!(refusal(&longer).starts_with("the archive is not as `tidegate bundle build` writes it"));
    let rest = [&good[..], &good[..]].concat();
    assert!(refusal(&rest).starts_with("the archive is not as `tidegate bundle build` writes it"));
}

#[test]
fn a_size_that_a_header_only_claims_costs_nothing() {
    let content = content(&[("a", "1")]);
    for size in [512, 1 << 20, 1 << 30, u64::from(u32::MAX), 0o77_777_777_777] {
        let bytes = with_members(&content, |tar| {
            tar.append(&header("a", size).unwrap(), &b"1"[..]).unwrap();
        });
        assert!(Archive::open(&bytes, &TRUSTED).is_err(), "{size}");
    }
    // A manifest that never ends, and is not there.
    let mut bytes = SHOP.clone();
    let mut huge = header(MANIFEST_MEMBER, 0o77_777_777_777).unwrap();
    huge.set_cksum();
    bytes[..512].copy_from_slice(huge.as_bytes());
    assert!(Archive::open(&bytes, &TRUSTED).is_err());
}

#[test]
fn a_file_is_read_up_to_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.tgb");
    std::fs::write(&path, &*SHOP).unwrap();
    assert_eq!(read(&path).unwrap(), *SHOP);
    std::fs::File::create(&path).unwrap().set_len(ARCHIVE_SIZE_MAX + 1).unwrap();
    assert_eq!(read(&path).unwrap_err().to_string(), "the archive is larger than 77 MiB");
    let told = |path: &Path| read(path).unwrap_err().to_string();
    assert!(told(folder.path()).starts_with("this is no signed bundle archive: it is a folder"));
    assert!(told(&folder.path().join("none")).starts_with("the archive can't be read: No such file"));
}

#[test]
fn every_changed_bit_is_noticed() {
    let mut bytes = SHOP.clone();
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        assert!(Archive::open(&bytes, &TRUSTED).is_err(), "byte {at}");
        bytes[at] = SHOP[at];
    }
}

proptest! {
    #[test]
    fn a_changed_archive_is_refused(at in 0..SHOP.len(), flip in 1..=255u8) {
        let mut bytes = SHOP.clone();
        bytes[at] ^= flip;
        prop_assert!(Archive::open(&bytes, &TRUSTED).is_err());
        // Unverified it may pass, its manifest alone changed, but never panics.
        let _looked = Archive::look(&bytes);
    }

    #[test]
    fn a_cut_archive_is_refused(length in 0..SHOP.len()) {
        prop_assert!(Archive::open(&SHOP[..length], &TRUSTED).is_err());
    }

    #[test]
    fn nonsense_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(Archive::open(&bytes, &TRUSTED).is_err());
        prop_assert!(Archive::look(&bytes).is_err());
    }

    #[test]
    fn any_content_comes_out_as_it_was(
        files in proptest::collection::btree_map("[a-z]{1,8}(/[a-z ]{1,8}x){0,3}", proptest::collection::vec(any::<u8>(), 0..2000), 0..8)
    ) {
        let mut content = Content::default();
        for (name, bytes) in files {
            content.insert(Name::new(name).unwrap(), bytes);
        }
        let bytes = build(&manifest(&content), &content, &KEY).unwrap();
        prop_assert_eq!(Archive::open(&bytes, &TRUSTED).unwrap().content, content);
    }
}
