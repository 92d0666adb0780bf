//! What happens with a state folder: the last good bundle, pins, archives.

use std::path::PathBuf;

use jiff::Timestamp;

use super::*;
use crate::delivery::standing::{Pin, Standing};
use crate::delivery::{Content, Manifest, Origin, SigningKey, State, TrustedKeys, archive, history};

fn config(parent: &TempDir) -> Config {
    let state = State { folder: state_dir(parent), kept: 5 };
    Config { origin: Origin::Folder(parent.path().join("bundle")), state: Some(state) }
}

fn state_dir(parent: &TempDir) -> PathBuf {
    parent.path().join("state")
}

/// A source that keeps bundles, whose first one allows.
async fn keeping(parent: &TempDir) -> Source {
    write(parent, "mesh.yaml", MESH);
    write(parent, "acl.cedar", OPEN);
    start_with(config(parent)).await.unwrap()
}

fn pin(parent: &TempDir, digest: Digest) {
    Pin { digest, at: Timestamp::UNIX_EPOCH }.write(&state_dir(parent)).unwrap();
}

fn standing(parent: &TempDir) -> Standing {
    Standing::read(&state_dir(parent)).unwrap().unwrap()
}

fn history(parent: &TempDir) -> Vec<(Why, Digest)> {
    let entries = history::History::read(&state_dir(parent)).unwrap();
    entries.into_iter().map(|entry| (entry.why, entry.digest)).collect()
}

#[tokio::test]
async fn the_last_good_bundle_serves_while_the_source_can_not() {
    let parent = tempfile::tempdir().unwrap();
    let source = keeping(&parent).await;
    let good = source.kept.unwrap();
    drop(source);
    let away = parent.path().join("away");
    for broken in [true, false] {
        if broken {
            write(&parent, "acl.cedar", BROKEN);
        } else {
            std::fs::rename(parent.path().join("bundle"), &away).unwrap();
        }
        let mut source = start_with(config(&parent)).await.unwrap();
        assert_eq!(verdict(&source.current).await, Verdict::Allow);
        assert_eq!((source.why, source.kept), (Why::LastGood, Some(good)));
        assert!(source.status.borrow().refused.is_some());
        let remark = source.surroundings.readiness.remarked().unwrap();
        let serves = format!("the last good bundle {} serves: the bundle is refused", good.short());
        assert!(remark.starts_with(&serves), "{remark}");
        let told = standing(&parent);
        assert_eq!((told.in_force, told.why), (Some(good), Why::LastGood));
        assert!(told.source_refused.is_some());
        source.look().await;
        assert_eq!(state(&source).0, 1, "it stays");
        if !broken {
            std::fs::rename(&away, parent.path().join("bundle")).unwrap();
        }
        write(&parent, "acl.cedar", SHUT);
        source.look().await;
        assert_eq!(verdict(&source.current).await, Verdict::Deny);
        assert_eq!((source.why, standing(&parent).source_refused), (Why::Source, None));
        assert_eq!(source.surroundings.readiness.remarked(), None);
        write(&parent, "acl.cedar", OPEN);
        source.look().await;
        assert_eq!(source.kept, Some(good), "the same files are the same bundle");
    }
}

#[tokio::test]
async fn without_a_good_one_a_broken_source_is_no_start() {
    let parent = tempfile::tempdir().unwrap();
    write(&parent, "mesh.yaml", MESH);
    write(&parent, "acl.cedar", BROKEN);
    let told = start_with(config(&parent)).await.unwrap_err().to_string();
    assert!(told.contains("unexpected token `resource`"), "{told}");
    // One that was damaged is none.
    write(&parent, "acl.cedar", OPEN);
    let kept = start_with(config(&parent)).await.unwrap().kept.unwrap();
    write(&parent, "acl.cedar", BROKEN);
    let file = state_dir(&parent).join(format!("bundles/{kept}/acl.cedar"));
    std::fs::write(file, "permit(principal, action, resource) ;").unwrap();
    assert!(start_with(config(&parent)).await.is_err());
}

#[tokio::test]
async fn what_is_pinned_stays_in_force_whatever_the_source_does() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = keeping(&parent).await;
    let open = source.kept.unwrap();
    write(&parent, "acl.cedar", SHUT);
    source.look().await;
    assert_eq!(verdict(&source.current).await, Verdict::Deny);

    pin(&parent, open);
    source.look().await;
    assert_eq!(verdict(&source.current).await, Verdict::Allow);
    assert_eq!(state(&source), (3, 1, None));
    let told = standing(&parent);
    assert_eq!((told.in_force, told.pinned, told.why), (Some(open), Some(open), Why::Pinned));
    for (edit, refused) in [(BROKEN, true), (SHUT, false)] {
        write(&parent, "acl.cedar", edit);
        source.look().await;
        source.look().await;
        assert_eq!(state(&source).0, 3, "nothing else comes into force");
        assert_eq!(standing(&parent).source_refused.is_some(), refused, "but it is known whether it could");
    }
    assert!(source.surroundings.readiness.remarked().unwrap().contains("is pinned; the bundle is good"));

    Pin::remove(&state_dir(&parent)).unwrap();
    source.look().await;
    assert_eq!(verdict(&source.current).await, Verdict::Deny);
    assert_eq!(standing(&parent).pinned, None);
    let whys: Vec<Why> = history(&parent).into_iter().map(|(why, _)| why).collect();
    assert_eq!(whys, [Why::Source, Why::Source, Why::Pinned, Why::Source]);
}

#[tokio::test]
async fn a_pin_outlives_a_restart() {
    let parent = tempfile::tempdir().unwrap();
    let source = keeping(&parent).await;
    let open = source.kept.unwrap();
    drop(source);
    write(&parent, "acl.cedar", SHUT);
    drop(start_with(config(&parent)).await.unwrap());
    pin(&parent, open);
    let mut source = start_with(config(&parent)).await.unwrap();
    assert_eq!((verdict(&source.current).await, source.why), (Verdict::Allow, Why::Pinned));
    Pin::remove(&state_dir(&parent)).unwrap();
    source.look().await;
    assert_eq!((verdict(&source.current).await, source.why), (Verdict::Deny, Why::Source));
}

#[tokio::test]
async fn the_running_task_hears_of_a_pin() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = keeping(&parent).await;
    let open = source.kept.unwrap();
    write(&parent, "acl.cedar", SHUT);
    source.look().await;
    while source.changes.try_recv().is_ok() {}
    let (current, lifecycle) = (source.current(), Lifecycle::new());
    lifecycle.spawn(source.run(lifecycle.clone()));
    pin(&parent, open);
    current.subscribe().wait_for(|snapshot| snapshot.revision.number == 3).await.unwrap();
    assert_eq!(verdict(&current).await, Verdict::Allow);
    assert!(lifecycle.drain(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_pin_that_can_not_be_followed_changes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = keeping(&parent).await;
    pin(&parent, Digest::of(b"unknown"));
    write(&parent, "acl.cedar", SHUT);
    source.look().await;
    assert_eq!(verdict(&source.current).await, Verdict::Allow, "the source is not what was asked for");
    assert!(standing(&parent).pin_refused.unwrap().contains("the kept bundle can't be used"));
    std::fs::write(state_dir(&parent).join("pin.json"), "{").unwrap();
    source.look().await;
    assert_eq!(verdict(&source.current).await, Verdict::Allow);
    assert!(standing(&parent).pin_refused.unwrap().contains("what is pinned can't be read"));
    drop(source);
    pin(&parent, Digest::of(b"unknown"));
    let told = start_with(config(&parent)).await.unwrap_err().to_string();
    assert!(told.contains("is pinned, and can't be put in force"), "{told}");
    assert!(told.contains("tidegate bundle release"), "{told}");
}

#[tokio::test]
async fn an_edited_list_is_part_of_the_last_good_bundle() {
    let parent = tempfile::tempdir().unwrap();
    write(&parent, "adapters.yaml", LIST);
    write(&parent, "blocked.txt", "someone\n");
    let source = keeping(&parent).await;
    let (current, lifecycle) = (source.current(), Lifecycle::new());
    let task = lifecycle.spawn(source.run(lifecycle.clone()));
    assert_eq!(verdict(&current).await, Verdict::Allow);
    write(&parent, "blocked.txt", "unauthenticated\n");
    current.subscribe().wait_for(|snapshot| snapshot.revision.number == 2).await.unwrap();
    assert!(lifecycle.drain(Duration::from_secs(10)).await);
    task.await.unwrap();
    write(&parent, "blocked.txt", "someone\n");
    write(&parent, "acl.cedar", BROKEN);
    let source = start_with(config(&parent)).await.unwrap();
    assert_eq!((verdict(&source.current).await, source.why), (Verdict::Deny, Why::LastGood));
}

#[tokio::test]
async fn a_disk_that_is_full_keeps_nothing_from_coming_into_force() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = keeping(&parent).await;
    let bundles = state_dir(&parent).join("bundles");
    std::fs::rename(&bundles, parent.path().join("away")).unwrap();
    std::fs::write(&bundles, "in the way").unwrap();
    write(&parent, "acl.cedar", SHUT);
    source.look().await;
    assert_eq!(verdict(&source.current).await, Verdict::Deny);
    assert!(source.surroundings.readiness.remarked().unwrap().contains("could not be kept"));
    assert_eq!(standing(&parent).in_force, None);
    std::fs::remove_file(&bundles).unwrap();
    std::fs::rename(parent.path().join("away"), &bundles).unwrap();
    source.look().await;
    assert_eq!(source.surroundings.readiness.remarked(), None);
    assert_eq!(standing(&parent).in_force, source.kept);
    assert!(source.kept.is_some());
}

/// Packs the bundle as `shop.tgb`.
fn pack(parent: &TempDir, serial: u64, key: &SigningKey) {
    let content = Content::read(&parent.path().join("bundle")).unwrap();
    let manifest = Manifest::new("shop".into(), Timestamp::UNIX_EPOCH, serial, &content).unwrap();
    let next = parent.path().join("next");
    std::fs::write(&next, archive::build(&manifest, &content, key).unwrap()).unwrap();
    std::fs::rename(next, parent.path().join("shop.tgb")).unwrap();
}

#[tokio::test]
async fn archives_come_into_force_if_they_are_signed_newer_and_whole() {
    let parent = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let trusted = TrustedKeys::new(vec![key.public().clone()]).unwrap();
    let origin = Origin::Archive(parent.path().join("shop.tgb"), trusted);
    let config = Config { origin, ..config(&parent) };
    write(&parent, "mesh.yaml", MESH);
    write(&parent, "acl.cedar", OPEN);
    write(&parent, "adapters.yaml", LIST);
    write(&parent, "blocked.txt", "someone\n");
    pack(&parent, 1, &key);
    let mut source = start_with(config.clone()).await.unwrap();
    assert_eq!(verdict(&source.current).await, Verdict::Allow);
    // A list alone is a change too: archives are replaced as a whole.
    write(&parent, "blocked.txt", "unauthenticated\n");
    pack(&parent, 2, &key);
    source.look().await;
    assert_eq!((verdict(&source.current).await, state(&source)), (Verdict::Deny, (2, 1, None)));
    write(&parent, "blocked.txt", "someone\n");
    for (serial, signer, why) in [
        (2, &key, "the archive has serial 2, but 2 was in force already"),
        (3, &SigningKey::generate().unwrap(), "it is signed by key "),
    ] {
        pack(&parent, serial, signer);
        source.look().await;
        let (revision, _, refused) = state(&source);
        assert!(refused.as_ref().unwrap().starts_with(why), "{refused:?}");
        assert_eq!((revision, verdict(&source.current).await), (2, Verdict::Deny));
    }
    let mut bytes = std::fs::read(parent.path().join("shop.tgb")).unwrap();
    bytes.truncate(1024);
    std::fs::write(parent.path().join("shop.tgb"), bytes).unwrap();
    drop(source);
    let mut source = start_with(config).await.unwrap();
    assert_eq!((verdict(&source.current).await, source.why), (Verdict::Deny, Why::LastGood));
    while source.changes.try_recv().is_ok() {}
    pack(&parent, 3, &key);
    source.changes.recv().await.unwrap();
    source.look().await;
    assert_eq!((verdict(&source.current).await, source.why), (Verdict::Allow, Why::Source));
}
