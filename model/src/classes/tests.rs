use std::collections::BTreeSet;
use std::mem::discriminant;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::pattern::Pattern;

fn pattern(text: &str) -> Pattern {
    text.split('*').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
}

fn class(classes: &Classes, value: &Value, marks: &mut Marks) -> Vec<u8> {
    let mut key = Vec::new();
    classes.write(Ok(&value.as_fact()), marks, &mut key);
    key
}

/// Facts are of one class exactly if they are of one type and all tests have the same outcome.
fn check(tests: &[Test], facts: &[Value]) {
    let classes = Classes::new(&tests.iter().collect::<Vec<_>>());
    let mut marks = Marks::default();
    let seen: Vec<_> = facts
        .iter()
        .map(|fact| {
            let outcomes: Vec<_> = tests.iter().map(|test| test.on(Ok(fact.as_fact()))).collect();
            (class(&classes, fact, &mut marks), discriminant(fact), outcomes, fact)
        })
        .collect();
    for (key, kind, outcomes, fact) in &seen {
        for (other_key, other_kind, other_outcomes, other) in &seen {
            let same = kind == other_kind && outcomes == other_outcomes;
            assert_eq!(key == other_key, same, "{fact:?} and {other:?} under {tests:?}");
        }
    }
}

fn literal() -> impl Strategy<Value = Value> {
    let small = -3_i64..4;
    let number = prop_oneof![4 => small, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        (number, 0..4).prop_map(|(number, kind)| match kind {
            0 => Value::Long(number),
            1 => Value::Time(number),
            2 => Value::Duration(number),
            _ => Value::Decimal(number),
        }),
        "[ab/]{0,6}".prop_map(Value::Text),
        range().prop_map(Value::network),
        prop::collection::btree_set("[ab]{0,2}", 0..3).prop_map(Value::Texts),
    ]
}

/// Ranges that hold each other often.
fn range() -> impl Strategy<Value = IpNet> {
    let v4 = (0_u32..8, 29_u8..=32).prop_map(|(low, prefix)| (IpAddr::V4(Ipv4Addr::from_bits(low)), prefix));
    let wide =
        (any::<u32>(), 0_u8..=32).prop_map(|(bits, prefix)| (IpAddr::V4(Ipv4Addr::from_bits(bits)), prefix));
    let v6 =
        (0_u128..8, 125_u8..=128).prop_map(|(low, prefix)| (IpAddr::V6(Ipv6Addr::from_bits(low)), prefix));
    prop_oneof![3 => v4, 1 => wide, 2 => v6]
        .prop_map(|(address, prefix)| IpNet::new(address, prefix).unwrap())
}

fn test() -> impl Strategy<Value = Test> {
    prop_oneof![
        1 => Just(Test::Present),
        2 => literal().prop_map(Test::Equals),
        2 => prop::collection::vec(literal(), 0..4).prop_map(Test::OneOf),
        2 => literal().prop_map(Test::Less),
        2 => literal().prop_map(Test::LessOrEqual),
        2 => literal().prop_map(Test::Contains),
        2 => range().prop_map(Test::InRange),
        3 => "[ab/*]{0,8}".prop_map(|text| Test::Like(pattern(&text))),
    ]
}

proptest! {
    #[test]
    fn classes_are_the_outcomes_of_all_tests(
        tests in prop::collection::vec(test(), 0..12),
        facts in prop::collection::vec(literal(), 1..30),
    ) {
        check(&tests, &facts);
    }

    #[test]
    fn many_patterns_match_as_each_alone(
        patterns in prop::collection::vec("[ab/]{0,3}(\\*[ab/]{0,3}){0,4}", 0..40),
        texts in prop::collection::vec("[ab/]{0,14}", 1..40),
    ) {
        let tests: Vec<_> = patterns.iter().map(|text| Test::Like(pattern(text))).collect();
        check(&tests, &texts.into_iter().map(Value::Text).collect::<Vec<_>>());
    }

    #[test]
    fn many_ranges_hold_as_each_alone(
        ranges in prop::collection::vec(range(), 0..30),
        facts in prop::collection::vec(range(), 1..30),
    ) {
        let tests: Vec<_> = ranges.into_iter().map(Test::InRange).collect();
        check(&tests, &facts.into_iter().map(Value::network).collect::<Vec<_>>());
    }
}

#[test]
fn a_value_is_a_class_of_its_own() {
    let values = [
        Value::Text(String::new()),
        Value::Text("a".into()),
        Value::Long(1),
        Value::Time(1),
        Value::Ip("1.2.3.4".parse().unwrap()),
        Value::Ip("::1".parse().unwrap()),
        Value::network("1.2.3.4/8".parse().unwrap()),
        Value::network("1.2.3.4/9".parse().unwrap()),
        Value::Texts(BTreeSet::from(["a".to_owned()])),
        Value::Texts(BTreeSet::from(["a".to_owned(), String::new()])),
    ];
    let classes = Classes::new(&[&Test::Value]);
    let keys: BTreeSet<_> =
        values.iter().map(|value| class(&classes, value, &mut Marks::default())).collect();
    assert_eq!(keys.len(), values.len());
}

/// How many times longer the slowest of some texts takes than it is longer, compared with a short one.
fn assert_linear(patterns: &[String], texts: [String; 2]) {
    let tests: Vec<_> = patterns.iter().map(|text| Test::Like(pattern(text))).collect();
    let classes = Classes::new(&tests.iter().collect::<Vec<_>>());
    let mut marks = Marks::default();
    let steps = texts.map(|text| {
        let before = marks.steps();
        let _class = class(&classes, &Value::Text(text.clone()), &mut marks);
        (text.len() + patterns.concat().len(), marks.steps() - before)
    });
    let [(length, short), (longer, long)] = steps;
    assert!(long * length <= 3 * short.max(1) * longer, "{steps:?} for {:?}", patterns.first());
}

#[test]
fn a_strangers_text_takes_no_longer_than_its_length() {
    let many = |make: fn(usize) -> String| (0..1000).map(make).collect::<Vec<_>>();
    let table = [
        (
            many(|n| format!("/api/*/x{n}/*")),
            "/api/",
            (0..1000).map(|n| format!("/x{n}/")).collect::<String>(),
        ),
        (
            many(|n| format!("*a{n}*b{n}*c")),
            "",
            (0..1000).map(|n| format!("a{n}b{n}")).collect::<String>() + "c",
        ),
        (many(|n| format!("/t{n}/*/*/*/*")), "/t7/", "/".repeat(8000)),
        (many(|n| format!("/*/{}", "/*".repeat(n % 20))), "/", "/".repeat(8000)),
        (vec!["*aa*aaa*aa*aaa*b".to_owned(), "*a*a*a*a*a*a*a*a*a*a*b".to_owned()], "a", "a".repeat(8000)),
    ];
    for (patterns, start, tail) in table {
        let half: String = tail.chars().take(tail.len() / 2).collect();
        assert_linear(&patterns, [format!("{start}{half}"), format!("{start}{tail}")]);
    }
}
