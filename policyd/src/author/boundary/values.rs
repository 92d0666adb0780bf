//! The values of one fact that the tests of it tell apart.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use model::atom::Outcome;
use model::{Attributes, Name, Record, Test, Value};

use super::texts::{self, Element, Grammar};

/// The values of one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// The fact.
    pub name: Name,
    /// One value for each way in which the tests of it may come out; nothing where the fact is absent. The first is
    /// an ordinary one.
    pub values: Vec<Option<Value>>,
    /// Whether the tests can't come out in any other way.
    pub complete: bool,
}

/// The values of the fact called `name` that `tests` tell apart, and `patterns`, if it is a text.
///
/// `seeds` are texts that are taken first. They are all taken if a test reads the value itself, for then each value is
/// of its own kind, and only some can be listed.
pub(super) fn of(name: Name, tests: &[&Test], patterns: &[Vec<Element>], seeds: &[String]) -> Values {
    let by_value = tests.iter().any(|test| matches!(test, Test::Value));
    let (found, complete) = match name {
        Name::SourceIp => (addresses(tests, by_value), !by_value),
        Name::Time => (times(tests, by_value), !by_value),
        Name::DestinationPort => (ports(tests, by_value), !by_value),
        Name::Tls => (vec![Value::Bool(true), Value::Bool(false)], true),
        _ => {
            let mut patterns = patterns.to_vec();
            tests.iter().for_each(|test| patterns.extend(patterns_of(test)));
            let mut found = texts::of_each_kind(&patterns, grammar(&name), seeds);
            if by_value {
                found.texts.extend(seeds.iter().cloned());
            }
            (found.texts.into_iter().map(Value::Text).collect(), found.complete && !by_value)
        }
    };
    let mut met = HashSet::new();
    let absent = name.is_optional().then_some(None);
    let values =
        absent.into_iter().chain(found.into_iter().map(Some)).filter(|value| met.insert(value.clone()));
    Values { values: values.collect(), name, complete }
}

impl Values {
    /// Adds values that some of its tests tell apart, which leaves it open what all of them do.
    pub(super) fn add(&mut self, more: Vec<Value>) {
        self.complete = false;
        for value in more.into_iter().map(Some) {
            if !self.values.contains(&value) {
                self.values.push(value);
            }
        }
    }
}

/// Gives a request this value of a fact. A value of another type than the fact's changes nothing.
pub(super) fn set(attributes: &mut Attributes, name: &Name, value: Option<&Value>) {
    match (name, value) {
        (Name::Method, Some(Value::Text(text))) => attributes.method.clone_from(text),
        (Name::Path, Some(Value::Text(text))) => attributes.path.clone_from(text),
        (Name::Host, Some(Value::Text(text))) => attributes.host.clone_from(text),
        (Name::SourceIp, Some(Value::Ip(ip))) => attributes.source_ip = *ip,
        (Name::Tls, Some(Value::Bool(tls))) => attributes.tls = *tls,
        (Name::DestinationPort, Some(Value::Long(port))) => {
            attributes.destination_port = u16::try_from(*port).unwrap_or(attributes.destination_port);
        }
        (Name::Sni, Some(Value::Text(text))) => attributes.sni = Some(text.clone()),
        (Name::Sni, None) => attributes.sni = None,
        (Name::Time, Some(Value::Time(millis))) => {
            attributes.time = Timestamp::from_millisecond(*millis).unwrap_or(attributes.time);
        }
        (name, value) => {
            let Some((record, field)) = name.field() else { return };
            let fields = match record {
                Record::Headers => &mut attributes.headers,
                Record::Query => &mut attributes.query,
                Record::Cookies => &mut attributes.cookies,
                Record::Claims => &mut attributes.claims,
            };
            match value {
                Some(Value::Text(text)) => drop(fields.insert(field.to_owned(), text.clone())),
                None => drop(fields.remove(field)),
                Some(_) => {}
            }
        }
    }
}

const fn grammar(name: &Name) -> Grammar {
    match name {
        Name::Path => Grammar::Path,
        Name::Method => Grammar::Method,
        Name::Host | Name::Sni => Grammar::Host,
        Name::Header(_) | Name::Cookie(_) => Grammar::Header,
        _ => Grammar::Any,
    }
}

/// What a test of a text looks for.
fn patterns_of(test: &Test) -> Vec<Vec<Element>> {
    let exactly = |value: &Value| match value {
        Value::Text(text) => Some(text.chars().map(Element::Char).collect()),
        _ => None,
    };
    match test {
        Test::Like(pattern) => vec![texts::elements(pattern)],
        Test::Equals(value) => exactly(value).into_iter().collect(),
        Test::OneOf(values) => values.iter().filter_map(exactly).collect(),
        _ => Vec::new(),
    }
}

/// Ranges overlap only as a whole. So what lies in some of them and not in others starts at a range's first address or
/// just after a range's last; both ends are taken.
fn addresses(tests: &[&Test], by_value: bool) -> Vec<Value> {
    let networks = tests.iter().flat_map(|test| match test {
        Test::InRange(network) => vec![*network],
        Test::Equals(Value::Ip(ip)) => vec![IpNet::from(*ip)],
        Test::OneOf(values) => values
            .iter()
            .filter_map(|value| match value {
                Value::Ip(ip) => Some(IpNet::from(*ip)),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    });
    let mut found = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if by_value {
        found.extend(ORDINARY.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
    }
    for network in networks {
        let (first, last) = (network.network(), network.broadcast());
        found.extend(
            [Some(first), Some(last), neighbour(first, false), neighbour(last, true)].into_iter().flatten(),
        );
    }
    // A proxy knows an IPv4 address in its one form only: what is left of IPv6 starts at two places.
    found.extend(STARTS);
    found.retain(|ip| ip.to_canonical() == *ip);
    kinds(found.into_iter().map(Value::Ip), tests)
}

/// The first addresses of IPv4, of IPv6, and of IPv6 after the addresses that stand for IPv4.
const STARTS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::from_bits(1 << 48)),
];

/// Addresses that `isLoopback`, `isMulticast` and `isIpv4` tell apart.
const ORDINARY: [&str; 5] = ["10.0.0.1", "224.0.0.1", "::1", "2001:db8::1", "ff02::1"];

fn neighbour(ip: IpAddr, after: bool) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => {
            let bits = if after { ip.to_bits().checked_add(1) } else { ip.to_bits().checked_sub(1) };
            bits.map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(ip) => {
            let bits = if after { ip.to_bits().checked_add(1) } else { ip.to_bits().checked_sub(1) };
            bits.map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// Each instant that a test names, and the milliseconds before and after it.
fn times(tests: &[&Test], by_value: bool) -> Vec<Value> {
    let ordinary = super::ordinary_time().as_millisecond();
    let mut found = vec![ordinary];
    if by_value {
        // Another hour, another day of the week, another month.
        found.extend([6, 12, 18, 3 * 24, 31 * 24].map(|hours| ordinary + hours * 3_600_000));
    }
    for test in tests {
        let values = match test {
            Test::Equals(value) | Test::Less(value) | Test::LessOrEqual(value) => std::slice::from_ref(value),
            Test::OneOf(values) => values.as_slice(),
            _ => &[],
        };
        for value in values {
            if let Value::Time(at) = value {
                found.extend([at.saturating_sub(1), *at, at.saturating_add(1)]);
            }
        }
    }
    found.retain(|millis| Timestamp::from_millisecond(*millis).is_ok());
    kinds(found.into_iter().map(Value::Time), tests)
}

/// Each port that a test names, and those before and after it.
fn ports(tests: &[&Test], by_value: bool) -> Vec<Value> {
    let mut found = vec![0];
    if by_value {
        found.extend([5432, 6379]);
    }
    for value in tests.iter().flat_map(|test| compared(test)) {
        if let Value::Long(port) = value {
            found.extend([port.saturating_sub(1), *port, port.saturating_add(1)]);
        }
    }
    found.retain(|port| u16::try_from(*port).is_ok());
    kinds(found.into_iter().map(Value::Long), tests)
}

/// The values that a test compares with.
const fn compared(test: &Test) -> &[Value] {
    match test {
        Test::Equals(value) | Test::Less(value) | Test::LessOrEqual(value) => std::slice::from_ref(value),
        _ => &[],
    }
}

/// The first value of each kind: of each way in which `tests` come out.
fn kinds(values: impl Iterator<Item = Value>, tests: &[&Test]) -> Vec<Value> {
    let mut met = HashSet::new();
    let kind = |value: &Value| -> (Vec<Outcome>, Option<Value>) {
        let outcomes = tests.iter().map(|test| test.on(Ok(value.as_fact()))).collect();
        let by_value = tests.iter().any(|test| matches!(test, Test::Value));
        (outcomes, by_value.then(|| value.clone()))
    };
    values.filter(|value| met.insert(kind(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: Name, tests: &[Test]) -> Vec<String> {
        let values = of(name, &tests.iter().collect::<Vec<_>>(), &[], &["x".to_owned()]);
        values
            .values
            .iter()
            .map(|value| value.as_ref().map_or_else(|| "absent".to_owned(), ToString::to_string))
            .collect()
    }

    #[test]
    fn each_way_in_which_tests_come_out_has_a_value() {
        let network = |text: &str| Test::InRange(text.parse().unwrap());
        let text = |text: &str| Value::Text(text.to_owned());
        let header = || Name::Header("x-user".to_owned());
        let table: Vec<(Name, Vec<Test>, &[&str])> = vec![
            (Name::Tls, vec![Test::Value], &["true", "false"]),
            (header(), vec![Test::Present], &["absent", "x"]),
            (header(), vec![Test::OneOf(vec![text("a"), text("b")])], &["absent", "x", "a", "b"]),
            (
                Name::SourceIp,
                vec![network("10.0.0.0/8"), network("10.1.0.0/16")],
                &["127.0.0.1", "10.0.0.0", "10.1.0.0"],
            ),
            (Name::SourceIp, vec![network("0.0.0.0/0")], &["127.0.0.1", "::"]),
            (
                Name::SourceIp,
                vec![network("::/0"), Test::Equals(Value::Ip("::1".parse().unwrap()))],
                &["127.0.0.1", "::", "::1"],
            ),
            (
                Name::Time,
                vec![Test::Less(Value::Time(1_000)), Test::LessOrEqual(Value::Time(1_000))],
                &["2026-01-01T12:00:00Z", "1970-01-01T00:00:00.999Z", "1970-01-01T00:00:01Z"],
            ),
            (Name::Time, vec![Test::Less(Value::Time(i64::MAX))], &["2026-01-01T12:00:00Z"]),
        ];
        for (name, tests, expected) in table {
            assert_eq!(shown(name, &tests), expected, "{tests:?}");
        }
    }
}
