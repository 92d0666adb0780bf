//! What people and programs see of a mesh: the page in a browser, metrics, health, the access log.
#![cfg(test)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use serde_json::Value;
use tidegate_tests::{World, program, promtool};

/// The page as a browser has it once everything is loaded.
fn rendered(chromium: &Path, url: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--dump-dom",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .arg(url)
        .stderr(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "the browser ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_the_page_with_each_kind_of_stars() -> Result<()> {
    let Some(chromium) = program::find("chromium", "a_browser_shows_the_page_with_each_kind_of_stars") else {
        return Ok(());
    };
    let world = World::bookinfo(|_| ()).await?;
    let url = format!("http://{}/productpage", world.ingress()?);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (chromium, url) = (chromium.clone(), url.clone());
        let page = tokio::task::spawn_blocking(move || rendered(&chromium, &url)).await??;
        assert!(page.contains("The Comedy of Errors") && page.contains("William Shakespeare"), "{page}");
        assert!(!page.contains("currently unavailable"), "{page}");
        let stars = if page.contains("red stars") {
            "red"
        } else if page.contains("black stars") {
            "black"
        } else {
            "none"
        };
        seen.push(stars);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["black", "none", "red"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jason_signs_in_and_out() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let login = world
        .client
        .send(world.ingress()?, "page", "/login", Method::POST, &[form], "username=jason".into())
        .await?;
    assert_eq!(login.status, StatusCode::SEE_OTHER, "{}", login.body);
    let cookie =
        login.header("set-cookie").and_then(|cookie| cookie.split(';').next()).context("no cookie")?;
    let page = world
        .client
        .send(world.ingress()?, "page", "/productpage", Method::GET, &[("cookie", cookie)], "".into())
        .await?;
    assert!(page.body.contains("jason"), "{}", page.body);
    let page = world.browse("/productpage").await?;
    assert!(!page.body.contains(">jason<"), "{}", page.body);
    Ok(())
}

/// Every daemon's admin address.
fn admins(world: &World) -> Vec<SocketAddr> {
    let proxies = world.mesh.sidecars.iter().map(|sidecar| sidecar.proxy.addresses.admin);
    [world.mesh.ca.admin_address, world.mesh.policyd.admin].into_iter().chain(proxies).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_daemon_shows_health_and_metrics_that_prometheus_reads() -> Result<()> {
    let world = World::bookinfo(|_| ()).await?;
    for _ in 0..4 {
        world.browse("/productpage").await?;
    }
    world.call("productpage-v1", "ratings", "/ratings/0").await?;
    let promtool = program::find("promtool", "every_daemon_shows_health_and_metrics_that_prometheus_reads");
    let mut all = String::new();
    for admin in admins(&world) {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(world.client.get(admin, "admin", path).await?.status, StatusCode::OK, "{admin}{path}");
        }
        let page = world.client.get(admin, "admin", "/metrics").await?.body;
        if let Some(promtool) = &promtool {
            assert_eq!(promtool::complaints(promtool, &page)?, Vec::<String>::new(), "{page}");
        }
        all.push_str(&page);
    }
    for expected in [
        "tidegate_requests_total{direction=\"ingress\",service=\"productpage\",operation=\"\",code=\"200\"}",
        "tidegate_decisions_total{verdict=\"allow\",source=\"miss\"}",
        "tidegate_decisions_total{verdict=\"allow\",source=\"hit\"}",
        "tidegate_decisions_total{verdict=\"deny\",source=\"miss\"}",
        "tidegate_limit_outcomes_total{limit=\"ratings-per-caller\",outcome=\"allowed\"}",
        "bookinfo_requests_total{caller=\"spiffe://bookinfo.example/ns/bookinfo/sa/reviews\",service=\"ratings\",code=\"200\"}",
    ] {
        assert!(all.contains(expected), "no `{expected}` in\n{all}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_tells_who_did_what_and_why() -> Result<()> {
    let mut world = World::bookinfo(|_| ()).await?;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    world
        .client
        .send(world.ingress()?, "page", "/productpage", Method::GET, &[("traceparent", trace)], "".into())
        .await?;
    world.call("productpage-v1", "ratings", "/ratings/0").await?;
    assert!(world.mesh.stop().await);
    let log = std::fs::read_to_string(world.access_log())?;
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;

    let traced: Vec<&Value> =
        lines.iter().filter(|line| line["trace_id"] == "0af7651916cd43dd8448eb211c80319c").collect();
    let services: Vec<&str> = traced
        .iter()
        .filter(|l| l["direction"] != "outbound")
        .filter_map(|l| l["service"].as_str())
        .collect();
    for service in ["productpage", "details", "reviews"] {
        assert!(services.contains(&service), "{service} is missing in {traced:#?}");
    }
    let denied = lines
        .iter()
        .find(|line| line["status"] == 403 && line["direction"] == "inbound")
        .context("no denial")?;
    assert_eq!(denied["principal"], "spiffe://bookinfo.example/ns/bookinfo/sa/productpage");
    assert_eq!(denied["reasons"][0], "the-page-reads-no-ratings");
    assert_eq!((&denied["verdict"], &denied["decision_source"]), (&"deny".into(), &"miss".into()));
    assert!(denied["duration_us"].is_u64() && denied["request_id"].is_string(), "{denied}");
    Ok(())
}
