//! Each test changes files, then looks, as the task does when the system or the poll tells it to.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use model::{Action, Attributes, Verdict};
use tempfile::TempDir;

use std::time::Duration;

use super::*;
use crate::delivery::Config;

mod kept;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";
const OPEN: &str = "permit (principal, action, resource);";
const SHUT: &str = "forbid (principal, action, resource);";
const BROKEN: &str = "permit (principal, action resource);";

async fn source(parent: &TempDir) -> Source {
    write(parent, "mesh.yaml", MESH);
    write(parent, "acl.cedar", OPEN);
    start(parent).await.unwrap()
}

async fn start(parent: &TempDir) -> Result<Source> {
    start_with(Config::folder(parent.path().join("bundle"))).await
}

async fn start_with(config: Config) -> Result<Source> {
    let metrics = Arc::new(Metrics::new(&daemon::Metrics::new()));
    let surroundings = Surroundings {
        proxies: Arc::new(Proxies::new(Clock::system(), metrics.clone())),
        metrics,
        readiness: Readiness::new(),
        clock: Clock::system(),
    };
    Source::start(Delivery::open(config)?, 1, surroundings).await
}

fn write(parent: &TempDir, name: &str, text: &str) {
    let folder = parent.path().join("bundle");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
}

async fn verdict(current: &Current) -> Verdict {
    let request = Attributes {
        principal: "unauthenticated".parse().unwrap(),
        action: Action::Http,
        resource: "orders".into(),
        method: "GET".into(),
        path: "/".into(),
        host: "orders".into(),
        headers: BTreeMap::new(),
        query: BTreeMap::new(),
        source_ip: "10.0.0.1".parse().unwrap(),
        tls: false,
        time: "2026-01-01T00:00:00Z".parse().unwrap(),
        ..Attributes::default()
    };
    crate::check::check(&current.get(), &request).await.verdict
}

/// The revision in force, how often something was told, and what is wrong with the bundle on disk.
fn state(source: &Source) -> (u64, u64, Option<String>) {
    let status = source.status.borrow().clone();
    let refused = status.refused.map(|findings| findings.iter().next().unwrap().message.clone());
    (source.current.get().revision.number, status.reads, refused)
}

#[tokio::test]
async fn an_edit_is_published_and_flips_the_decision() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    assert_eq!(verdict(&source.current).await, Verdict::Allow);
    write(&parent, "acl.cedar", SHUT);
    source.look().await;
    assert_eq!(state(&source), (2, 1, None));
    assert_eq!(verdict(&source.current).await, Verdict::Deny);
}

#[tokio::test]
async fn the_running_task_hears_of_an_edit() {
    let parent = tempfile::tempdir().unwrap();
    let source = source(&parent).await;
    let (current, lifecycle) = (source.current(), Lifecycle::new());
    lifecycle.spawn(source.run(lifecycle.clone()));
    write(&parent, "acl.cedar", SHUT);
    current.subscribe().wait_for(|snapshot| snapshot.revision.number == 2).await.unwrap();
    assert_eq!(verdict(&current).await, Verdict::Deny);
    assert!(lifecycle.drain(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_is_told_once() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    write(&parent, "acl.cedar", BROKEN);
    source.look().await;
    let (revision, reads, refused) = state(&source);
    assert_eq!((revision, reads), (1, 1));
    assert!(refused.unwrap().starts_with("unexpected token `resource`"));
    source.look().await;
    assert_eq!(state(&source).1, 1, "told once");
    assert_eq!(verdict(&source.current).await, Verdict::Allow);
    write(&parent, "acl.cedar", OPEN);
    source.look().await;
    assert_eq!(state(&source), (1, 2, None), "what is in force is not published anew");
}

#[tokio::test]
async fn the_same_content_written_again_publishes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    write(&parent, "acl.cedar", OPEN);
    source.look().await;
    assert_eq!(state(&source), (1, 0, None));
}

#[tokio::test]
async fn a_folder_that_is_gone_keeps_what_is_in_force() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    let (here, away) = (parent.path().join("bundle"), parent.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    for _ in 0..2 {
        source.look().await;
        let (revision, reads, refused) = state(&source);
        assert_eq!((revision, reads), (1, 1));
        assert!(refused.unwrap().starts_with("the bundle can't be read"));
    }
    assert_eq!(verdict(&source.current).await, Verdict::Allow);
    std::fs::rename(&away, &here).unwrap();
    source.look().await;
    assert_eq!(state(&source), (1, 2, None));
}

#[tokio::test]
async fn a_folder_replaced_as_a_whole_is_noticed_and_watched_from_then_on() {
    let (parent, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = source(&parent).await;
    write(&other, "mesh.yaml", MESH);
    write(&other, "acl.cedar", SHUT);
    std::fs::rename(parent.path().join("bundle"), parent.path().join("old")).unwrap();
    std::fs::rename(other.path().join("bundle"), parent.path().join("bundle")).unwrap();
    source.look().await;
    assert_eq!(state(&source), (2, 1, None));
    assert_eq!(verdict(&source.current).await, Verdict::Deny);
    while source.changes.try_recv().is_ok() {}
    write(&parent, "acl.cedar", OPEN);
    source.changes.recv().await.unwrap();
}

#[tokio::test]
async fn a_link_to_another_folder_is_noticed() {
    let (parent, one, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (folder, acl) in [(&one, OPEN), (&other, SHUT)] {
        write(folder, "mesh.yaml", MESH);
        write(folder, "acl.cedar", acl);
    }
    let link = parent.path().join("bundle");
    std::os::unix::fs::symlink(one.path().join("bundle"), &link).unwrap();
    let mut source = start(&parent).await.unwrap();
    std::os::unix::fs::symlink(other.path().join("bundle"), parent.path().join("next")).unwrap();
    std::fs::rename(parent.path().join("next"), &link).unwrap();
    source.look().await;
    assert_eq!(state(&source), (2, 1, None));
    assert_eq!(verdict(&source.current).await, Verdict::Deny);
}

#[tokio::test]
async fn a_file_that_leads_nowhere_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    std::os::unix::fs::symlink("nowhere", parent.path().join("bundle/forbid.cedar")).unwrap();
    source.look().await;
    assert!(state(&source).2.unwrap().starts_with("the file can't be read"));
}

#[tokio::test]
async fn another_trust_domain_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    write(&parent, "mesh.yaml", &MESH.replace("shop.example", "other.example"));
    source.look().await;
    let why = "the trust domain was `shop.example` and can't change while policyd runs";
    assert_eq!(state(&source), (1, 1, Some(why.to_owned())));
}

#[tokio::test]
async fn the_running_task_hears_of_an_edit_of_an_openapi_document() {
    let parent = tempfile::tempdir().unwrap();
    let document = |path: &str| {
        format!(
            "{{\"openapi\": \"3.1.0\", \"paths\": {{\"{path}\": {{\"get\": {{\"operationId\": \"read\"}}}}}}}}"
        )
    };
    write(&parent, "mesh.yaml", &MESH.replace("namespace: shop,", "namespace: shop, openapi: orders.json,"));
    write(&parent, "acl.cedar", "permit (principal, action == Action::\"read\", resource);");
    write(&parent, "orders.json", &document("/"));
    let source = start(&parent).await.unwrap();
    let (current, lifecycle) = (source.current(), Lifecycle::new());
    lifecycle.spawn(source.run(lifecycle.clone()));
    assert_eq!(verdict(&current).await, Verdict::Allow);
    write(&parent, "orders.json", &document("/orders"));
    current.subscribe().wait_for(|snapshot| snapshot.revision.number == 2).await.unwrap();
    assert_eq!(verdict(&current).await, Verdict::Deny);
    assert_eq!(current.get().decisions_since("orders").number, 2, "earlier decisions are out of use");
    assert!(lifecycle.drain(Duration::from_secs(10)).await);
}

const LIST: &str = "
handlers: [{name: blocked, adapter: list, config: {mode: deny, match: exact, file: blocked.txt, refresh: 100ms}}]
instances: [{name: caller, fields: {value: principal}}]
rules: [{name: blocked, actions: [{handler: blocked, instances: [caller]}]}]
";

#[tokio::test]
async fn an_edit_of_a_list_raises_the_revision() {
    let parent = tempfile::tempdir().unwrap();
    write(&parent, "adapters.yaml", LIST);
    write(&parent, "blocked.txt", "someone\n");
    let source = source(&parent).await;
    let (current, lifecycle) = (source.current(), Lifecycle::new());
    lifecycle.spawn(source.run(lifecycle.clone()));
    assert_eq!(verdict(&current).await, Verdict::Allow);
    write(&parent, "blocked.txt", "unauthenticated\n");
    current.subscribe().wait_for(|snapshot| snapshot.revision.number == 2).await.unwrap();
    assert_eq!(verdict(&current).await, Verdict::Deny);
    assert!(lifecycle.drain(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_list_that_changes_during_a_look_is_not_missed() {
    let parent = tempfile::tempdir().unwrap();
    write(&parent, "adapters.yaml", LIST);
    write(&parent, "blocked.txt", "someone\n");
    let mut source = source(&parent).await;
    let mut list = source.current.get().handlers.get("blocked").unwrap().changed().unwrap();
    write(&parent, "blocked.txt", "unauthenticated\n");
    list.wait_for(|number| *number > 0).await.unwrap();
    write(&parent, "acl.cedar", BROKEN);
    source.look().await;
    assert!(source.answers.next().now_or_never().flatten().is_some());
}

#[tokio::test]
async fn a_change_of_answers_concerns_only_services_that_ask_for_them_and_an_edit_asks_on_where_it_was() {
    let parent = tempfile::tempdir().unwrap();
    write(&parent, "mesh.yaml", &format!("{MESH}  stock: {{namespace: shop}}\n"));
    write(&parent, "acl.cedar", OPEN);
    write(
        &parent,
        "adapters.yaml",
        &LIST.replace("{name: blocked, actions", "{name: blocked, service: orders, actions"),
    );
    write(&parent, "blocked.txt", "someone\n");
    let mut source = start(&parent).await.unwrap();
    let since = |source: &Source| {
        let snapshot = source.current.get();
        ["orders", "stock"].map(|service| snapshot.decisions_since(service).number)
    };
    assert_eq!(since(&source), [1, 1]);
    write(&parent, "blocked.txt", "unauthenticated\n");
    let (name, _) = source.answers.next().await.unwrap();
    assert_eq!(name, "blocked");
    source.republish(&name).await;
    assert_eq!(since(&source), [2, 1]);

    // The handler goes on with what it knows, and is still listened to.
    let before = source.current.get().handlers.get("blocked").unwrap().clone();
    write(&parent, "mesh.yaml", &format!("{MESH}  stock: {{namespace: depot}}\n"));
    source.look().await;
    assert!(Arc::ptr_eq(&before, source.current.get().handlers.get("blocked").unwrap()));
    assert_eq!(since(&source), [2, 3]);
    write(&parent, "blocked.txt", "someone\n");
    source.answers.next().await.unwrap();
}

#[tokio::test]
async fn what_a_handler_lacks_may_come_later() {
    let parent = tempfile::tempdir().unwrap();
    let mut source = source(&parent).await;
    write(&parent, "adapters.yaml", LIST);
    source.look().await;
    assert!(state(&source).2.unwrap().starts_with("the handler `blocked` can't start"));
    write(&parent, "blocked.txt", "unauthenticated\n");
    source.look().await;
    assert_eq!(state(&source), (2, 2, None));
    assert_eq!(verdict(&source.current).await, Verdict::Deny);
}

#[tokio::test]
async fn a_bundle_that_is_broken_from_the_start_is_no_start() {
    let parent = tempfile::tempdir().unwrap();
    write(&parent, "mesh.yaml", MESH);
    write(&parent, "acl.cedar", BROKEN);
    let error = start(&parent).await.unwrap_err();
    assert!(error.downcast_ref::<Findings>().is_some());
}
