//! Policies and whole bundles are tried on real traffic, and change nothing of it.
#![cfg(test)]

use std::path::Path;

use anyhow::{Context, Result};
use http::StatusCode;
use model::{DecisionLine, Shadow, Verdict};
use policyd::candidate::Location;
use serde_json::Value;
use tidegate_tests::{World, repository};

const TRIED: &str = r#"
@id("no-details")
@shadow("true")
forbid (principal, action == Action::"http", resource == Service::"details");
"#;
const FORBID: &str = "@id(\"the-page-reads-no-ratings\")\nforbid (";

fn copy_bundle(to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(repository::root().join("policies/bookinfo"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn shadow(name: &str, verdict: Verdict, reason: &str) -> Shadow {
    Shadow { name: name.into(), verdict, reasons: vec![reason.into()], degraded: false }
}

/// Resolves once so many candidates are tried, and every sidecar knows.
async fn until_tried(world: &World, count: usize) -> Result<()> {
    let mut snapshots = world.mesh.policyd.current.subscribe();
    let revision = snapshots.wait_for(|snapshot| snapshot.candidates.len() == count).await?.revision;
    world.until_applied(revision).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_tried_is_counted_and_logged_and_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    copy_bundle(folder.path())?;
    let acl = folder.path().join("acl.cedar");
    let good = std::fs::read_to_string(&acl)?;
    assert!(good.contains(FORBID), "{good}");
    let edited = good
        .replace(FORBID, "@id(\"the-page-reads-ratings\")\npermit (")
        .replace("  action,\n", "  action == Action::\"http\",\n");
    std::fs::write(&acl, &edited)?;
    let candidate = Location { name: "next".into(), folder: folder.path().to_owned() };
    let mut world = World::trying(vec![candidate], |bundle| {
        let acl = bundle.join("acl.cedar");
        let text = std::fs::read_to_string(&acl).unwrap_or_default();
        assert!(std::fs::write(acl, text + TRIED).is_ok());
    })
    .await?;
    let ask = async |service: &str, path: &str| {
        world.call("productpage-v1", service, path).await.map(|answer| answer.status)
    };
    for _ in 0..2 {
        assert_eq!(ask("ratings", "/ratings/0").await?, StatusCode::FORBIDDEN);
        assert_eq!(ask("details", "/details/0").await?, StatusCode::OK);
    }
    for (instance, sample) in [
        ("ratings-v1", r#"{service="ratings",shadow="next",verdict="allow",differs="yes"} 2"#),
        ("ratings-v1", r#"{service="ratings",shadow="shadow",verdict="deny",differs="no"} 2"#),
        ("details-v1", r#"{service="details",shadow="shadow",verdict="deny",differs="yes"} 2"#),
        ("details-v1", r#"{service="details",shadow="next",verdict="allow",differs="no"} 2"#),
    ] {
        let metrics = world.mesh.sidecar(instance).context("no sidecar")?.proxy.metrics.render();
        let sample = format!("tidegate_shadow_decisions_total{sample}\n");
        assert!(metrics.contains(&sample), "{sample} is not in\n{metrics}");
    }

    // A broken candidate is ignored, and what is enforced stays so; a mended one is tried again.
    std::fs::write(&acl, "permit")?;
    until_tried(&world, 0).await?;
    assert_eq!(ask("ratings", "/ratings/0").await?, StatusCode::FORBIDDEN);
    std::fs::write(&acl, good)?;
    until_tried(&world, 1).await?;
    assert_eq!(ask("ratings", "/ratings/0").await?, StatusCode::FORBIDDEN);

    assert!(world.mesh.stop().await);
    let log = std::fs::read_to_string(world.decision_log("ratings-v1"))?;
    let lines: Vec<DecisionLine> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let seen: Vec<_> = lines.iter().map(|line| (line.verdict, line.shadows.clone())).collect();
    let forbidden = "the-page-reads-no-ratings";
    let own = shadow("shadow", Verdict::Deny, forbidden);
    let expected = [
        (Verdict::Deny, vec![own.clone(), shadow("next", Verdict::Allow, "the-page-reads-ratings")]),
        (Verdict::Deny, vec![own.clone()]),
        (Verdict::Deny, vec![own, shadow("next", Verdict::Deny, forbidden)]),
    ];
    assert_eq!(seen, expected);
    let access = std::fs::read_to_string(world.access_log())?;
    let lines: Vec<Value> = access.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let details = lines.iter().find(|line| line["service"] == "details" && line["direction"] == "inbound");
    let told = &details.context("no line")?["shadows"][0];
    assert_eq!((&told["verdict"], &told["reasons"][0]), (&"deny".into(), &"no-details".into()));
    Ok(())
}
