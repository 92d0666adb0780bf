//! What happens when a part fails, and that everything recovers by itself.
//!
//! | what fails                          | what happens                                                   |
//! |-------------------------------------|----------------------------------------------------------------|
//! | policyd is down, decision cached    | it serves until its validity ends                              |
//! | policyd is down, decision not cached| the service's fail mode: closed is a 503, open lets it pass    |
//! | policyd is down, mesh-wide limit    | what the limit says for that                                      |
//! | policyd is back                     | every sidecar connects again and asks again                    |
//! | the CA is down                      | certificates serve until they end; renewing is tried again     |
//! | the CA was down for too long        | expired certificates are renewed within the grace              |
//! | one instance is down                | the others serve, and no request fails                         |
//! | all instances are down              | 503                                                            |
//! | the application is down             | 503                                                            |
//! | a server has another identity       | it gets no request                                             |
//! | a service that is not in the mesh   | 404                                                            |
#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::StatusCode;
use tidegate_tests::World;

fn edit(bundle: &Path, file: &str, from: &str, to: &str) {
    let path = bundle.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no `{from}`");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_policyd_is_down_cached_decisions_serve_and_others_are_refused() -> Result<()> {
    let mut world = World::bookinfo(|_| ()).await?;
    assert_eq!(world.browse("/productpage").await?.status, StatusCode::OK);
    assert!(world.mesh.policyd.drain().await);

    assert_eq!(world.browse("/productpage").await?.status, StatusCode::OK, "a hit");
    let miss =
        world.client.send(world.ingress()?, "page", "/other", http::Method::DELETE, &[], "".into()).await?;
    assert_eq!(miss.status, StatusCode::SERVICE_UNAVAILABLE, "a miss: {}", miss.body);
    assert!(miss.body.contains("policy_unavailable"), "{}", miss.body);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(
        world.browse("/productpage").await?.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "past its validity"
    );

    world.restart_policyd().await?;
    assert_eq!(world.browse("/productpage").await?.status, StatusCode::OK, "it is back");
    let denied = world.call("productpage-v1", "ratings", "/ratings/0").await?;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "and decides: {}", denied.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_may_choose_to_fail_open() -> Result<()> {
    let open = "  ratings:\n    fail_mode: open\n    namespace: bookinfo";
    let world =
        World::bookinfo(|bundle| edit(bundle, "mesh.yaml", "  ratings:\n    namespace: bookinfo", open))
            .await?;
    assert_eq!(world.call("productpage-v1", "ratings", "/ratings/0").await?.status, StatusCode::FORBIDDEN);
    assert!(world.mesh.policyd.drain().await);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.call("productpage-v1", "ratings", "/ratings/0").await?.status, StatusCode::OK, "open");
    assert_eq!(
        world.call("productpage-v1", "details", "/details/0").await?.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "closed"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_wide_limit_that_cannot_be_counted_does_what_it_says_for_that() -> Result<()> {
    let modes = [
        ("open", StatusCode::OK),
        ("closed", StatusCode::SERVICE_UNAVAILABLE),
        ("safe_share", StatusCode::OK),
    ];
    for (mode, expected) in modes {
        let world = World::bookinfo(|bundle| {
            edit(bundle, "limits.yaml", "on_store_failure: open", &format!("on_store_failure: {mode}"))
        })
        .await?;
        assert_eq!(world.call("reviews-v2", "ratings", "/ratings/0").await?.status, StatusCode::OK);
        assert!(world.mesh.policyd.drain().await);
        assert_eq!(world.call("reviews-v2", "ratings", "/ratings/0").await?.status, expected, "{mode}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_ca_is_down_certificates_serve_and_then_renew() -> Result<()> {
    let mut world =
        World::bookinfo(|bundle| edit(bundle, "mesh.yaml", "certificate_ttl: 1h", "certificate_ttl: 10m"))
            .await?;
    let mut certificates = world.certificates();
    assert!(world.mesh.ca.drain(Duration::from_secs(5)).await);
    // All are due, none has ended.
    world.clock.advance(Duration::from_secs(8 * 60));
    for _ in 0..3 {
        assert_eq!(world.browse("/productpage").await?.status, StatusCode::OK);
    }
    certificates.iter().for_each(|certificate| assert!(!certificate.has_changed().unwrap()));
    world.restart_ca().await?;
    for certificate in &mut certificates {
        certificate.changed().await.context("renewing has ended")?;
    }
    assert_eq!(world.browse("/productpage").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_recovers_from_a_ca_that_was_down_for_longer_than_certificates_live() -> Result<()> {
    let mut world =
        World::bookinfo(|bundle| edit(bundle, "mesh.yaml", "certificate_ttl: 1h", "certificate_ttl: 10m"))
            .await?;
    let mut certificates = world.certificates();
    assert!(world.mesh.ca.drain(Duration::from_secs(5)).await);
    world.clock.advance(Duration::from_secs(11 * 60));
    let refused = world.call("productpage-v1", "details", "/details/0").await?;
    assert!(refused.status.is_server_error(), "no request passes with an expired certificate: {refused:?}");
    world.restart_ca().await?;
    for certificate in &mut certificates {
        certificate.changed().await.context("renewing has ended")?;
    }
    world.restart_policyd().await?;
    assert_eq!(world.call("productpage-v1", "details", "/details/0").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_instance_is_down_the_others_serve() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    let down = world.mesh.sidecar("reviews-v2").context("no reviews-v2")?;
    assert!(down.proxy.drain().await);
    for _ in 0..6 {
        let answer = world.call("productpage-v1", "reviews", "/reviews/0").await?;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert!(!answer.body.contains("reviews-v2"));
    }
    for name in ["reviews-v1", "reviews-v3"] {
        assert!(world.mesh.sidecar(name).context("no reviews")?.proxy.drain().await);
    }
    let answer = world.call("productpage-v1", "reviews", "/reviews/0").await?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_down_is_a_503_with_a_reason() -> Result<()> {
    let mut world = World::bookinfo(|_| ()).await?;
    world.mesh.sidecar_mut("details-v1").context("no details")?.stop_application().await;
    let answer = world.call("productpage-v1", "details", "/details/0").await?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    assert!(answer.body.contains("no_healthy_upstream"), "{}", answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_identity_gets_no_request() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    let ratings = world.mesh.sidecar("ratings-v1").context("no ratings")?.proxy.addresses.inbound;
    let mesh = world.read("mesh.yaml")?;
    // A new `details` whose address is that of the sidecar of ratings.
    let from = "      - version: v1\n        command: [tidegate, sample, bookinfo, details]";
    let to = format!(
        "      - version: v9\n        inbound: {ratings}\n        command: [tidegate, sample, bookinfo, details]"
    );
    assert!(mesh.contains(from));
    world.write("mesh.yaml", &mesh.replace(from, &to)).await?;
    let answer = world.call("productpage-v1", "details", "/details/0").await?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    let log = std::fs::read_to_string(world.access_log())?;
    assert!(!log.lines().any(|line| line.contains("\"inbound\"") && line.contains("/details/0")), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_in_the_mesh_is_a_404() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    let answer = world.call("productpage-v1", "nowhere", "/").await?;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}", answer.body);
    assert!(answer.body.contains("nowhere"), "{}", answer.body);
    Ok(())
}
