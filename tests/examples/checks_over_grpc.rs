//! How many Checks does policyd answer over gRPC, and how fast? For docs/benchmarks.md.
//!
//! policyd runs in this process, with as many threads as there are cores; those who ask run in another.
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use api::policy as wire;
use identity::grpc::Address;
use tidegate_tests::alone::{self, Alone, Authority, quantile};
use tokio::time::Instant;

/// Services of the mesh, each with a policy of its own.
const SERVICES: usize = 100;
/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(5);
/// Questions under way at once, closed loop: each asks again as soon as it has an answer.
const CONCURRENCIES: [usize; 4] = [1, 8, 32, 128];
/// Questions a second, open loop: asked when it is time, whatever became of those before.
const RATES: [u32; 2] = [2_000, 5_000];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [ask, folder, address] if ask == "ask" => ask_all(Path::new(folder), &address.parse()?).await,
        _ => measure().await,
    }
}

async fn measure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    alone::prepare(folder.path(), SERVICES)?;
    let policyd = Alone::start(folder.path()).await?;
    for address in &policyd.addresses {
        println!("\n{address}, mutual TLS");
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg("ask")
            .args([folder.path().as_os_str(), address.to_string().as_ref()])
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(
            child.stdout.take().context("no output")?,
        ));
        let mut processor = alone::processor_seconds()?;
        // Each line tells of one measurement, which ends with it.
        while let Some(line) = lines.next_line().await? {
            let (count, line) = line.split_once(' ').context("a count first")?;
            let now = alone::processor_seconds()?;
            let each = (now - processor) / count.parse::<f64>()?;
            println!("{line}; policyd's processor {:.1} µs each, {:.0}/s a core", each * 1e6, 1.0 / each);
            processor = now;
        }
    }
    Ok(())
}

async fn ask_all(folder: &Path, address: &Address) -> Result<()> {
    let authority = Authority::in_folder(folder)?;
    // One connection, as of one proxy.
    let client = alone::client(&authority, "s0", address)?;
    ask(client.clone()).await?;
    for concurrency in CONCURRENCIES {
        let started = Instant::now();
        let askers = (0..concurrency).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < TIME {
                    took.push(ask(client.clone()).await?);
                }
                anyhow::Ok(took)
            })
        });
        let mut took = Vec::new();
        for asker in askers.collect::<Vec<_>>() {
            took.extend(asker.await??);
        }
        tell(&format!("{concurrency} at once"), took, started.elapsed())?;
    }
    for rate in RATES {
        let started = Instant::now();
        let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
        let took = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut asked = Vec::new();
        while started.elapsed() < TIME {
            let at = due.tick().await;
            let (client, took) = (client.clone(), took.clone());
            asked.push(tokio::spawn(async move {
                ask(client).await?;
                // From when it was due: a late question has waited too.
                took.lock().map_err(|_poisoned| anyhow::anyhow!("a question crashed"))?.push(at.elapsed());
                anyhow::Ok(())
            }));
        }
        for asked in asked {
            asked.await??;
        }
        let took =
            std::mem::take(&mut *took.lock().map_err(|_poisoned| anyhow::anyhow!("a question crashed"))?);
        tell(&format!("{rate} a second"), took, started.elapsed())?;
    }
    Ok(())
}

async fn ask(
    mut client: wire::policy_service_client::PolicyServiceClient<tonic::transport::Channel>,
) -> Result<Duration> {
    let attributes = wire::Attributes {
        principal: format!("spiffe://{}/ns/default/sa/s1", alone::DOMAIN),
        action: "http".into(),
        resource: "s0".into(),
        method: "GET".into(),
        path: "/own/1".into(),
        host: "s0".into(),
        headers: [("user-agent", "curl/8.5.0"), ("accept", "*/*"), ("x-request-id", "4f1c9f0e-5d0a")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        source_ip: "10.0.0.1".into(),
        tls: true,
        ..wire::Attributes::default()
    };
    let asked = Instant::now();
    let answer = client.check(wire::CheckRequest { attributes: Some(attributes) }).await?.into_inner();
    let took = asked.elapsed();
    let verdict = answer.decision.context("no decision")?.verdict();
    anyhow::ensure!(verdict == wire::Verdict::Allow, "{verdict:?}");
    Ok(took)
}

fn tell(what: &str, mut took: Vec<Duration>, time: Duration) -> Result<()> {
    took.sort();
    let at = |share| quantile(&took, share).context("nothing was measured");
    let rate = f64::from(u32::try_from(took.len())?) / time.as_secs_f64();
    println!("{} {what}: {rate:.0}/s, p50 {:.0?}, p99 {:.0?}", took.len(), at(0.5)?, at(0.99)?);
    Ok(())
}
