//! How long a request through Envoy takes: as it is, when it asks a server that permits everything unseen, and when it asks
//! policyd, by gRPC and by plain HTTP. `cargo run --release -p tidegate-tests --example ext_authz`
#![expect(clippy::print_stdout, reason = "this is a program that prints what it measured")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::envoy::auth::authorization_server::{Authorization, AuthorizationServer};
use api::envoy::auth::check_response::HttpResponse;
use api::envoy::auth::{CheckRequest, CheckResponse, OkHttpResponse};
use policyd::config::Door;
use tempfile::TempDir;
use tidegate_tests::alone::quantile;
use tidegate_tests::client::Client;
use tidegate_tests::envoy::Running;
use tidegate_tests::repository::root;
use tidegate_tests::{World, echo, program};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// How many policies there are beside the example's, each for another caller.
const POLICIES: usize = 1000;
/// How often each way is measured, in turn, and for how long.
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(4);
/// Connections, each of which sends its next request when it has the answer to the last.
const CONNECTIONS: [usize; 2] = [1, 16];

const WAYS: [&str; 4] = ["Envoy alone", "a server that permits all", "policyd, gRPC", "policyd, plain HTTP"];

/// A server that permits everything.
struct Yes;

#[tonic::async_trait]
impl Authorization for Yes {
    async fn check(&self, _unseen: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let http_response = Some(HttpResponse::OkResponse(OkHttpResponse::default()));
        Ok(Response::new(CheckResponse { http_response, ..CheckResponse::default() }))
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let binary = program::find("envoy", "the measurement").context("no Envoy")?;
    let world = World::behind_envoy(more_policies).await?;
    let door = policyd::config::Envoy {
        listen: Some((([127, 0, 0, 1], 0).into(), Door::Open)),
        socket: None,
        gateways: Vec::new(),
        service_by_host: false,
        path_prefix: Some("/ext_authz".to_owned()),
    };
    let doors = envoy::bind(door).await?;
    let policyd = doors.address().context("no address")?;
    doors.open(&world.mesh.policyd, world.clock.clone());
    let (yes, application) = (start_yes().await?, echo::start().await?);
    let mut running = Vec::new();
    for (way, asked) in WAYS.into_iter().zip([yes, yes, policyd, policyd]) {
        let folder = TempDir::new()?;
        let envoy = Running::start(&binary, &config(way, asked, application)?, folder.path()).await?;
        running.push((envoy, folder));
    }
    println!("{:<28}{:>12}{:>10}{:>10}{:>12}", "", "connections", "p50", "p99", "requests/s");
    for connections in CONNECTIONS {
        let mut found = vec![Vec::new(); WAYS.len()];
        for _ in 0..ROUNDS {
            for ((envoy, _), found) in running.iter().zip(&mut found) {
                let at =
                    envoy.listener("outside").or_else(|| envoy.listener("mesh")).context("no listener")?;
                found.push(measure(at, connections).await?);
            }
        }
        for (way, found) in WAYS.iter().zip(&found) {
            let [p50, p99, rate] = [
                median(found.iter().map(|[p50, ..]| *p50)),
                median(found.iter().map(|[_, p99, _]| *p99)),
                median(found.iter().map(|[.., rate]| *rate)),
            ];
            println!("{way:<28}{connections:>12}{p50:>7.0} µs{p99:>7.0} µs{rate:>12.0}");
        }
    }
    let metrics = Client::default().get(world.mesh.policyd.admin, "admin", "/metrics").await?.body;
    let read = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        line.with_context(|| format!("no {name}"))
    };
    let each = read("tidegate_envoy_check_seconds_sum")? / read("tidegate_envoy_check_seconds_count")?;
    println!("policyd itself: {:.0} µs for an answer, on average", each * 1e6);
    Ok(())
}

/// p50 and p99 in microseconds, and requests in a second.
async fn measure(at: SocketAddr, connections: usize) -> Result<[f64; 3]> {
    let until = Instant::now() + SPAN;
    let callers: Vec<_> = (0..connections)
        .map(|number| {
            tokio::spawn(async move {
                let (client, mut taken) = (Client::default(), Vec::new());
                while Instant::now() < until {
                    let path = format!("/catalogue/{number}/{}", taken.len());
                    let started = Instant::now();
                    let answer = client.get(at, "shop.example", &path).await?;
                    taken.push(started.elapsed().as_secs_f64() * 1e6);
                    ensure!(answer.status == 200, "{answer:?}");
                }
                Ok(taken)
            })
        })
        .collect();
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await??);
    }
    all.sort_by(f64::total_cmp);
    let at = |share| quantile(&all, share).unwrap_or_default();
    Ok([at(0.5), at(0.99), f64::from(u32::try_from(all.len())?) / SPAN.as_secs_f64()])
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5).unwrap_or_default()
}

/// The example's configuration for this way, without access log and TLS.
fn config(way: &str, asked: SocketAddr, application: SocketAddr) -> Result<String> {
    let file = if way == WAYS[3] { "http.yaml" } else { "grpc.yaml" };
    let text = std::fs::read_to_string(root().join("policies/envoy/envoy").join(file))?;
    let (before, rest) = text.split_once("          transport_socket:\n").context("no TLS")?;
    let (_, after) = rest.split_once("  clusters:\n").context("no clusters")?;
    let text = format!("{before}\n  clusters:\n{after}");
    let text = [9901, 8080, 8443]
        .iter()
        .fold(text, |text, port| text.replace(&format!("port_value: {port}"), "port_value: 0"));
    let disabled =
        "encode_raw_headers: true\n                      filter_enabled: {default_value: {numerator: 0}}";
    let text = if way == WAYS[0] { text.replace("encode_raw_headers: true", disabled) } else { text };
    Ok(text
        .replace("port_value: 9001", &format!("port_value: {}", asked.port()))
        .replace("port_value: 9080", &format!("port_value: {}", application.port()))
        .replace("/dev/stdout", "/dev/null"))
}

fn more_policies(bundle: &Path) {
    let policy = |number: usize| {
        format!(
            "permit (principal == Workload::\"spiffe://shop.example/ns/shop/sa/caller{number}\", \
             action == Action::\"http\", resource == Service::\"shop\");\n"
        )
    };
    let text: String = (0..POLICIES).map(policy).collect();
    if let Err(error) = std::fs::write(bundle.join("more.cedar"), text) {
        println!("the policies can't be written: {error}");
    }
}

async fn start_yes() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Yes));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(address)
}
