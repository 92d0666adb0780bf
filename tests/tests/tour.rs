//! The whole tour: what the README promises, through the real daemons, while requests run.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use tidegate_tests::World;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The page's parts that have to be whole.
fn is_whole_page(body: &str) -> bool {
    body.contains("The Comedy of Errors") && !body.contains("currently unavailable")
}

/// Loads the page over and over, and counts what went wrong.
struct Load {
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(world: &World) -> Result<Self> {
        let (stop, sent) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (client, ingress) = (world.client.clone(), world.ingress()?);
        let worker = || {
            let (client, stop, sent) = (client.clone(), stop.clone(), Arc::clone(&sent));
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let answer = client.get(ingress, "bookinfo", "/productpage").await?;
                    ensure!(answer.status == StatusCode::OK, "{answer:?}");
                    ensure!(is_whole_page(&answer.body), "a part is missing: {}", answer.body);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let workers = (0..4).map(|_| worker()).collect();
        Ok(Self { stop, sent, workers })
    }

    /// Waits until `more` further pages were loaded.
    async fn pages(&self, more: u64) -> Result<()> {
        let target = self.sent.load(Ordering::Relaxed) + more;
        while self.sent.load(Ordering::Relaxed) < target {
            ensure!(!self.workers.iter().any(JoinHandle::is_finished), "a worker has failed");
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Ends the load; an error if one request failed.
    async fn finish(self) -> Result<u64> {
        self.stop.cancel();
        for worker in self.workers {
            worker.await??;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_tour() -> Result<()> {
    let short_lives = |bundle: &std::path::Path| {
        let file = bundle.join("mesh.yaml");
        let mesh = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, mesh.replace("certificate_ttl: 1h", "certificate_ttl: 60s")).unwrap();
        // The load must not meet the limit on ratings.
        let file = bundle.join("limits.yaml");
        let limits = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, limits.replace("100/s", "100000/s")).unwrap();
    };
    let mut world = World::bookinfo(short_lives).await?;

    every_page_is_allowed(&world).await?;
    the_stars_go_round(&world).await?;
    let load = Load::start(&world)?;
    load.pages(20).await?;
    an_edit_flips_a_denial_while_requests_run(&world, &load).await?;
    a_broken_edit_changes_nothing(&world, &load).await?;
    certificates_rotate_under_load(&world, &load).await?;
    policyd_goes_and_comes_back_under_load(&mut world, &load).await?;
    let pages = load.finish().await?;
    ensure!(pages >= 100, "only {pages} pages were loaded");
    the_limit_says_when_to_come_back(&world).await?;
    a_list_denies_a_caller(&world).await?;
    rotation_is_clean_until_a_proxy_stops(world).await
}

async fn every_page_is_allowed(world: &World) -> Result<()> {
    for path in
        ["/productpage", "/health", "/api/v1/products", "/api/v1/products/0", "/api/v1/products/0/reviews"]
    {
        let answer = world.browse(path).await?;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    }
    Ok(())
}

/// Versions answer in turn: no stars, black ones, red ones.
async fn the_stars_go_round(world: &World) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..6 {
        let page = world.browse("/productpage").await?.body;
        let stars = match (page.contains("black stars"), page.contains("red stars")) {
            (true, false) => "black",
            (false, true) => "red",
            _ => "none",
        };
        seen.push(stars);
    }
    let turn = ["none", "black", "red"];
    let first = turn.iter().position(|stars| Some(stars) == seen.first()).context("no page")?;
    let expected: Vec<&str> = turn.iter().cycle().skip(first).take(6).copied().collect();
    assert_eq!(seen, expected);
    Ok(())
}

async fn an_edit_flips_a_denial_while_requests_run(world: &World, load: &Load) -> Result<()> {
    let denied = world.call("productpage-v1", "ratings", "/ratings/0").await?;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "{}", denied.body);
    assert_eq!(denied.header("x-tidegate-policy"), Some("the-page-reads-no-ratings"));
    assert!(denied.body.contains("the-page-reads-no-ratings"), "{}", denied.body);

    let before = world.read("acl.cedar")?;
    let flipped = before.replace("forbid (", "permit (");
    assert_ne!(before, flipped);
    world.write("acl.cedar", &flipped).await?;
    // Not one more request is decided by the old policies.
    assert_eq!(world.call("productpage-v1", "ratings", "/ratings/0").await?.status, StatusCode::OK);
    load.pages(10).await?;
    world.write("acl.cedar", &before).await?;
    assert_eq!(world.call("productpage-v1", "ratings", "/ratings/0").await?.status, StatusCode::FORBIDDEN);
    load.pages(10).await
}

async fn a_broken_edit_changes_nothing(world: &World, load: &Load) -> Result<()> {
    let before = world.read("acl.cedar")?;
    let mut status = world.mesh.policyd.status.clone();
    status.mark_unchanged();
    std::fs::write(
        world.bundle().join("acl.cedar"),
        before.replace("context.path like", "context.pth like"),
    )?;
    status.wait_for(|status| status.refused.is_some()).await?;
    let told = status.borrow().refused.as_ref().map(|findings| findings.render(false)).unwrap_or_default();
    assert!(told.contains("acl.cedar:24:4"), "{told}");
    assert!(told.contains("^^^^") && told.contains("did you mean `path`?"), "{told}");
    assert_eq!(world.call("productpage-v1", "ratings", "/ratings/0").await?.status, StatusCode::FORBIDDEN);
    load.pages(10).await?;
    std::fs::write(world.bundle().join("acl.cedar"), &before)?;
    status.wait_for(|status| status.refused.is_none()).await?;
    Ok(())
}

/// Time passes in leaps; the load goes on, and each leap makes every workload renew.
async fn certificates_rotate_under_load(world: &World, load: &Load) -> Result<()> {
    let mut sources = world.certificates();
    for _ in 0..3 {
        sources.iter_mut().for_each(|source| source.mark_unchanged());
        // Past the due time of all, jitter included, and before the end of any.
        world.clock.advance(Duration::from_secs(34));
        for source in &mut sources {
            source.changed().await.context("renewing has ended")?;
        }
        load.pages(20).await?;
    }
    let report = ca::audit::rotation(&world.ledger(), world.clock.now(), ca::audit::Options::default())?;
    for workload in report.workloads.iter().filter(|workload| workload.instance != "ca") {
        assert!(
            workload.rotations.len() >= 2,
            "{} rotated {} times",
            workload.instance,
            workload.rotations.len()
        );
    }
    Ok(())
}

/// What was cached goes on being served; then everyone asks the new policyd.
async fn policyd_goes_and_comes_back_under_load(world: &mut World, load: &Load) -> Result<()> {
    load.pages(10).await?;
    assert!(world.mesh.policyd.drain().await);
    load.pages(30).await?;
    world.restart_policyd().await?;
    load.pages(10).await?;
    assert_eq!(world.call("productpage-v1", "ratings", "/ratings/0").await?.status, StatusCode::FORBIDDEN);
    Ok(())
}

async fn the_limit_says_when_to_come_back(world: &World) -> Result<()> {
    let mut answers = Vec::new();
    for _ in 0..14 {
        answers.push(world.browse("/api/v1/products").await?);
    }
    let limited =
        answers.iter().find(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS).context("no 429")?;
    let allowed = answers.iter().find(|answer| answer.status == StatusCode::OK).context("no 200")?;
    assert!(
        limited.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|s| s >= 1)),
        "{limited:?}"
    );
    assert_eq!(limited.header("ratelimit-policy"), Some("\"api-per-address\";q=10;w=10"));
    assert!(
        limited.header("ratelimit").is_some_and(|value| value.starts_with("\"api-per-address\";r=0")),
        "{limited:?}"
    );
    assert!(allowed.header("ratelimit").is_some(), "{allowed:?}");
    Ok(())
}

async fn a_list_denies_a_caller(world: &World) -> Result<()> {
    assert_eq!(world.call("reviews-v1", "ratings", "/ratings/0").await?.status, StatusCode::OK);
    let blocked = "spiffe://bookinfo.example/ns/bookinfo/sa/reviews\n";
    world.write("blocked.txt", blocked).await?;
    let denied = world.call("reviews-v1", "ratings", "/ratings/0").await?;
    assert_eq!(
        (denied.status, denied.header("x-tidegate-policy")),
        (StatusCode::FORBIDDEN, Some("adapter/blocked"))
    );
    world.write("blocked.txt", "# nobody\n").await?;
    assert_eq!(world.call("reviews-v1", "ratings", "/ratings/0").await?.status, StatusCode::OK);
    Ok(())
}

async fn rotation_is_clean_until_a_proxy_stops(mut world: World) -> Result<()> {
    let audit = |world: &World| {
        ca::audit::rotation(&world.ledger(), world.clock.now(), ca::audit::Options::default())
    };
    let report = audit(&world)?;
    assert!(report.is_clean(), "{:#?}", report.findings);
    let stopped = world.mesh.sidecar("details-v1").context("no details")?;
    assert!(stopped.proxy.drain().await);
    world.clock.advance(Duration::from_secs(50));
    let report = audit(&world)?;
    let found = report
        .findings
        .iter()
        .any(|finding| finding.rule.id() == "A02" && finding.subject.contains("details-v1"));
    assert!(found, "{:#?}", report.findings);
    assert!(world.mesh.stop().await, "something did not end in time");
    Ok(())
}
