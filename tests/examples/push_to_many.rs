//! How long after a file of the bundle is saved have all proxies acknowledged it? For docs/benchmarks.md.
//!
//! `push_to_many [PROXIES] [EDITS]`. policyd runs in this process; the proxies run in another, each with a
//! connection, a certificate and a Watch of its own.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "it prints what it measured, of two methods in turn"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::config::Config;
use api::policy::{self as wire, watch_request, watch_response};
use identity::grpc::Address;
use tidegate_tests::alone::{self, Alone, Authority, quantile};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Services of the mesh. Each proxy of this benchmark holds the whole mesh, and all of them live in one process.
const SERVICES: usize = 100;
/// How often a proxy pings, as a real one does.
const PING_PAUSE: Duration = Duration::from_secs(2);
/// Handshakes at once.
const CONNECTING_MAX: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default: usize| -> Result<usize> {
        arguments.get(place).map_or(Ok(default), |text| text.parse().with_context(|| format!("`{text}`")))
    };
    alone::raise_open_files()?;
    match arguments.first().map(String::as_str) {
        Some("as-proxies") => {
            let (folder, address) =
                (arguments.get(2).context("a folder")?, arguments.get(3).context("an address")?);
            be_proxies(number(1, 0)?, Path::new(folder), &address.parse()?).await
        }
        _ => measure(number(0, 1000)?, number(1, 50)?).await,
    }
}

async fn measure(proxies: usize, edits: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bundle = alone::prepare(folder.path(), SERVICES)?;
    let policyd = Alone::start(folder.path()).await?;
    let before = alone::resident_bytes()?;
    let [tcp, _unix] = &policyd.addresses;
    let started = Instant::now();
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args(["as-proxies", &proxies.to_string()])
        .args([folder.path().as_os_str(), tcp.to_string().as_ref()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    lines.next_line().await?.context("the proxies have ended")?;
    println!("{proxies} proxies of {SERVICES} services connected in {:?}", started.elapsed());
    let grown = alone::resident_bytes()?.saturating_sub(before);
    println!("policyd's memory: {} KiB for each", grown / 1024 / u64::try_from(proxies)?);

    let methods = ["PUT", "GET"];
    let of_all = |edit: usize| ("all.cedar".to_owned(), alone::policy_of_all(methods[edit % 2]));
    let of_one = |edit: usize| ("s0.cedar".to_owned(), alone::own_policy(0, methods[edit % 2]));
    run(&policyd, &bundle, "for all", edits, of_all).await?;
    run(&policyd, &bundle, "for one service", edits, of_one).await?;
    child.kill().await?;
    Ok(())
}

async fn run(
    policyd: &Alone,
    bundle: &Path,
    what: &str,
    edits: usize,
    edit: impl Fn(usize) -> (String, String),
) -> Result<()> {
    let mut rollouts = policyd.proxies.rolled_out();
    let mut took = Vec::new();
    let processor = alone::processor_seconds()?;
    for number in 0..edits {
        let (file, text) = edit(number);
        let temporary = bundle.join(".written");
        std::fs::write(&temporary, text)?;
        rollouts.mark_unchanged();
        let saved = Instant::now();
        std::fs::rename(temporary, bundle.join(file))?;
        rollouts.changed().await?;
        let acknowledged = rollouts.borrow().context("no proxy was concerned")?;
        took.push(acknowledged.duration_since(saved));
    }
    let processor = alone::processor_seconds()? - processor;
    took.sort();
    let at = |share| quantile(&took, share).context("nothing was measured");
    println!(
        "an edit {what}, {edits} times: saved -> last acknowledgement p50 {:.1?}, p99 {:.1?}, max {:.1?}; policyd's processor {:.1} ms each",
        at(0.5)?,
        at(0.99)?,
        at(1.0)?,
        processor * 1000.0 / f64::from(u32::try_from(edits)?)
    );
    Ok(())
}

async fn be_proxies(count: usize, folder: &Path, address: &Address) -> Result<()> {
    let authority = std::sync::Arc::new(Authority::in_folder(folder)?);
    let (ready, mut all_ready) = mpsc::channel(count);
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTING_MAX));
    for proxy in 0..count {
        let (authority, address, ready, room) =
            (authority.clone(), address.clone(), ready.clone(), room.clone());
        tokio::spawn(async move {
            if let Err(error) = be_proxy(proxy, &authority, &address, &ready, &room).await {
                println!("proxy {proxy} has ended: {error:#}");
            }
        });
    }
    for _ in 0..count {
        all_ready.recv().await.context("a proxy has ended")?;
    }
    println!("connected");
    std::future::pending().await
}

async fn be_proxy(
    proxy: usize,
    authority: &Authority,
    address: &Address,
    ready: &mpsc::Sender<()>,
    room: &tokio::sync::Semaphore,
) -> Result<()> {
    let service = format!("s{}", proxy % SERVICES);
    let (sender, messages) = mpsc::channel(4);
    let send = async |message| sender.send(wire::WatchRequest { message: Some(message) }).await;
    let permit = room.acquire().await?;
    let mut client = alone::client(authority, &service, address)?.max_decoding_message_size(64 << 20);
    let hello = wire::Hello { instance: format!("p{proxy}"), services: vec![service], ..Default::default() };
    send(watch_request::Message::Hello(hello)).await?;
    let mut responses = client.watch(ReceiverStream::new(messages)).await?.into_inner();
    let mut permit = Some(permit);
    let mut config = Config::default();
    let mut pings = tokio::time::interval(PING_PAUSE);
    let mut number = 0;
    loop {
        tokio::select! {
            message = responses.message() => match message?.and_then(|response| response.message) {
                Some(watch_response::Message::Config(changed)) => {
                    let revision = changed.revision;
                    // As a real proxy does it: decoded, checked, merged.
                    config = config.with(changed)?;
                    send(watch_request::Message::Ack(wire::Ack { revision, error: String::new() })).await?;
                    if permit.take().is_some() {
                        ready.send(()).await?;
                    }
                }
                Some(watch_response::Message::Heartbeat(_)) => {}
                None => bail!("policyd ended the stream"),
            },
            _ = pings.tick() => {
                number += 1;
                send(watch_request::Message::Ping(wire::Ping { number })).await?;
            }
        }
    }
}
