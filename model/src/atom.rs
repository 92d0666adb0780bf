//! Atoms: the tests that policies make of a request.
//!
//! policyd derives them from the conditions of all policies, limits and rules that may concern a service; the
//! proxy evaluates them natively. Two requests with the same principal, action, resource and outcomes of all
//! atoms cannot be told apart by any policy, so they share one decision: see [`crate::key`].
//!
//! Semantics follow Cedar: a test on a fact that the request lacks is an outcome of its own
//! ([`Outcome::Absent`]), and so is a test on a fact of another type ([`Outcome::Mismatch`]), for Cedar
//! raises an error there.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, Fact, Name, Value};
use crate::pattern::Pattern;

/// One test of one fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Atom {
    /// The fact that is tested.
    pub name: Name,
    /// The test.
    pub test: Test,
}

/// What is asked of a fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Everything: the value itself becomes part of the key. Always sound, rarely cheap.
    Value,
    /// `has`
    Present,
    /// `==`
    Equals(Value),
    /// `[…].contains(fact)`
    OneOf(Vec<Value>),
    /// `<`, on numbers and times
    Less(Value),
    /// `<=`, on numbers and times
    LessOrEqual(Value),
    /// `like`
    Like(Pattern),
    /// `.isInRange(ip("…"))`
    InRange(IpNet),
}

/// The result of a test other than [`Test::Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The test failed.
    False = 0,
    /// The test held.
    True = 1,
    /// The request lacks the fact.
    Absent = 2,
    /// The fact's type has no such test.
    Mismatch = 3,
}

/// All atoms that may matter for requests to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtomSet {
    atoms: Vec<Atom>,
    /// False when some policy reads what no key can hold, such as the time in an open form.
    cacheable: bool,
}

impl AtomSet {
    /// A set of `atoms`; without duplicates, and without tests whose fact is in the set by [`Test::Value`].
    ///
    /// The time by value changes with every request, so such a set is not cacheable.
    pub fn new(mut atoms: Vec<Atom>, cacheable: bool) -> Self {
        let by_value: Vec<Name> =
            atoms.iter().filter(|atom| atom.test == Test::Value).map(|atom| atom.name.clone()).collect();
        let mut seen = std::collections::HashSet::new();
        atoms.retain(|atom| {
            (atom.test == Test::Value || !by_value.contains(&atom.name)) && seen.insert(atom.clone())
        });
        Self { cacheable: cacheable && !by_value.contains(&Name::Time), atoms }
    }

    /// The atoms, in the order of their outcomes in a key.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }

    /// Whether decisions for this service may be cached at all.
    pub const fn is_cacheable(&self) -> bool {
        self.cacheable
    }
}

impl Test {
    /// The outcome of this test on `fact`. Never called for [`Test::Value`], which answers `True` if present.
    pub fn on(&self, fact: Option<Fact<'_>>) -> Outcome {
        let Some(fact) = fact else {
            return if *self == Self::Present { Outcome::False } else { Outcome::Absent };
        };
        let holds = match self {
            Self::Value | Self::Present => Some(true),
            // Cedar's == never errors: values of different types are just not equal.
            Self::Equals(value) => Some(value.as_fact() == fact),
            Self::OneOf(values) => Some(values.iter().any(|value| value.as_fact() == fact)),
            Self::Less(value) => compare(fact, value).map(std::cmp::Ordering::is_lt),
            Self::LessOrEqual(value) => compare(fact, value).map(std::cmp::Ordering::is_le),
            Self::Like(pattern) => match fact {
                Fact::Text(text) => Some(pattern.matches(text)),
                _ => None,
            },
            Self::InRange(range) => match fact {
                Fact::Ip(ip) => Some(range.contains(&ip)),
                _ => None,
            },
        };
        match holds {
            Some(false) => Outcome::False,
            Some(true) => Outcome::True,
            None => Outcome::Mismatch,
        }
    }
}

impl Atom {
    /// The outcome of this atom on a request.
    pub fn on(&self, attributes: &Attributes) -> Outcome {
        self.test.on(attributes.fact(&self.name))
    }
}

fn compare(fact: Fact<'_>, value: &Value) -> Option<std::cmp::Ordering> {
    match (fact, value) {
        (Fact::Long(left), Value::Long(right)) | (Fact::Time(left), Value::Time(right)) => {
            Some(left.cmp(right))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_follow_cedar() {
        let text = Some(Fact::Text("GET"));
        let ip = Some(Fact::Ip("10.1.2.3".parse().unwrap()));
        let like = Test::Like(vec!["G".to_owned(), String::new()].try_into().unwrap());
        let table = [
            (Test::Present, None, Outcome::False),
            (Test::Present, text, Outcome::True),
            (Test::Equals(Value::Text("GET".into())), text, Outcome::True),
            (Test::Equals(Value::Text("PUT".into())), text, Outcome::False),
            (Test::Equals(Value::Long(1)), text, Outcome::False),
            (Test::Equals(Value::Long(1)), None, Outcome::Absent),
            (Test::OneOf(vec![Value::Text("HEAD".into()), Value::Text("GET".into())]), text, Outcome::True),
            (Test::OneOf(vec![]), text, Outcome::False),
            (like.clone(), text, Outcome::True),
            (like, ip, Outcome::Mismatch),
            (Test::InRange("10.0.0.0/8".parse().unwrap()), ip, Outcome::True),
            (Test::InRange("11.0.0.0/8".parse().unwrap()), ip, Outcome::False),
            (Test::InRange("::/0".parse().unwrap()), ip, Outcome::False),
            (Test::Less(Value::Long(3)), Some(Fact::Long(3)), Outcome::False),
            (Test::LessOrEqual(Value::Long(3)), Some(Fact::Long(3)), Outcome::True),
            (Test::Less(Value::Time(3)), Some(Fact::Time(2)), Outcome::True),
            (Test::Less(Value::Long(3)), Some(Fact::Time(2)), Outcome::Mismatch),
        ];
        for (test, fact, expected) in table {
            assert_eq!(test.on(fact), expected, "{test:?} on {fact:?}");
        }
    }

    #[test]
    fn a_set_has_no_duplicates_and_a_value_makes_its_tests_needless() {
        let atom = |name, test| Atom { name, test };
        let set = AtomSet::new(
            vec![
                atom(Name::Path, Test::Present),
                atom(Name::Method, Test::Present),
                atom(Name::Method, Test::Present),
                atom(Name::Path, Test::Value),
            ],
            true,
        );
        assert_eq!(set.atoms(), [atom(Name::Method, Test::Present), atom(Name::Path, Test::Value)]);
        assert!(set.is_cacheable());
        assert!(!AtomSet::new(vec![atom(Name::Time, Test::Value)], true).is_cacheable());
        assert!(AtomSet::new(vec![atom(Name::Time, Test::Less(Value::Time(0)))], true).is_cacheable());
    }
}
