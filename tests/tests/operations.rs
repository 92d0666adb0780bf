//! Operations through a whole mesh: policies, limits, logs and metrics speak of what a service was asked to do.
#![cfg(test)]

use anyhow::{Context, Result};
use http::{Method, StatusCode};
use tidegate_tests::World;
use tidegate_tests::client::Answer;

const OPENAPI: &str = r#"{
  "openapi": "3.0.3",
  "paths": {
    "/ratings/{product}": {
      "get": {"operationId": "getRatings", "tags": ["ratings.read"]},
      "post": {"operationId": "putRatings"}
    }
  }
}"#;

const ACL: &str = r#"
@id("the-page") permit (principal, action in Action::"http", resource == Service::"productpage");

@id("reviews-read") permit (
    principal == Workload::"spiffe://bookinfo.example/ns/bookinfo/sa/reviews",
    action in Action::"ratings.read",
    resource
);

@id("nothing-but-operations") forbid (principal, action in Action::"http", resource == Service::"ratings")
unless { context has operation };
"#;

const LIMITS: &str = "
limits:
  - {name: reads, service: ratings, when: 'action == Action::\"getRatings\"', key: [principal, action], rate: 2/h, mode: local}
";

async fn ask(world: &World, method: Method, path: &str) -> Result<Answer> {
    let sidecar = world.mesh.sidecar("reviews-v2").context("no reviews-v2")?;
    world.client.send(sidecar.proxy.addresses.outbound, "ratings", path, method, &[], "".into()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_limits_logs_and_metrics_speak_of_operations() -> Result<()> {
    let mut world = World::bookinfo(|bundle| {
        let write = |file: &str, text: &str| std::fs::write(bundle.join(file), text).unwrap();
        let mesh = std::fs::read_to_string(bundle.join("mesh.yaml")).unwrap();
        let from = "  ratings:\n    namespace: bookinfo\n";
        assert!(mesh.contains(from));
        write("mesh.yaml", &mesh.replace(from, &format!("{from}    openapi: ratings.json\n")));
        write("ratings.json", OPENAPI);
        write("acl.cedar", ACL);
        write("limits.yaml", LIMITS);
    })
    .await?;

    let status =
        async |method: Method, path: &str| Ok::<_, anyhow::Error>(ask(&world, method, path).await?.status);
    assert_eq!(status(Method::GET, "/ratings/0").await?, StatusCode::OK);
    // Another form of the same path, and the HEAD of the same operation: a hit, and charged to the same limit.
    assert_ne!(status(Method::HEAD, "/ratings/./%30").await?, StatusCode::FORBIDDEN);
    assert_eq!(status(Method::GET, "/ratings/0").await?, StatusCode::TOO_MANY_REQUESTS);
    let denied = ask(&world, Method::POST, "/ratings/0").await?;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "an operation that nobody permits: {}", denied.body);
    let denied = ask(&world, Method::GET, "/ratings/0/x").await?;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert_eq!(denied.header("x-tidegate-policy"), Some("nothing-but-operations"), "{}", denied.body);

    let ratings = world.mesh.sidecar("ratings-v1").context("no ratings-v1")?.proxy.addresses.admin;
    let metrics = world.client.get(ratings, "admin", "/metrics").await?.body;
    for expected in [
        "tidegate_requests_total{direction=\"inbound\",service=\"ratings\",operation=\"getRatings\",code=\"200\"}",
        "tidegate_requests_total{direction=\"inbound\",service=\"ratings\",operation=\"putRatings\",code=\"403\"} 1",
        "tidegate_requests_total{direction=\"inbound\",service=\"ratings\",operation=\"\",code=\"403\"} 1",
    ] {
        assert!(metrics.contains(expected), "no `{expected}` in\n{metrics}");
    }

    // The same names on other requests: no earlier decision answers them.
    world.write("ratings.json", &OPENAPI.replace("/ratings/{product}", "/stars/{product}")).await?;
    let denied = ask(&world, Method::GET, "/ratings/0").await?;
    assert_eq!(denied.header("x-tidegate-policy"), Some("nothing-but-operations"), "{}", denied.body);

    assert!(world.mesh.stop().await);
    let log = std::fs::read_to_string(world.access_log())?;
    let of = |operation: &str| {
        log.lines().filter(|line| line.contains(&format!("\"operation\":\"{operation}\""))).count()
    };
    assert_eq!((of("getRatings"), of("putRatings")), (3, 1), "{log}");
    Ok(())
}
