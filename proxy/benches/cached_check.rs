//! A cached check in the proxy: from the HTTP head to the decision, cache hit included.
//!
//! `cargo bench -p tidegate-proxy`
#![expect(clippy::unwrap_used, reason = "a benchmark stops when something is wrong")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use model::{Atom, AtomSet, Decision, Name, Operations, Pattern, Revision, Step, Test, Value, Verdict};
use tidegate_proxy::bench::{Check, Fields, Request};

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn like(pattern: &str) -> Test {
    let pieces: Vec<String> = pattern.split('*').map(str::to_owned).collect();
    Test::Like(Pattern::try_from(pieces).unwrap())
}

/// What the policies of a service may well ask: 20 tests of 9 facts.
fn twenty() -> Vec<Atom> {
    let header = |name: &str| Name::Header(name.into());
    let path = |pattern: &str| Atom::new(Name::Path, like(pattern));
    let method = |method: &str| Atom::new(Name::Method, Test::Equals(text(method)));
    let range = |range: &str| Atom::new(Name::SourceIp, Test::InRange(range.parse().unwrap()));
    let hour = |hours: i64| Value::Duration(hours * 3_600_000);
    vec![
        method("GET"),
        method("POST"),
        Atom::new(Name::Method, Test::OneOf(vec![text("PUT"), text("PATCH"), text("DELETE")])),
        path("/orders/*"),
        path("/orders/*/items"),
        path("/admin/*"),
        path("/static/*"),
        path("*.png"),
        path("/health"),
        range("10.0.0.0/8"),
        range("192.168.0.0/16"),
        Atom::new(header("x-user"), Test::Present),
        Atom::new(header("x-user"), Test::Equals(text("admin"))),
        Atom::new(header("x-tier"), Test::OneOf(vec![text("gold"), text("silver")])),
        Atom::new(header("x-canary"), Test::Present),
        Atom::new(Name::Query("debug".into()), Test::Present),
        Atom::new(Name::Tls, Test::Equals(Value::Bool(true))),
        Atom::new(Name::Host, Test::Equals(text("shop"))),
        Atom { name: Name::Time, steps: vec![Step::ToTime], test: Test::Less(hour(8)) },
        Atom { name: Name::Time, steps: vec![Step::ToTime], test: Test::LessOrEqual(hour(18)) },
    ]
}

/// A thousand patterns of one shape.
fn patterns(shape: impl Fn(usize) -> String) -> Vec<Atom> {
    (0..1000).map(|number| Atom::new(Name::Path, like(&shape(number)))).collect()
}

fn fields() -> Fields {
    let sent = [
        ("host", "shop"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("x-user", "jason"),
        ("x-tier", "gold"),
        ("x-request-id", "3b1f6a1e-6a8e-4d2f-9f53-b1a0d4f8a9ce"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-forwarded-for", "10.1.2.3"),
        ("x-forwarded-proto", "https"),
    ];
    Fields::new(&sent)
}

fn cached_check(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let principal = "spiffe://shop.example/ns/shop/sa/productpage".parse().unwrap();
    let fields = fields();
    let mut group = criterion.benchmark_group("cached_check");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let cases = [
        ("no atoms", vec![], "/orders/4711/items"),
        ("20 atoms", twenty(), "/orders/4711/items"),
        ("1000 patterns /v7/*", patterns(|n| format!("/v{n}/*")), "/v712/orders/4711"),
        ("1000 patterns /t7/*/orders/*", patterns(|n| format!("/t{n}/*/orders/*")), "/t712/shop/orders/4711"),
        ("1000 patterns /api/*/x7/*", patterns(|n| format!("/api/*/x{n}/*")), "/api/shop/x712/orders/4711"),
        ("1000 patterns *x7*", patterns(|n| format!("*x{n}*")), "/api/shop/x712/orders/4711"),
    ];
    for (name, atoms, path) in cases {
        let now = Timestamp::from_second(1_767_268_800).unwrap();
        let check = runtime
            .block_on(async { Check::new(AtomSet::new(atoms, true), answer(), Operations::default(), now) });
        let request = Request {
            principal: &principal,
            method: "GET",
            path,
            query: "page=2&sort=name",
            fields: &fields,
            source_ip: "10.1.2.3".parse().unwrap(),
            // Not before policyd was last heard of.
            time: now + Duration::from_secs(1),
        };
        runtime.block_on(check.decide(request)).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| check.look_up(black_box(request)).unwrap());
        });
    }
    group.finish();
}

fn answer() -> Decision {
    Decision {
        verdict: Verdict::Allow,
        reasons: vec!["acl.cedar#1".to_owned()],
        message: String::new(),
        limits: vec![],
        rules: vec![],
        valid_for: Duration::from_secs(86_400),
        revision: Revision { epoch: 1, number: 1 },
        degraded: false,
        shadows: vec![],
    }
}

criterion_group!(benches, cached_check);
criterion_main!(benches);
