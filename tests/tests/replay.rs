//! What a mesh has decided is decided again, by the same bundle and by an edited one.
#![cfg(test)]

use anyhow::{Context, Result};
use http::StatusCode;
use model::Verdict;
use policyd::author::replay::{Log, Tally, replay, text};
use policyd::bundle::{Bundle, Files};
use tidegate_tests::World;

const FORBIDDEN: &str = "forbid (\n  principal == Workload::\"spiffe://bookinfo.example/ns/bookinfo/sa/productpage\",\n  action,\n  resource == Service::\"ratings\"\n);";

/// The decision logs of all sidecars.
fn logs(world: &World) -> Vec<Log> {
    let sidecars = world.mesh.sidecars.iter();
    sidecars.map(|sidecar| Log::File(world.decision_log(&sidecar.instance.name))).collect()
}

fn replayed(world: &World, edit: impl FnOnce(String) -> String) -> Result<Tally> {
    let mut files = Files::read(&world.bundle())?;
    let acl = files.texts.get_mut("acl.cedar").context("no acl.cedar")?;
    *acl = edit(std::mem::take(acl));
    Ok(replay(&Bundle::load(&files)?, &logs(world), &|_| ())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_decisions_of_a_mesh_are_replayed_against_an_edited_bundle() -> Result<()> {
    let mut world = World::bookinfo(|_| ()).await?;
    for _ in 0..3 {
        assert_eq!(world.browse("/productpage").await?.status, StatusCode::OK);
    }
    let denied = world.call("productpage-v1", "ratings", "/ratings/0").await?;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert!(world.mesh.stop().await);

    let same = replayed(&world, |acl| acl)?;
    assert_eq!((same.changed(), same.skipped(), same.for_other_reasons), (0, 0, 0), "{same:?}");
    // The page, details, reviews by each version, ratings by both callers.
    assert!(same.replayed >= 5, "{same:?}");

    let permitted = FORBIDDEN.replace("forbid", "permit").replace("action,", "action == Action::\"http\",");
    let edited = replayed(&world, |acl| {
        assert!(acl.contains(FORBIDDEN), "{acl}");
        acl.replace(FORBIDDEN, &permitted)
    })?;
    assert_eq!((edited.changed(), edited.changes.len()), (1, 1), "{edited:?}");
    let (change, counted) = edited.changes.iter().next().context("no change")?;
    assert_eq!((change.before.verdict, change.after.verdict), (Verdict::Deny, Verdict::Allow));
    assert_eq!(change.after.limits, ["ratings-per-caller"]);
    assert_eq!((counted.first.method.as_str(), counted.first.path.as_str()), ("GET", "/ratings/0"));
    let shown = text(&edited, &logs(&world));
    assert!(
        shown.contains("deny -> allow  ratings  spiffe://bookinfo.example/ns/bookinfo/sa/productpage"),
        "{shown}"
    );
    Ok(())
}
