//! How long a bundle takes to load, from nothing and after an edit; and whether a swap keeps anybody waiting.
//!
//! `cargo run --release -p tidegate-policyd --example load`, with how many policies if not 100,000.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement stops when something is wrong")]

#[path = "../benches/many/mod.rs"]
#[expect(dead_code, reason = "the benchmark needs the rest")]
mod many;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daemon::{Clock, Lifecycle, Readiness};
use tidegate_policyd::bundle::Loader;
use tidegate_policyd::delivery::{Config, Delivery};
use tidegate_policyd::metrics::Metrics;
use tidegate_policyd::proxies::Proxies;
use tidegate_policyd::source::{Source, Surroundings};
use tokio::time::Instant;

/// So many files have the policies.
const FILES: usize = 100;
/// So many swaps are made.
const SWAPS: usize = 20;

fn main() {
    let policies: usize = std::env::args().nth(1).map_or(100_000, |count| count.parse().unwrap());
    let mut files = many::bundle(policies, FILES);
    let mut loader = Loader::default();
    let started = Instant::now();
    let bundle = loader.load(&files).unwrap();
    println!("{policies} policies in {FILES} files from nothing: {:?}", started.elapsed());
    edit(&mut files.texts, 0);
    let started = Instant::now();
    let again = loader.load(&files).unwrap();
    println!("after an edit of one file: {:?}", started.elapsed());
    let started = Instant::now();
    drop(bundle);
    println!("freeing the one before: {:?}", started.elapsed());
    drop((again, loader));
    tokio::runtime::Runtime::new().unwrap().block_on(swaps(files));
}

/// Another path in the first policy of a file, as an author would edit it.
fn edit(texts: &mut std::collections::BTreeMap<String, String>, number: usize) {
    let text = texts.get_mut("acl7.cedar").unwrap();
    *text = text.replacen("*\" };", &format!("edited{number}*\" }};"), 1);
}

/// Swaps bundles as policyd does, while a task wants to run each millisecond.
async fn swaps(mut files: tidegate_policyd::bundle::Files) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &files.texts {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let metrics = Arc::new(Metrics::new(&daemon::Metrics::new()));
    let surroundings = Surroundings {
        proxies: Arc::new(Proxies::new(Clock::system(), metrics.clone())),
        metrics,
        readiness: Readiness::new(),
        clock: Clock::system(),
    };
    let delivery = Delivery::open(Config::folder(folder.path().to_owned())).unwrap();
    let source = Source::start(delivery, 1, surroundings).await.unwrap();
    let (mut snapshots, lifecycle) = (source.current().subscribe(), Lifecycle::new());
    lifecycle.spawn(source.run(lifecycle.clone()));
    let longest = Arc::new(AtomicU64::new(0));
    tokio::spawn(tick(longest.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("longest wait of a ticking task, idle: {:?}", taken(&longest));
    let mut times = Vec::new();
    for number in 0..SWAPS {
        edit(&mut files.texts, number);
        std::fs::write(folder.path().join("acl7.cedar"), files.text("acl7.cedar").unwrap()).unwrap();
        let started = Instant::now();
        snapshots.changed().await.unwrap();
        snapshots.borrow_and_update();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!(
        "saved to in force, {SWAPS} times: median {:?}, longest {:?}",
        times.get(SWAPS / 2),
        times.last()
    );
    println!("longest wait of a ticking task meanwhile: {:?}", taken(&longest));
}

async fn tick(longest: Arc<AtomicU64>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let waited = u64::try_from(last.elapsed().as_micros()).unwrap_or(u64::MAX);
        longest.fetch_max(waited, Ordering::Relaxed);
        last = Instant::now();
    }
}

fn taken(longest: &AtomicU64) -> Duration {
    Duration::from_micros(longest.swap(0, Ordering::Relaxed))
}
