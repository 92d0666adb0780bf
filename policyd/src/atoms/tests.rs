use std::net::IpAddr;

use cedar_policy::{Policy, pst};

use super::*;

/// The types of a few headers.
fn kind(name: &Name) -> Option<Kind> {
    match name.field()?.1 {
        "x-tier" => Some(Kind::Long),
        "x-amount" => Some(Kind::Decimal),
        "x-roles" => Some(Kind::Texts),
        _ => None,
    }
}

fn derived(condition: &str) -> Derived {
    let text = format!("permit(principal, action, resource) when {{ {condition} }};");
    let policy = Policy::parse(None, text).unwrap();
    let pst::Policy::Static(policy) = policy.to_pst().unwrap() else { panic!("a static policy") };
    let mut derived = Derived::default();
    derived.policy(policy.body(), &meaning);
    derived.typed(kind)
}

fn one_atom(condition: &str) -> Atom {
    let derived = derived(condition);
    assert!(!derived.reads_everything, "{condition}");
    assert_eq!(derived.atoms.len(), 1, "{condition}: {:?}", derived.atoms);
    derived.atoms.into_iter().next().unwrap()
}

fn one(condition: &str) -> (Name, Test) {
    let atom = one_atom(condition);
    assert_eq!(atom.steps, [], "{condition}");
    (atom.name, atom.test)
}

/// The steps and the test of a condition on the time.
fn of_time(condition: &str) -> (Vec<Step>, Test) {
    let atom = one_atom(condition);
    assert_eq!(atom.name, Name::Time, "{condition}");
    (atom.steps, atom.test)
}

#[test]
fn simple_tests_become_atoms() {
    let header = || Name::Header("x-user".into());
    let text = |text: &str| Value::Text(text.into());
    let path = |pieces: &[&str]| {
        Test::Like(pieces.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>().try_into().unwrap())
    };
    let table = [
        (r#"context.method == "GET""#, Name::Method, Test::Equals(text("GET"))),
        (r#""GET" != context.method"#, Name::Method, Test::Equals(text("GET"))),
        (r#"context.path like "/a/*/b\*""#, Name::Path, path(&["/a/", "/b*"])),
        (r#"context.headers has "x-user""#, header(), Test::Present),
        (r#"context has headers.q"#, Name::Header("q".into()), Test::Present),
        (r#"context.headers["x-user"] == "a""#, header(), Test::Equals(text("a"))),
        (
            r#"["GET", "HEAD"].contains(context.method)"#,
            Name::Method,
            Test::OneOf(vec![text("GET"), text("HEAD")]),
        ),
        (
            r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
            Name::SourceIp,
            Test::InRange("10.0.0.0/8".parse().unwrap()),
        ),
        (
            r#"context.source_ip == ip("::1")"#,
            Name::SourceIp,
            Test::Equals(Value::Ip("::1".parse().unwrap())),
        ),
        (r#"context.time < datetime("1970-01-02")"#, Name::Time, Test::Less(Value::Time(86_400_000))),
        (r#"context.time >= datetime("1970-01-02")"#, Name::Time, Test::Less(Value::Time(86_400_000))),
        (r#"datetime("1970-01-02") < context.time"#, Name::Time, Test::LessOrEqual(Value::Time(86_400_000))),
        ("context.tls", Name::Tls, Test::Value),
        ("!context.tls", Name::Tls, Test::Value),
    ];
    for (condition, name, test) in table {
        assert_eq!(one(condition), (name, test), "{condition}");
    }
}

#[test]
fn what_is_no_atom_reads_values() {
    assert_eq!(one("context.path == principal.namespace"), (Name::Path, Test::Value));
    assert_eq!(one(r#"context.source_ip == ip("300.0.0.0")"#), (Name::SourceIp, Test::Value));
    let date = of_time("principal.since == context.time.toDate()");
    assert_eq!(date, (vec![Step::ToDate], Test::Value));
    assert_eq!(of_time("context.time.toTime() == principal.shift"), (vec![Step::ToTime], Test::Value));
    let two = derived("if context.tls then context.method == context.path else false");
    assert_eq!(two.atoms.len(), 3);
    assert_eq!(derived(r#"principal in Group::"a" && resource.namespace == "b""#), Derived::default());
}

#[test]
fn times_are_tested_after_steps() {
    let hours = |hours: i64| Value::Duration(hours * 3_600_000);
    let day = Value::Time(86_400_000);
    use Step::{Offset, Since, ToDate, ToDays, ToHours, ToMilliseconds, ToMinutes, ToSeconds, ToTime, Until};
    let table = [
        (r#"context.time.toTime() < duration("8h")"#, vec![ToTime], Test::Less(hours(8))),
        (r#"duration("8h") >= context.time.toTime()"#, vec![ToTime], Test::LessOrEqual(hours(8))),
        (
            r#"context.time.offset(duration("-1h")).toDate() == datetime("1970-01-02")"#,
            vec![Offset(-3_600_000), ToDate],
            Test::Equals(day.clone()),
        ),
        (
            r#"context.time.durationSince(datetime("1970-01-02")).toDays() > 7"#,
            vec![Since(86_400_000), ToDays],
            Test::LessOrEqual(Value::Long(7)),
        ),
        (
            r#"datetime("1970-01-02").durationSince(context.time) < duration("8h")"#,
            vec![Until(86_400_000)],
            Test::Less(hours(8)),
        ),
        ("[6, 7].contains(context.time.toTime().toHours())", vec![ToTime, ToHours], {
            Test::OneOf(vec![Value::Long(6), Value::Long(7)])
        }),
        (
            "context.time.toTime().toMinutes() <= 5",
            vec![ToTime, ToMinutes],
            Test::LessOrEqual(Value::Long(5)),
        ),
        ("context.time.toTime().toSeconds() != -5", vec![ToTime, ToSeconds], Test::Equals(Value::Long(-5))),
        (
            "context.time.toTime().toMilliseconds() < 5",
            vec![ToTime, ToMilliseconds],
            Test::Less(Value::Long(5)),
        ),
        (
            r#"context.time.toTime() < datetime("2020-01-01T08:00:00Z").toTime()"#,
            vec![ToTime],
            Test::Less(hours(8)),
        ),
    ];
    for (condition, steps, test) in table {
        assert_eq!(of_time(condition), (steps, test), "{condition}");
    }
}

#[test]
fn addresses_are_tested_by_ranges() {
    let ranges = |condition: &str| -> Vec<String> {
        let range = |atom: Atom| match atom.test {
            Test::InRange(range) if atom.name == Name::SourceIp => range.to_string(),
            test => panic!("{condition}: {test:?}"),
        };
        derived(condition).atoms.into_iter().map(range).collect()
    };
    assert_eq!(ranges("context.source_ip.isIpv4()"), ["0.0.0.0/0"]);
    assert_eq!(ranges("!context.source_ip.isIpv6()"), ["::/0"]);
    assert_eq!(ranges("context.source_ip.isLoopback()"), ["127.0.0.0/8", "::1/128"]);
    assert_eq!(ranges("context.source_ip.isMulticast()"), ["224.0.0.0/4", "ff00::/8"]);
    let range = Value::Range("10.0.0.0/8".parse().unwrap());
    assert_eq!(one(r#"context.source_ip == ip("10.0.0.0/8")"#), (Name::SourceIp, Test::Equals(range)));
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(
        one(r#"context.source_ip.isInRange(ip("10.0.0.1"))"#),
        (Name::SourceIp, Test::InRange(address.into()))
    );
}

#[test]
fn a_text_is_read_as_its_type() {
    let typed = |header: &str, kind, test| Atom {
        name: Name::Header(header.into()),
        steps: vec![Step::Read(kind)],
        test,
    };
    let text = |text: &str| Value::Text(text.into());
    let table = [
        (r#"context.headers has "x-tier""#, vec![typed("x-tier", Kind::Long, Test::Present)]),
        (r#"context.headers["x-tier"] >= 2"#, vec![typed("x-tier", Kind::Long, Test::Less(Value::Long(2)))]),
        (
            r#"context.headers["x-amount"].greaterThan(decimal("1.5"))"#,
            vec![typed("x-amount", Kind::Decimal, Test::LessOrEqual(Value::Decimal(15_000)))],
        ),
        (
            r#"decimal("1.5").greaterThan(context.headers["x-amount"])"#,
            vec![typed("x-amount", Kind::Decimal, Test::Less(Value::Decimal(15_000)))],
        ),
        (
            r#"context.headers["x-roles"].contains("a")"#,
            vec![typed("x-roles", Kind::Texts, Test::Contains(text("a")))],
        ),
        (
            r#"context.headers["x-roles"].containsAny(["a", "b"])"#,
            ["a", "b"].map(|role| typed("x-roles", Kind::Texts, Test::Contains(text(role)))).to_vec(),
        ),
        (
            r#"["a"].containsAny(context.headers["x-roles"])"#,
            vec![typed("x-roles", Kind::Texts, Test::Contains(text("a")))],
        ),
        (
            r#"["a"].containsAll(context.headers["x-roles"])"#,
            vec![typed("x-roles", Kind::Texts, Test::Value)],
        ),
        (
            r#"context.headers["x-roles"] == ["a"]"#,
            vec![typed("x-roles", Kind::Texts, Test::Equals(Value::Texts(["a".to_owned()].into())))],
        ),
        (r#"context.headers["x-roles"].containsAll([])"#, vec![typed("x-roles", Kind::Texts, Test::Value)]),
        (r#"context.headers["x-roles"].isEmpty()"#, vec![typed("x-roles", Kind::Texts, Test::Value)]),
    ];
    for (condition, atoms) in table {
        assert_eq!(derived(condition), Derived { atoms, reads_everything: false }, "{condition}");
    }
}

#[test]
fn what_reads_a_whole_record_reads_everything() {
    for condition in
        ["context == {}", "{a: context.headers} == {}", "context.other.thing", "context has other"]
    {
        assert!(derived(condition).reads_everything, "{condition}");
    }
    assert_eq!(derived("context has headers"), Derived::default());
}
