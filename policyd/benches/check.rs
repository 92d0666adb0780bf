//! One check, from Attributes to the policies' say, among 10 to 100,000 policies; and plain Cedar in the same run.
//!
//! `cargo bench -p tidegate-policyd`
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a benchmark stops when something is wrong")]

#[expect(dead_code, reason = "examples need the rest")]
mod many;

use std::hint::black_box;
use std::time::Duration;

use cedar_policy::{Authorizer, Context, EntityUid, Request, RestrictedExpression};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use model::Attributes;
use tidegate_policyd::bundle::Bundle;
use tidegate_policyd::engine;
use tokio::time::Instant;

/// So many single checks are timed for the percentiles.
const TIMED: usize = 100_000;

/// The same request, for plain Cedar.
fn plain(attributes: &Attributes) -> Request {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let record = || RestrictedExpression::new_record([]).unwrap();
    let pairs = [
        ("method", text(&attributes.method)),
        ("path", text(&attributes.path)),
        ("host", text(&attributes.host)),
        ("headers", record()),
        ("query", record()),
        ("source_ip", RestrictedExpression::new_ip("127.0.0.1")),
        ("tls", RestrictedExpression::new_bool(true)),
        ("time", RestrictedExpression::new_datetime("1970-01-01")),
    ];
    let context = Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value))).unwrap();
    let uid = |text: String| text.parse::<EntityUid>().unwrap();
    let principal = uid(format!("Workload::\"{}\"", attributes.principal));
    Request::new(principal, uid("Action::\"http\"".into()), uid("Service::\"s0\"".into()), context, None)
        .unwrap()
}

/// The median and the 99th percentile of single checks of different requests, by a caller that the bundle knows and by
/// one that it does not.
fn percentiles(bundle: &Bundle, caller: Option<&str>) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..TIMED)
        .map(|number| {
            let mut attributes = many::request(number);
            if let Some(caller) = caller {
                attributes.principal = caller.parse().unwrap();
            }
            let started = Instant::now();
            black_box(engine::evaluate(bundle, black_box(&attributes)).unwrap().opinion);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let percentile = |percent: usize| times.get(TIMED * percent / 100).copied().unwrap_or_default();
    (percentile(50), percentile(99))
}

fn check(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(50);
    for policies in [10, 100, 1_000, 10_000, 100_000] {
        let started = Instant::now();
        let bundle = Bundle::load(&many::bundle(policies, 1)).unwrap();
        eprintln!("{policies} policies loaded in {:?}", started.elapsed());
        let (p50, p99) = percentiles(&bundle, None);
        eprintln!("{policies} policies: single checks p50 {p50:?} p99 {p99:?}");
        let (p50, p99) = percentiles(&bundle, Some("spiffe://shop.example/ns/n0/sa/stranger"));
        eprintln!("{policies} policies: single checks of a stranger p50 {p50:?} p99 {p99:?}");
        let attributes = many::request(3);
        let (set, plain) = (bundle.policies.to_set(), plain(&attributes));
        group.bench_function(BenchmarkId::new("tidegate", policies), |bencher| {
            bencher.iter(|| engine::evaluate(&bundle, black_box(&attributes)).unwrap().opinion);
        });
        if policies > 10_000 {
            group.sample_size(10);
        }
        group.bench_function(BenchmarkId::new("cedar", policies), |bencher| {
            bencher.iter(|| Authorizer::new().is_authorized(black_box(&plain), &set, &bundle.entities));
        });
    }
    group.finish();
}

criterion_group!(benches, check);
criterion_main!(benches);
