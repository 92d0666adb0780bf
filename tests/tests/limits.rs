//! Limits through a whole mesh: three sidecars share what policyd lends and what it is asked about.
#![cfg(test)]

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use http::{Method, StatusCode};
use tidegate_tests::World;
use tidegate_tests::client::Answer;

const LIMITS: &str = "
limits:
  - {name: lent, service: reviews, when: 'context.path == \"/reviews/0\"', quota: 40 per month, mode: leased}
  - {name: asked, service: reviews, when: 'context.path == \"/reviews/0\"', quota: 30 per month, mode: exact, shadow: true}
  - {name: each, service: reviews, when: 'context.path == \"/reviews/1\"', rate: 2/h, mode: exact, key: [principal]}
  - {name: whole, service: reviews, when: 'context.path == \"/reviews/1\"', quota: 9 per month, mode: leased, refusal: {status: 503, body: later}}
";

async fn ask(world: &World, path: &str) -> Result<Answer> {
    let caller = world.mesh.sidecar("productpage-v1").context("no productpage")?;
    world.client.send(caller.proxy.addresses.outbound, "reviews", path, Method::GET, &[], "".into()).await
}

/// How many requests were answered how.
async fn answers(world: &World, path: &str, count: usize) -> Result<BTreeMap<u16, usize>> {
    let mut answers = BTreeMap::new();
    // Ten at once, over three sidecars in turn.
    for _round in 0..count / 10 {
        let all = futures_util::future::join_all((0..10).map(|_| ask(world, path))).await;
        for answer in all {
            *answers.entry(answer?.status.as_u16()).or_default() += 1;
        }
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_together_admit_what_a_limit_allows() -> Result<()> {
    let mut world =
        World::bookinfo(|bundle| std::fs::write(bundle.join("limits.yaml"), LIMITS).unwrap()).await?;

    // A quota is never exceeded, and what is over `asked`, which is in shadow, passes. What one sidecar was lent and
    // did not spend is out of reach for the others until it is given back.
    let of_quota = answers(&world, "/reviews/0", 100).await?;
    let (admitted, refused) =
        (of_quota.get(&200).copied().unwrap_or(0), of_quota.get(&429).copied().unwrap_or(0));
    assert_eq!(admitted + refused, 100, "{of_quota:?}");
    assert!((30..=40).contains(&admitted), "{of_quota:?}");
    let over = ask(&world, "/reviews/0").await?;
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(
        over.header("ratelimit-policy").is_some_and(|told| told.starts_with("\"lent\";q=40")),
        "{over:?}"
    );

    // Refused by `each`, charged to none: `whole` has seven left after two, however many were refused. There is no such
    // product.
    assert_eq!(answers(&world, "/reviews/1", 50).await?, BTreeMap::from([(404, 2), (429, 48)]));

    let mut would_limit = 0;
    for instance in ["reviews-v1", "reviews-v2", "reviews-v3"] {
        let admin = world.mesh.sidecar(instance).context(instance)?.proxy.addresses.admin;
        let metrics = world.client.get(admin, "admin", "/metrics").await?.body;
        let told = "tidegate_limit_outcomes_total{limit=\"asked\",outcome=\"would_limit\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(told));
        would_limit += line.map_or(0, |count| count.parse::<usize>().unwrap());
        assert!(!metrics.contains("limit=\"whole\",outcome=\"limited\""), "{metrics}");
    }
    assert_eq!(would_limit, admitted - 30);
    assert!(world.mesh.stop().await);
    Ok(())
}
