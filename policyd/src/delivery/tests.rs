//! Files come and go; what a policyd then reads, keeps and remembers.

use tempfile::TempDir;

use super::history::History;
use super::store::Store;
use super::*;

/// A folder with a bundle `shop`, keys, archives, and the state.
struct Desk {
    folder: TempDir,
    key: SigningKey,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), key: SigningKey::generate().unwrap() };
        desk.write("shop/mesh.yaml", "trust_domain: shop.example\n");
        desk.write("shop/acl.cedar", "// 1");
        desk.write("shop/lists/blocked.txt", "someone\n");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn pack(&self, serial: u64, key: &SigningKey) {
        let content = Content::read(&self.path("shop")).unwrap();
        let manifest = Manifest::new("shop".into(), Timestamp::UNIX_EPOCH, serial, &content).unwrap();
        std::fs::write(self.path("shop.tgb"), archive::build(&manifest, &content, key).unwrap()).unwrap();
    }

    fn state(&self, kept: usize) -> Option<State> {
        Some(State { folder: self.path("state"), kept })
    }

    fn archives(&self) -> Delivery {
        let trusted = TrustedKeys::new(vec![self.key.public().clone()]).unwrap();
        let origin = Origin::Archive(self.path("shop.tgb"), trusted);
        Delivery::open(Config { origin, state: self.state(3) }).unwrap()
    }

    fn editing(&self) -> Delivery {
        Delivery::open(Config { origin: Origin::Folder(self.path("shop")), state: self.state(3) }).unwrap()
    }
}

/// What policyd does once a bundle is in force.
fn in_force(delivery: &Delivery, delivered: &Delivered, why: Why) -> Digest {
    let label = delivery.keep(delivered).unwrap().unwrap();
    delivery.record(&label, why, Revision { epoch: 1, number: 1 }, Timestamp::UNIX_EPOCH).unwrap();
    label.digest
}

fn refusal(delivery: &Delivery) -> String {
    delivery.read().unwrap_err().iter().next().unwrap().message.clone()
}

#[test]
fn an_archive_is_unpacked_with_all_that_it_refers_to() {
    let desk = Desk::new();
    desk.pack(1, &desk.key);
    let delivery = desk.archives();
    let delivered = delivery.read().unwrap();
    assert_eq!(delivered.files.text("acl.cedar"), Some("// 1"));
    let list = std::fs::read_to_string(delivered.files.folder.join("lists/blocked.txt"));
    assert_eq!(list.unwrap(), "someone\n");
    assert_eq!(delivery.read().unwrap(), delivered);
    // Somebody has cleaned up.
    std::fs::remove_dir_all(&delivered.files.folder).unwrap();
    assert_eq!(delivery.read().unwrap(), delivered);
    assert!(delivered.files.folder.join("lists/blocked.txt").exists());
}

#[test]
fn archives_by_strangers_older_ones_and_folders_are_refused() {
    let desk = Desk::new();
    desk.pack(7, &desk.key);
    let delivery = desk.archives();
    let first = delivery.read().unwrap();
    in_force(&delivery, &first, Why::Source);
    assert_eq!(delivery.read().unwrap(), first, "the same again");
    desk.pack(9, &SigningKey::generate().unwrap());
    assert!(refusal(&delivery).starts_with("it is signed by key "));
    desk.write("shop/acl.cedar", "// 2");
    let old = "the archive has serial 7, but 7 was in force already";
    desk.pack(7, &desk.key);
    assert!(refusal(&delivery).starts_with(old), "{}", refusal(&delivery));
    desk.pack(6, &desk.key);
    drop(delivery);
    // It is remembered over a restart, and what was pinned in between does not count.
    let delivery = desk.archives();
    assert!(refusal(&delivery).starts_with("the archive has serial 6, but 7 was in force already"));
    desk.pack(8, &desk.key);
    in_force(&delivery, &first, Why::Pinned);
    delivery.read().unwrap();
    std::fs::remove_file(desk.path("shop.tgb")).unwrap();
    assert!(refusal(&delivery).starts_with("the archive can't be read: No such file"));
    std::fs::create_dir(desk.path("shop.tgb")).unwrap();
    assert!(refusal(&delivery).starts_with("this is no signed bundle archive: it is a folder"));
}

#[test]
fn a_folder_is_kept_with_its_lists_and_the_same_files_are_the_same_bundle() {
    let desk = Desk::new();
    let delivery = desk.editing();
    let first = in_force(&delivery, &delivery.read().unwrap(), Why::Source);
    let read = delivery.read().unwrap();
    desk.write("shop/acl.cedar", "// edited since it was read");
    desk.write("shop/new.cedar", "// so was this");
    assert_eq!(
        in_force(&delivery, &read, Why::Source),
        first,
        "what is in force is kept, not what is there now"
    );
    desk.write("shop/lists/blocked.txt", "someone else\n");
    let second = in_force(&delivery, &read, Why::Source);
    assert_ne!(second, first);
    let kept = delivery.kept(second).unwrap();
    assert_eq!(kept.files.texts, read.files.texts);
    let list = std::fs::read_to_string(kept.files.folder.join("lists/blocked.txt"));
    assert_eq!(list.unwrap(), "someone else\n");
    assert_eq!(delivery.were_in_force(), [second, first]);
    let history = History::read(&desk.path("state")).unwrap();
    let changes: Vec<&str> = history.iter().map(|entry| entry.changes.as_str()).collect();
    assert_eq!(changes, ["the first", "no file differs", "lists/blocked.txt changed"]);
}

#[test]
fn only_so_many_are_kept_but_always_the_pinned_one() {
    let desk = Desk::new();
    let delivery = desk.editing();
    let mut digests = Vec::new();
    for number in 0..6 {
        desk.write("shop/acl.cedar", &format!("// {number}"));
        digests.push(in_force(&delivery, &delivery.read().unwrap(), Why::Source));
        if number == 0 {
            Pin { digest: digests[0], at: Timestamp::UNIX_EPOCH }.write(&desk.path("state")).unwrap();
        }
    }
    let store = Store::at(&desk.path("state"));
    let kept: Vec<bool> = digests.iter().map(|digest| store.has(*digest)).collect();
    assert_eq!(kept, [true, false, false, false, true, true]);
    assert_eq!(delivery.pinned().unwrap(), Some(digests[0]));
    assert!(delivery.kept(digests[1]).is_err());
}

#[test]
fn one_policyd_at_a_time() {
    let desk = Desk::new();
    assert!(in_use(&desk.path("state")).is_err(), "there is none yet");
    let delivery = desk.editing();
    assert!(in_use(&desk.path("state")).unwrap());
    let second = Delivery::open(Config { origin: Origin::Folder(desk.path("shop")), state: desk.state(3) });
    let told = format!("another policyd uses `{}`", desk.path("state").display());
    assert_eq!(second.unwrap_err().to_string(), told);
    drop(delivery);
    assert!(!in_use(&desk.path("state")).unwrap());
    desk.editing();
}
