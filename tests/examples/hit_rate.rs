//! How often a decision is found in a proxy's cache, over a million requests of a shop: by the outcomes of what its
//! policies ask, and by the values of what they read, as Mixer did it.
//!
//! `cargo run --release -p tidegate-tests --example hit_rate`
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement stops when something is wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::Timestamp;
use model::{Atom, AtomSet, Decision, Name, Operations, Principal, Revision, Test, Verdict};
use policyd::bundle::{Bundle, Files};
use proxy::bench::{Check, Fields, Request};

const REQUESTS: u64 = 1_000_000;
/// All within an hour, over which a boundary of the time of day lies.
const START_SECOND: i64 = 1_767_252_600;
const HOUR_MS: u64 = 3_600_000;

const MESH: &str = "\
trust_domain: shop.example
services:
  shop: {namespace: shop, instances: [{endpoint: '127.0.0.1:80'}]}
";
const POLICIES: &str = r#"
permit (principal, action == Action::"http", resource == Service::"shop")
when { context.method == "GET" && (context.path like "/products/*" || context.path like "/static/*") };

permit (principal, action == Action::"http", resource == Service::"shop")
when { ["GET", "POST"].contains(context.method) && context.path like "/orders/*" && context.headers has "x-user" };

permit (principal, action == Action::"http", resource == Service::"shop")
when { context.method == "PUT" && context.path like "/users/*/cart/*" && context.headers has "x-user" }
unless { context.headers["x-user"] like "guest-*" };

permit (principal, action == Action::"http", resource == Service::"shop")
when { context.path == "/search" && context.query has "q" };

forbid (principal, action == Action::"http", resource == Service::"shop")
when { context.path like "*.php" || (context.headers has "user-agent" && context.headers["user-agent"] like "*bot*") };

forbid (principal, action == Action::"http", resource == Service::"shop")
when { context.path like "/orders/*/refund" && context.time.toTime() < duration("8h") };

forbid (principal, action == Action::"http", resource == Service::"shop")
unless { context.source_ip.isInRange(ip("10.0.0.0/8")) || context.source_ip.isLoopback() };
"#;

/// Numbers that look random, and are the same each time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// One request of the trace.
struct Traced {
    caller: usize,
    method: &'static str,
    path: String,
    query: String,
    fields: Fields,
    source_ip: IpAddr,
    time: Timestamp,
}

fn traced(number: u64, numbers: &mut Numbers) -> Traced {
    let user = numbers.below(50_000);
    let (method, path, query) = match numbers.below(20) {
        0..=5 => {
            ("GET", format!("/products/{}", numbers.below(200_000)), format!("page={}", numbers.below(9)))
        }
        6..=10 => ("GET", format!("/orders/{}", numbers.below(1 << 40)), String::new()),
        11..=12 => ("POST", format!("/orders/{}/items", numbers.below(1 << 40)), String::new()),
        13 => ("POST", format!("/orders/{}/refund", numbers.below(1 << 40)), String::new()),
        14..=15 => ("PUT", format!("/users/{user}/cart/{}", numbers.below(100)), String::new()),
        16 => ("GET", "/search".to_owned(), format!("q=word{}", numbers.below(100_000))),
        17..=18 => ("GET", format!("/static/{:x}.png", numbers.below(5_000)), String::new()),
        _ => ("GET", format!("/wp-{}.php", numbers.below(1_000)), String::new()),
    };
    let agents = ["Mozilla/5.0", "curl/8.5.0", "okhttp/4.12", "searchbot/2.1"];
    let agent = agents[usize::try_from(numbers.below(4)).unwrap()];
    let user = if user.is_multiple_of(10) { format!("guest-{user}") } else { format!("user-{user}") };
    let (trace, span) = (numbers.below(u64::MAX), numbers.below(u64::MAX));
    let sent = [
        ("user-agent", agent.to_owned()),
        ("x-user", user),
        ("x-request-id", format!("{trace:016x}-{number}")),
        ("traceparent", format!("00-{trace:032x}-{span:016x}-01")),
    ];
    let fields = Fields::new(&sent.each_ref().map(|(name, value)| (*name, value.as_str())));
    let at = i64::try_from(number * HOUR_MS / REQUESTS).unwrap();
    Traced {
        caller: usize::try_from(numbers.below(8)).unwrap(),
        method,
        path,
        query,
        fields,
        source_ip: Ipv4Addr::from_bits(0x0a00_0000 | u32::try_from(numbers.below(1 << 16)).unwrap()).into(),
        time: Timestamp::from_millisecond(START_SECOND * 1000 + at).unwrap(),
    }
}

/// The share of hits in the trace.
async fn replayed(atoms: AtomSet) -> (f64, u64) {
    let answer = Decision {
        verdict: Verdict::Allow,
        reasons: vec![],
        message: String::new(),
        limits: vec![],
        rules: vec![],
        valid_for: Duration::from_secs(86_400),
        revision: Revision { epoch: 1, number: 1 },
        degraded: false,
        shadows: vec![],
    };
    // Before the first request, by whatever making this takes.
    let start = Timestamp::from_second(START_SECOND - 1).unwrap();
    let check = Check::new(atoms, answer, Operations::default(), start);
    let callers: Vec<Principal> = ["web", "app", "pos", "erp", "crm", "ads", "bot", "ops"]
        .map(|name| format!("spiffe://shop.example/ns/shop/sa/{name}").parse().unwrap())
        .into();
    let mut numbers = Numbers(7);
    let mut hits = 0_u64;
    for number in 0..REQUESTS {
        let traced = traced(number, &mut numbers);
        let request = Request {
            principal: &callers[traced.caller],
            method: traced.method,
            path: &traced.path,
            query: &traced.query,
            fields: &traced.fields,
            source_ip: traced.source_ip,
            time: traced.time,
        };
        let (_decision, is_hit) = check.decide(request).await.unwrap();
        hits += u64::from(is_hit);
    }
    #[expect(clippy::cast_precision_loss, reason = "a million is exact")]
    let share = 100.0 * hits as f64 / REQUESTS as f64;
    (share, REQUESTS - hits)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let texts = [("mesh.yaml", MESH), ("acl.cedar", POLICIES)];
    let texts: BTreeMap<String, String> =
        texts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let bundle = Bundle::load(&Files { folder: ".".into(), texts }).unwrap();
    let atoms = bundle.atoms["shop"].clone();
    // The time by value would be a miss each time: it is left out.
    let read: BTreeSet<Name> =
        atoms.atoms().iter().map(|atom| atom.name.clone()).filter(|name| *name != Name::Time).collect();
    let values = AtomSet::new(read.into_iter().map(|name| Atom::new(name, Test::Value)).collect(), true);
    println!("| key | hits | misses of {REQUESTS} |\n|---|---|---|");
    for (key, atoms) in [("outcomes of all tests", atoms), ("values of all that policies read", values)] {
        let (share, misses) = replayed(atoms).await;
        println!("| {key} | {share:.2} % | {misses} |");
    }
}
