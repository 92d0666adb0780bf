//! A hit, from the HTTP head to the decision, allocates nothing, whatever the atoms.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::time::Duration;

use jiff::Timestamp;
use model::{
    Atom, AtomSet, Decision, Kind, Name, Operations, Pattern, Revision, Route, Step, Test, Value, Verdict,
};
use tidegate_proxy::bench::{Check, Fields, Request};

/// One of which the request is for.
fn operations() -> Operations {
    let route = |template: &str, operation: &str| Route {
        method: "GET".to_owned(),
        template: template.parse().unwrap(),
        operation: operation.to_owned(),
    };
    let routes = vec![
        route("/v8/orders", "listOrders"),
        route("/v8/orders/{id}", "getOrder"),
        route("/v8/orders/{id}/{part}/{picture}", "getPicture"),
    ];
    Operations::new(routes).unwrap()
}

/// An atom of each kind, on each kind of fact.
fn atoms() -> AtomSet {
    let text = |text: &str| Value::Text(text.into());
    let like = |text: &str| {
        let pieces: Vec<String> = text.split('*').map(str::to_owned).collect();
        Test::Like(Pattern::try_from(pieces).unwrap())
    };
    let header = |name: &str| Name::Header(name.into());
    let typed = |name: &str, kind, test| Atom { name: header(name), steps: vec![Step::Read(kind)], test };
    let patterns = (0..1000).map(|number| match number % 4 {
        0 => format!("/v{number}/*"),
        1 => format!("*.{number}"),
        2 => format!("/v*/{number}/*"),
        _ => format!("*o{number}r*d*"),
    });
    let mut atoms: Vec<Atom> = patterns.map(|pattern| Atom::new(Name::Path, like(&pattern))).collect();
    atoms.extend([
        Atom::new(Name::Path, like("*o*d*")),
        Atom::new(Name::Method, Test::OneOf(vec![text("GET"), text("HEAD")])),
        Atom::new(Name::Host, Test::Value),
        Atom::new(header("x-user"), Test::Present),
        Atom::new(header("x-twice"), Test::Value),
        Atom::new(Name::Query("page".into()), Test::Equals(text("a b,c"))),
        Atom::new(Name::Cookie("session".into()), Test::Equals(text("1; 2"))),
        Atom::new(Name::SourceIp, Test::InRange("10.0.0.0/8".parse().unwrap())),
        Atom::new(Name::Tls, Test::Value),
        Atom { name: Name::Time, steps: vec![Step::ToTime], test: Test::Less(Value::Duration(1)) },
        typed("x-long", Kind::Long, Test::Less(Value::Long(7))),
        typed("x-decimal", Kind::Decimal, Test::Less(Value::Decimal(7))),
        typed("x-time", Kind::Time, Test::Less(Value::Time(7))),
        typed("x-wait", Kind::Duration, Test::Less(Value::Duration(7))),
        typed("x-ip", Kind::Ip, Test::InRange("10.0.0.0/8".parse().unwrap())),
        typed("x-roles", Kind::Texts, Test::Contains(text("admin"))),
        typed("x-roles", Kind::Texts, Test::Equals(Value::Texts(["admin".to_owned()].into()))),
    ]);
    AtomSet::new(atoms, true)
}

fn fields() -> Fields {
    let sent = [
        ("x-user", "jason"),
        ("x-twice", "a"),
        ("x-twice", "b"),
        ("cookie", "session=1; other=3"),
        ("cookie", "session=2"),
        ("x-long", "6"),
        ("x-decimal", "1.5"),
        ("x-time", "2026-01-01T00:00:00.000+0100"),
        ("x-wait", "1m5ms"),
        ("x-ip", "10.1.2.3"),
        ("x-roles", "user, admin"),
    ];
    Fields::new(&sent)
}

#[tokio::test]
async fn a_hit_allocates_nothing() {
    let answer = Decision {
        verdict: Verdict::Allow,
        reasons: vec!["acl.cedar#1".to_owned()],
        message: String::new(),
        limits: vec![],
        rules: vec![],
        valid_for: Duration::from_secs(60),
        revision: Revision { epoch: 1, number: 1 },
        degraded: false,
        shadows: vec![],
    };
    let check = Check::new(atoms(), answer, operations(), Timestamp::UNIX_EPOCH);
    let principal = "spiffe://shop.example/ns/shop/sa/orders".parse().unwrap();
    let fields = fields();
    let request = Request {
        principal: &principal,
        method: "GET",
        path: "/v8/orders/cards/o3r/d.jpg",
        query: "other=%C3%A9&page=a+b&page=%63",
        fields: &fields,
        source_ip: "10.1.2.3".parse().unwrap(),
        time: Timestamp::UNIX_EPOCH + Duration::from_secs(1),
    };
    let (_decision, is_hit) = check.decide(request).await.unwrap();
    // The second time it is a hit; after a few more, this thread's buffers have grown.
    assert!(!is_hit && (0..10).all(|_| check.look_up(request).is_some()));
    let counted = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert!(black_box(check.look_up(black_box(request))).is_some());
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    // The counter counts.
    assert!(allocation_counter::measure(|| drop(black_box(vec![1]))).count_total > 0);
}
