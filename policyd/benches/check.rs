//! One check, from Attributes to the policies' say, among 10 to 100,000 policies; and plain Cedar in the same run.
//!
//! `cargo bench -p tidegate-policyd`
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a benchmark stops when something is wrong")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use cedar_policy::{Authorizer, Context, EntityUid, Request, RestrictedExpression};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use model::{Action, Attributes};
use tidegate_policyd::bundle::{Bundle, Files};
use tidegate_policyd::engine;

/// So many policies name one caller and one service: the candidates of a check.
const CANDIDATES: usize = 20;

/// Policies that each name a caller and a service, as a large mesh has them.
fn bundle(policies: usize) -> Bundle {
    let services = policies.div_ceil(CANDIDATES).min(500);
    let mut mesh = "trust_domain: shop.example\nservices:\n".to_owned();
    for service in 0..services {
        mesh.push_str(&format!(
            "  s{service}: {{namespace: n{}, instances: [{{endpoint: '127.0.0.1:80'}}]}}\n",
            service % 10
        ));
    }
    let acl: String = (0..policies).map(|number| policy(number, services)).collect();
    let texts = BTreeMap::from([("mesh.yaml".to_owned(), mesh), ("acl.cedar".to_owned(), acl)]);
    Bundle::load(&Files { folder: ".".into(), texts }).unwrap()
}

fn policy(number: usize, services: usize) -> String {
    let pair = number / CANDIDATES;
    let (caller, service) = (pair / services, pair % services);
    let effect = if number % CANDIDATES == 7 { "forbid" } else { "permit" };
    format!(
        "{effect}(principal == Workload::\"spiffe://shop.example/ns/n{}/sa/s{caller}\", action == Action::\"http\", \
         resource == Service::\"s{service}\") when {{ context.method == \"GET\" && context.path like \"/v{number}/*\" }};\n",
        caller % 10
    )
}

fn request() -> Attributes {
    Attributes {
        principal: "spiffe://shop.example/ns/n0/sa/s0".parse().unwrap(),
        action: Action::Http,
        resource: "s0".into(),
        method: "GET".into(),
        path: "/v3/orders".into(),
        host: "s0".into(),
        headers: BTreeMap::new(),
        query: BTreeMap::new(),
        source_ip: "127.0.0.1".parse().unwrap(),
        tls: true,
        time: jiff::Timestamp::UNIX_EPOCH,
        ..Attributes::default()
    }
}

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

fn check(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(50);
    for policies in [10, 100, 1_000, 10_000, 100_000] {
        let started = tokio::time::Instant::now();
        let bundle = bundle(policies);
        eprintln!("{policies} policies loaded in {:?}", started.elapsed());
        let set = bundle.policies.to_set();
        let (attributes, plain) = (request(), plain(&request()));
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
