//! A mesh is adopted step by step: first nothing is decided, then it is told what would be denied, then denied.
#![cfg(test)]

use anyhow::{Context, Result};
use http::StatusCode;
use serde_json::Value;
use tidegate::overview::Overview;
use tidegate_tests::{Answer, World};

const RATINGS: &str = "  ratings:\n    namespace: bookinfo\n";

/// Sets the mode of `ratings`; returns once it is in force.
async fn switch(world: &World, mesh: &str, mode: &str) -> Result<()> {
    let text = mesh.replace(RATINGS, &format!("{RATINGS}    enforcement: {mode}\n"));
    assert_ne!(text, mesh);
    world.write("mesh.yaml", &text).await?;
    Ok(())
}

/// What the page may not do.
async fn forbidden(world: &World) -> Result<Answer> {
    world.call("productpage-v1", "ratings", "/ratings/0").await
}

fn health(overview: &Overview, service: &str) -> Result<(String, Value)> {
    let now = overview.services.first().context("no services")?.certificate_expires;
    let text = overview.text(now);
    let line = text.lines().find(|line| line.trim_start().starts_with(service)).context("no line")?;
    let word = line.rsplit("  ").next().unwrap_or_default().to_owned();
    let json = serde_json::to_value(overview)?;
    let rows = json["services"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row["service"] == service).context("no row")?;
    Ok((word, row["enforcement"].clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_from_off_to_observe_to_enforce() -> Result<()> {
    let mut world = World::bookinfo(|_| ()).await?;
    let mesh = world.read("mesh.yaml")?;
    let steps = [
        ("off", StatusCode::OK, "ok (off)"),
        ("observe", StatusCode::OK, "ok (observe)"),
        ("enforce", StatusCode::FORBIDDEN, "ok"),
        ("off", StatusCode::OK, "ok (off)"),
        ("enforce", StatusCode::FORBIDDEN, "ok"),
    ];
    for (mode, status, word) in steps {
        switch(&world, &mesh, mode).await?;
        let answer = forbidden(&world).await?;
        assert_eq!(answer.status, status, "{mode}: {}", answer.body);
        let named = answer.header("x-tidegate-policy").is_some();
        assert_eq!(named, mode == "enforce", "{mode}");
        assert_eq!(answer.body.contains("\"ratings\""), status == StatusCode::OK, "{mode}: {}", answer.body);
        // Other services go on as before.
        let other = world.call("reviews-v1", "details", "/details/0").await?;
        assert_eq!(other.status, StatusCode::FORBIDDEN, "{mode}: {}", other.body);
        let overview = Overview::of(&world.mesh).await;
        assert_eq!(health(&overview, "ratings")?, (word.to_owned(), mode.into()));
        assert_eq!(health(&overview, "details")?, ("ok".to_owned(), "enforce".into()));
        let warnings = world.mesh.policyd.current.get().bundle.warnings.render(false);
        let warned = warnings.contains("requests to `ratings` are not protected");
        assert_eq!(warned, mode != "enforce", "{mode}: {warnings}");
    }
    let metrics = world.mesh.sidecar("ratings-v1").context("no ratings")?.proxy.metrics.render();
    let would_deny = r#"tidegate_decisions_total{verdict="would_deny",source="miss"} 1"#;
    assert!(metrics.contains(would_deny), "{metrics}");

    assert!(world.mesh.stop().await);
    let log = std::fs::read_to_string(world.access_log())?;
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let decided: Vec<&Value> =
        lines.iter().filter(|line| line["service"] == "ratings" && line["direction"] == "inbound").collect();
    let verdicts: Vec<_> = decided.iter().map(|line| line["verdict"].as_str()).collect();
    assert_eq!(verdicts, [None, Some("would_deny"), Some("deny"), None, Some("deny")]);
    let sources: Vec<_> = decided.iter().map(|line| line["decision_source"].as_str()).collect();
    // The mode is no part of the decision, which is made once.
    assert_eq!(sources, [Some("off"), Some("miss"), Some("hit"), Some("off"), Some("hit")]);
    let observed = decided.get(1).context("no line")?;
    assert_eq!(observed["reasons"][0], "the-page-reads-no-ratings");
    assert_eq!(observed["message"], "forbidden by `the-page-reads-no-ratings`");
    assert_eq!((&observed["status"], &observed["error"]), (&200.into(), &Value::Null));
    assert_eq!(observed["principal"], "spiffe://bookinfo.example/ns/bookinfo/sa/productpage");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observed_service_passes_what_is_over_its_limit_and_what_policyd_cannot_decide() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    let mesh = world.read("mesh.yaml")?;
    let page = "  productpage:\n    namespace: bookinfo\n";
    world.write("mesh.yaml", &mesh.replace(page, &format!("{page}    enforcement: observe\n"))).await?;
    for _ in 0..14 {
        let answer = world.browse("/api/v1/products").await?;
        assert_eq!((answer.status, answer.header("ratelimit")), (StatusCode::OK, None), "{}", answer.body);
    }
    assert!(world.mesh.policyd.drain().await);
    // No policy permits this.
    let paths = ["/undecided", "/static/undecided"];
    for path in paths {
        let answer =
            world.client.send(world.ingress()?, "page", path, http::Method::DELETE, &[], "".into()).await?;
        assert!(!answer.body.contains("policy_unavailable"), "{}", answer.body);
    }
    let metrics = world.mesh.sidecar("productpage-v1").context("no page")?.proxy.metrics.render();
    for sample in [
        r#"tidegate_limit_outcomes_total{limit="api-per-address",outcome="would_limit"} "#,
        r#"tidegate_decisions_total{verdict="would_deny",source="degraded"} 2"#,
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    Ok(())
}
