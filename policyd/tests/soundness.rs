//! The law that makes caching right: requests with equal keys get equal decisions.
//!
//! Random policies, limits and rules, random requests; the decision of each is computed by Cedar from the
//! request itself, and compared with that of every earlier request with the same key.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use cedar_policy::EvalResult;
use ipnet::IpNet;
use jiff::Timestamp;
use model::{Action, Attributes, Fact, Keys, Kind, Principal, Room};
use proptest::prelude::*;
use tidegate_policyd::bundle::{Bundle, Files};
use tidegate_policyd::engine;

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
  stock: {namespace: depot, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";

const SHADOW: &str = "@shadow(\"true\") ";

/// What headers, cookies and claims are read as.
const SCHEMA: &str = r#"
type Headers = {
    "x-long"?: Long, "x-decimal"?: decimal, "x-time"?: datetime, "x-wait"?: duration, "x-ip"?: ipaddr,
    "x-ok"?: Bool, "x-set"?: Set<String>,
};
type Query = { n?: Long };
type Claims = { groups?: Set<String> };
"#;

/// Conditions that pass strict validation. Every form of atom is among them, and forms that are none.
const CONDITIONS: &[&str] = &[
    r#"context.method == "GET""#,
    r#"context.method != "GET""#,
    r#"context.path like "/a/*""#,
    r#"context.path like "*b*""#,
    r#"context.path like "/*/b""#,
    r#"context.path like "*c""#,
    r#"["GET", "PUT"].contains(context.method)"#,
    "context.tls",
    "context.tls == false",
    r#"context.host == principal.namespace"#,
    r#"principal.namespace == "shop""#,
    r#"principal in Namespace::"depot""#,
    r#"principal == Workload::"unauthenticated""#,
    r#"resource.namespace == "shop""#,
    r#"(if context.tls then context.path else context.host) == "/a/b""#,
    r#"[context.path, context.host].contains("shop")"#,
    // Addresses.
    r#"context.source_ip.isInRange(ip("10.0.0.0/30"))"#,
    r#"context.source_ip.isInRange(ip("10.0.0.1/31"))"#,
    r#"context.source_ip == ip("10.0.0.1")"#,
    r#"context.source_ip == ip("10.0.0.0/8")"#,
    "context.source_ip.isLoopback()",
    "context.source_ip.isIpv4()",
    "context.source_ip.isIpv6()",
    "context.source_ip.isMulticast()",
    r#"ip("10.0.0.0/31").isInRange(context.source_ip)"#,
    // Texts that may not be there.
    r#"context.headers has "x-a""#,
    r#"context has headers.x_a"#,
    r#"(context.headers has "x-a" && context.headers["x-a"] == "1")"#,
    r#"(context.headers has "x-b" && context.headers["x-b"] like "1*")"#,
    r#"(context.query has "q" && context.query["q"] == context.method)"#,
    r#"(context.cookies has session && context.cookies.session == "1")"#,
    r#"(context.cookies has session && context.cookies.session like "*2")"#,
    r#"(context.claims has sub && ["1", "12"].contains(context.claims.sub))"#,
    "context has operation",
    r#"(context has operation && context.operation == "getReview")"#,
    // The time, and what comes of it.
    r#"context.time < datetime("2026-01-01T00:00:05Z")"#,
    r#"context.time >= datetime("2026-01-01T00:00:02Z")"#,
    r#"context.time.toTime() < duration("4s")"#,
    r#"context.time.toTime() >= datetime("1999-01-01T00:00:03Z").toTime()"#,
    r#"context.time.toDate() == datetime("2026-01-01")"#,
    r#"context.time.offset(duration("23h59m58s")).toDate() > datetime("2026-01-01")"#,
    r#"context.time.durationSince(datetime("2026-01-01")).toSeconds() < 3"#,
    r#"datetime("2026-01-01T00:00:06Z").durationSince(context.time) <= duration("2s")"#,
    r#"[0, 2].contains(context.time.toTime().toSeconds())"#,
    "context.time.toTime().toMilliseconds() > 3500",
    "context.time.toTime().toMinutes() == 0",
    r#"context.time.toDate().durationSince(datetime("2025-12-31")).toDays() == 1"#,
    "context.time.toTime().toHours() == context.time.toTime().toMinutes()",
    // Texts that are read as another type.
    r#"context.headers has "x-long""#,
    r#"(context.headers has "x-long" && context.headers["x-long"] < 7)"#,
    r#"(context.headers has "x-long" && 7 <= context.headers["x-long"])"#,
    r#"(context.headers has "x-long" && [7, -7].contains(context.headers["x-long"]))"#,
    r#"(context.query has n && context.query.n == 7)"#,
    r#"(context.headers has "x-long" && context.query has n && context.headers["x-long"] <= context.query.n)"#,
    r#"(context.headers has "x-decimal" && context.headers["x-decimal"].lessThan(decimal("1.5")))"#,
    r#"(context.headers has "x-decimal" && context.headers["x-decimal"].greaterThanOrEqual(decimal("1.5")))"#,
    r#"(context.headers has "x-decimal" && decimal("1.5").lessThanOrEqual(context.headers["x-decimal"]))"#,
    r#"(context.headers has "x-decimal" && context.headers["x-decimal"] == decimal("1.5000"))"#,
    r#"(context.headers has "x-time" && context.headers["x-time"].toDate() < datetime("2026-01-01"))"#,
    r#"(context.headers has "x-time" && context.headers["x-time"] < datetime("2026-01-01T00:00:04Z"))"#,
    r#"(context.headers has "x-wait" && context.headers["x-wait"].toSeconds() > 60)"#,
    r#"(context.headers has "x-ip" && context.headers["x-ip"].isInRange(ip("10.0.0.0/8")))"#,
    r#"(context.headers has "x-ip" && context.headers["x-ip"] == context.source_ip)"#,
    r#"(context.headers has "x-ok" && context.headers["x-ok"])"#,
    r#"(context.headers has "x-ok" && context.headers["x-ok"] == true)"#,
    r#"(context.headers has "x-set" && context.headers["x-set"].contains("a"))"#,
    r#"(context.headers has "x-set" && context.headers["x-set"].containsAny(["a", "b"]))"#,
    r#"(context.headers has "x-set" && context.headers["x-set"].containsAll(["a", "b"]))"#,
    r#"(context.headers has "x-set" && ["a", "b"].containsAny(context.headers["x-set"]))"#,
    r#"(context.headers has "x-set" && ["a", "b"].containsAll(context.headers["x-set"]))"#,
    r#"(context.headers has "x-set" && context.headers["x-set"] == ["b", "a"])"#,
    r#"(context.headers has "x-set" && context.headers["x-set"].isEmpty())"#,
    r#"(context.claims has groups && context.claims.groups.contains("b"))"#,
];

/// The same, of raw connections.
const OF_CONNECTIONS: &[&str] = &[
    "true",
    "context.tls",
    "context.destination_port == 5432",
    "context.destination_port < 1024",
    "[5432, 6379].contains(context.destination_port)",
    "context has sni",
    r#"(context has sni && context.sni == "orders")"#,
    r#"(context has sni && context.sni like "*.example")"#,
    r#"context.source_ip.isInRange(ip("10.0.0.0/24"))"#,
];

/// A Boolean expression that passes strict validation, unless it takes too long a sum: that is an error.
fn condition() -> impl Strategy<Value = String> {
    // Overflow is the one error that strict validation lets through.
    let overflow =
        format!("(context.headers has \"x-long\" && context.headers[\"x-long\"] + {} > 0)", i64::MAX);
    let leaf = prop_oneof![
        40 => prop::sample::select(CONDITIONS).prop_map(str::to_owned),
        1 => Just(overflow),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("(if {a} then {b} else {c})")),
        ]
    })
}

fn policy() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let shadow = prop_oneof![2 => Just(""), 1 => Just(SHADOW)];
    let resource = prop_oneof![
        Just("resource"),
        Just("resource == Service::\"orders\""),
        Just("resource in Namespace::\"depot\"")
    ];
    let conditions = prop_oneof![
        4 => (Just(r#"in [Action::"http", Action::"grpc"]"#), prop::collection::vec(condition(), 0..3)),
        1 => (
            Just(r#"== Action::"tcp""#),
            prop::collection::vec(prop::sample::select(OF_CONNECTIONS).prop_map(str::to_owned), 0..3),
        ),
    ];
    (shadow, effect, resource, conditions).prop_map(|(shadow, effect, resource, (action, conditions))| {
        let whens: String = conditions.iter().map(|condition| format!(" when {{ {condition} }}")).collect();
        format!("{shadow}{effect}(principal, action {action}, {resource}){whens};\n")
    })
}

/// Texts that some header is sent with, most of which can be read as some type.
const TEXTS: &[&str] = &[
    "",
    "1",
    "12",
    "GET",
    "7",
    "-7",
    "07",
    "x7",
    "9223372036854775807",
    "1.5",
    "1.5000",
    "1.6",
    "1,5",
    "2025-12-31",
    "2026-01-01T00:00:03Z",
    "2026-01-01T00:00:03.000+0000",
    "2026-13-01",
    "61s",
    "1m1s",
    "1m",
    "10.0.0.1",
    "10.0.0.1/8",
    "10.0.0.1/32",
    "::ffff:a00:1",
    "::1",
    "true",
    "false",
    "TRUE",
    "a",
    "a, b",
    "b,a ,",
    "b",
    ",",
    "a,c",
];

/// Names that requests carry: those that conditions read, and one that none does.
const HEADERS: &[&str] =
    &["x-a", "x-b", "x_a", "x-long", "x-decimal", "x-time", "x-wait", "x-ip", "x-ok", "x-set", "x-unread"];

fn fields(names: &'static [&'static str]) -> impl Strategy<Value = BTreeMap<String, String>> {
    let field = (prop::sample::select(names), prop::sample::select(TEXTS));
    prop::collection::vec(field, 0..5).prop_map(|fields| {
        fields.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    })
}

fn request() -> impl Strategy<Value = Attributes> {
    let principals = vec![
        "unauthenticated",
        "spiffe://shop.example/ns/shop/sa/orders",
        "spiffe://shop.example/ns/depot/sa/stock",
        "spiffe://shop.example/ns/shop/sa/stranger",
    ];
    let addresses =
        vec!["10.0.0.1", "10.0.0.2", "10.0.1.1", "127.0.0.1", "127.9.9.9", "::1", "224.0.0.9", "ff02::1"];
    let who = (
        prop::sample::select(principals),
        prop::sample::select(vec![Action::Http, Action::Grpc, Action::Tcp]),
        prop::sample::select(vec!["orders", "stock"]),
        prop::sample::select(addresses),
    );
    let what = (
        prop::sample::select(vec!["GET", "PUT", "DELETE"]),
        prop::sample::select(vec!["/a/b", "/a/", "/c", "/b", "/", "/a/x/b", "/a/c"]),
        prop::sample::select(vec!["shop", "depot", ""]),
        prop::option::of(prop::sample::select(vec!["getReview", "listReviews"])),
    );
    let connection = (
        any::<bool>(),
        prop::option::of(prop::sample::select(vec!["orders", "a.example", "b.example", ""])),
        prop::sample::select(vec![5432, 6379, 443, 0]),
    );
    let records =
        (fields(HEADERS), fields(&["q", "n", "unread"]), fields(&["session"]), fields(&["sub", "groups"]));
    (who, what, records, connection, 0i64..8000).prop_map(|(who, what, records, connection, millis)| {
        let (tls, sni, destination_port) = connection;
        let (principal, action, resource, address) = who;
        let (method, path, host, operation) = what;
        let (headers, query, cookies, claims) = records;
        Attributes {
            principal: principal.parse::<Principal>().unwrap(),
            action,
            resource: resource.into(),
            method: method.into(),
            path: path.into(),
            host: host.into(),
            headers,
            query,
            cookies,
            claims,
            operation: operation.map(str::to_owned),
            source_ip: address.parse().unwrap(),
            tls,
            sni: sni.map(str::to_owned),
            destination_port,
            time: Timestamp::from_millisecond(1_767_225_600_000 + millis).unwrap(),
        }
    })
}

/// Requests, some of them changed in a part: so that many have equal keys, and are not equal.
fn requests() -> impl Strategy<Value = Vec<Attributes>> {
    let one = (request(), prop::collection::vec(request(), 1..4), any::<u16>());
    let changed = one.prop_map(|(request, others, parts)| {
        let mut all = vec![request.clone()];
        for other in others {
            let take = |bit: u16| parts >> bit & 1 == 1;
            all.push(Attributes {
                method: if take(0) { other.method } else { request.method.clone() },
                path: if take(1) { other.path } else { request.path.clone() },
                host: if take(2) { other.host } else { request.host.clone() },
                headers: if take(3) { other.headers } else { request.headers.clone() },
                query: if take(4) { other.query } else { request.query.clone() },
                cookies: if take(5) { other.cookies } else { request.cookies.clone() },
                claims: if take(6) { other.claims } else { request.claims.clone() },
                operation: if take(7) { other.operation } else { request.operation.clone() },
                source_ip: if take(8) { other.source_ip } else { request.source_ip },
                sni: if take(10) { other.sni } else { request.sni.clone() },
                destination_port: if take(11) { other.destination_port } else { request.destination_port },
                time: if take(9) { other.time } else { request.time },
                ..request.clone()
            });
        }
        all
    });
    prop::collection::vec(changed, 1..16).prop_map(|requests| requests.concat())
}

fn bundle(policies: &[String], limits: &[String], rules: &[String]) -> Bundle {
    let numbered = |texts: &[String], line: fn(usize, &str) -> String| -> String {
        texts.iter().enumerate().map(|(number, text)| line(number, &text.replace('\'', "''"))).collect()
    };
    let limits =
        numbered(limits, |number, when| format!("  - {{name: l{number}, rate: 1/s, when: '{when}'}}\n"));
    let rules = numbered(rules, |number, when| {
        format!("  - {{name: r{number}, match: '{when}', actions: [{{handler: out}}]}}\n")
    });
    let handlers = "handlers: [{name: out, adapter: stdio}]\n";
    let texts = BTreeMap::from([
        ("mesh.yaml".to_owned(), MESH.to_owned()),
        ("acl.cedar".to_owned(), policies.concat()),
        ("schema.cedarschema".to_owned(), SCHEMA.to_owned()),
        (
            "limits.yaml".to_owned(),
            if limits.is_empty() { String::new() } else { format!("limits:\n{limits}") },
        ),
        (
            "adapters.yaml".to_owned(),
            if rules.is_empty() { handlers.into() } else { format!("{handlers}rules:\n{rules}") },
        ),
    ]);
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty()).collect();
    Bundle::load(&Files { folder: ".".into(), texts })
        .unwrap_or_else(|findings| panic!("{}", findings.render(false)))
}

/// How many bundles are tried: five thousand, or as many as `TIDEGATE_CASES` says.
fn cases() -> u32 {
    std::env::var("TIDEGATE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn requests_with_equal_keys_get_equal_decisions(
        policies in prop::collection::vec(policy(), 1..6),
        limits in prop::collection::vec(condition(), 0..3),
        rules in prop::collection::vec(condition(), 0..2),
        requests in requests(),
    ) {
        let without: Vec<String> = policies.iter().map(|policy| policy.replace(SHADOW, "")).collect();
        let enforced = bundle(&without, &limits, &rules);
        let tried = bundle(&policies, &limits, &rules);
        let keys: HashMap<_, _> = tried.atoms.iter().map(|(name, atoms)| (name, Keys::new(atoms))).collect();
        let mut decided = HashMap::new();
        let mut room = Room::default();
        for request in requests {
            let key = keys[&request.resource].encode(&request, &mut room).to_vec();
            let evaluation = engine::evaluate(&tried, &request).unwrap();
            // What is said of the shadow policies is what would be if they were enforced.
            let enforced = engine::evaluate(&enforced, &request).unwrap().opinion;
            let shadow = evaluation.shadow.as_ref().unwrap_or(&evaluation.opinion);
            prop_assert_eq!((shadow.verdict, shadow.degraded), (enforced.verdict, enforced.degraded));
            let answer = (evaluation.opinion, evaluation.shadow, evaluation.limits, evaluation.rules);
            let (first, earlier) = decided.entry(key).or_insert_with(|| (request.clone(), answer.clone()));
            prop_assert_eq!(&*earlier, &answer, "{:?} and {:?} share a key", first, request);
        }
    }

    /// The proxy's reading of a typed text is Cedar's: both read it, as the same value, or neither does.
    #[test]
    fn texts_are_read_as_cedar_reads_them(
        text in prop_oneof![
            3 => prop::sample::select(TEXTS).prop_map(str::to_owned),
            1 => "-?[0-9]{0,3}\\.[0-9]{0,5}",
            1 => "-?([0-9]{1,3}d)?([0-9]{1,3}h)?([0-9]{1,3}m)?([0-9]{1,3}s)?([0-9]{1,3}ms)?",
            1 => "-?(92233720368547758[0-9]{2}|922337203685477|106751991167|2562047788015|153722867280912)(ms|s|d|h|m)",
            1 => "-?922337203685477\\.(58|5807|5808|59)",
            1 => "[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{3})?(Z|[+-][0-2][0-9][0-6][0-9])?)?",
            1 => "[0-9]{1,3}\\.[0-9]{1,2}\\.0\\.[0-9](/[0-9]{1,2})?",
            1 => "([0-9a-f]{1,4}:){1,7}:?[0-9a-f]{0,4}(/[0-9]{1,3})?",
            1 => "::[0-9a-f]{0,4}(:1\\.2\\.3\\.4)?(/[0-9]{1,3})?",
        ]
    ) {
        for (kind, function) in
            [(Kind::Decimal, "decimal"), (Kind::Time, "datetime"), (Kind::Duration, "duration"), (Kind::Ip, "ip")]
        {
            let call = |text: &str| format!("{function}({})", serde_json::Value::from(text));
            let value = |text: &str| engine::evaluate_constant(&call(text).parse().unwrap());
            let read = kind.read(&text);
            prop_assert_eq!(read.is_some(), value(&text).is_some(), "{}", call(&text));
            // What it is read as is what Cedar reads of the value's own text.
            if let (Some(fact), true) = (read, kind != Kind::Time) {
                let shown = match fact {
                    Fact::Ip(IpAddr::V6(address)) => address.segments().map(|s| format!("{s:x}")).join(":"),
                    Fact::Range(IpNet::V6(range)) => {
                        let address = range.addr().segments().map(|s| format!("{s:x}")).join(":");
                        format!("{address}/{}", range.prefix_len())
                    }
                    fact => fact.to_string(),
                };
                let same = format!("{} == {}", call(&text), call(&shown));
                prop_assert_eq!(engine::evaluate_constant(&same.parse().unwrap()), Some(EvalResult::Bool(true)));
            }
            if let Some(Fact::Time(ms)) = read {
                let same = format!(
                    r#"{} == datetime("1970-01-01").offset(duration("{ms}ms"))"#, call(&text)
                );
                prop_assert_eq!(engine::evaluate_constant(&same.parse().unwrap()), Some(EvalResult::Bool(true)));
            }
        }
    }
}
