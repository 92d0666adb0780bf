//! Atoms: the tests that policies make of a request.
//!
//! policyd derives them from the conditions of all policies, limits and rules that may concern a service; the
//! proxy evaluates them natively. Two requests with the same principal, action, resource and outcomes of all
//! atoms cannot be told apart by any policy, so they share one decision: see [`crate::key`].
//!
//! Semantics follow Cedar: a test on a fact that the request lacks is an outcome of its own
//! ([`Outcome::Absent`]), and so is a test on a fact of another type, or after a step that failed
//! ([`Outcome::Error`]), for Cedar raises an error there.

use std::cmp::Ordering;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attributes::Name;
use crate::facts::Facts;
use crate::pattern::Pattern;
use crate::step::{Lack, Step};
use crate::value::{Fact, Value};

/// One test of one fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Atom {
    /// The fact that is tested.
    pub name: Name,
    /// What is done to it before.
    pub steps: Vec<Step>,
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
    /// `<`, on numbers, times and durations; `lessThan` on decimals
    Less(Value),
    /// `<=`, on numbers, times and durations; `lessThanOrEqual` on decimals
    LessOrEqual(Value),
    /// `like`
    Like(Pattern),
    /// `.isInRange(ip("…"))`
    InRange(IpNet),
    /// `fact.contains(…)`, on sets
    Contains(Value),
}

/// The result of a test other than [`Test::Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The test failed.
    False,
    /// The test held.
    True,
    /// The request lacks the fact.
    Absent,
    /// The fact's type has no such test, or a step before it failed.
    Error,
}

/// All atoms that may matter for requests to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtomSet {
    atoms: Vec<Atom>,
    /// False when some policy reads what no key can hold, such as the time in an open form.
    cacheable: bool,
}

impl AtomSet {
    /// A set of `atoms`, sorted; without duplicates, and without tests whose fact is in the set by [`Test::Value`].
    ///
    /// The time by value changes with every request, so such a set is not cacheable; unless it is a value that
    /// stays the same for a while, such as the date.
    pub fn new(mut atoms: Vec<Atom>, cacheable: bool) -> Self {
        atoms.sort();
        atoms.dedup();
        // In this order a fact's value comes first, before its tests and before whatever comes of it by steps.
        let mut by_value: Option<(Name, Vec<Step>)> = None;
        atoms.retain(|atom| {
            let is_implied = by_value
                .as_ref()
                .is_some_and(|(name, steps)| *name == atom.name && atom.steps.starts_with(steps));
            if atom.test == Test::Value && !is_implied {
                by_value = Some((atom.name.clone(), atom.steps.clone()));
            }
            !is_implied
        });
        let changes_always = |atom: &Atom| {
            atom.name == Name::Time
                && atom.test == Test::Value
                && !atom.steps.iter().any(|step| step.is_slow())
        };
        Self { cacheable: cacheable && !atoms.iter().any(changes_always), atoms }
    }

    /// The atoms.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }

    /// Whether decisions for this service may be cached at all.
    pub const fn is_cacheable(&self) -> bool {
        self.cacheable
    }
}

impl Test {
    /// The outcome of this test on `fact`. [`Test::Value`] is `True` if there is a fact.
    pub fn on(&self, fact: Result<Fact<'_>, Lack>) -> Outcome {
        let fact = match fact {
            Ok(fact) => fact,
            Err(Lack::Absent) if *self == Self::Present => return Outcome::False,
            Err(Lack::Absent) => return Outcome::Absent,
            Err(Lack::Error) => return Outcome::Error,
        };
        let holds = match self {
            Self::Value | Self::Present => Some(true),
            // Cedar's == never errors: values of different types are just not equal.
            Self::Equals(value) => Some(value.as_fact() == fact),
            Self::OneOf(values) => Some(values.iter().any(|value| value.as_fact() == fact)),
            Self::Less(value) => compare(fact, value).map(Ordering::is_lt),
            Self::LessOrEqual(value) => compare(fact, value).map(Ordering::is_le),
            Self::Like(pattern) => match fact {
                Fact::Text(text) => Some(pattern.matches(text)),
                _ => None,
            },
            Self::InRange(range) => match fact {
                Fact::Ip(ip) => Some(range.contains(&ip)),
                // Of a range Cedar compares the network and the broadcast address.
                Fact::Range(inner) => Some(range.contains(&inner.trunc())),
                _ => None,
            },
            Self::Contains(value) => match (fact, value) {
                (Fact::Texts(texts), Value::Text(text)) => Some(texts.contain(text)),
                (Fact::Texts(_), _) => Some(false),
                _ => None,
            },
        };
        match holds {
            Some(false) => Outcome::False,
            Some(true) => Outcome::True,
            None => Outcome::Error,
        }
    }
}

impl Atom {
    /// A test of the fact called `name` itself.
    pub const fn new(name: Name, test: Test) -> Self {
        Self { name, steps: Vec::new(), test }
    }

    /// The outcome of this atom on a request.
    pub fn on(&self, facts: &impl Facts) -> Outcome {
        let mut room = String::new();
        let fact = facts.fact(&self.name, &mut room).ok_or(Lack::Absent);
        self.test.on(fact.and_then(|fact| Step::all(&self.steps, fact)))
    }
}

fn compare(fact: Fact<'_>, value: &Value) -> Option<Ordering> {
    match (fact, value) {
        (Fact::Long(left), Value::Long(right))
        | (Fact::Time(left), Value::Time(right))
        | (Fact::Duration(left), Value::Duration(right))
        | (Fact::Decimal(left), Value::Decimal(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Texts;

    #[test]
    fn tests_follow_cedar() {
        let text = Ok(Fact::Text("GET"));
        let ip = Ok(Fact::Ip("10.1.2.3".parse().unwrap()));
        let range = Ok(Fact::Range("10.1.2.3/8".parse().unwrap()));
        let roles = Ok(Fact::Texts(Texts::List("a, b")));
        let like = Test::Like(vec!["G".to_owned(), String::new()].try_into().unwrap());
        let table = [
            (Test::Present, Err(Lack::Absent), Outcome::False),
            (Test::Present, Err(Lack::Error), Outcome::Error),
            (Test::Present, text, Outcome::True),
            (Test::Equals(Value::Text("GET".into())), text, Outcome::True),
            (Test::Equals(Value::Text("PUT".into())), text, Outcome::False),
            (Test::Equals(Value::Long(1)), text, Outcome::False),
            (Test::Equals(Value::Long(1)), Err(Lack::Absent), Outcome::Absent),
            (Test::Equals(Value::Range("10.0.0.0/8".parse().unwrap())), range, Outcome::False),
            (Test::OneOf(vec![Value::Text("HEAD".into()), Value::Text("GET".into())]), text, Outcome::True),
            (Test::OneOf(vec![]), text, Outcome::False),
            (Test::OneOf(vec![]), Err(Lack::Error), Outcome::Error),
            (like.clone(), text, Outcome::True),
            (like, ip, Outcome::Error),
            (Test::InRange("10.0.0.0/8".parse().unwrap()), ip, Outcome::True),
            (Test::InRange("11.0.0.0/8".parse().unwrap()), ip, Outcome::False),
            (Test::InRange("::/0".parse().unwrap()), ip, Outcome::False),
            (Test::InRange("10.0.0.0/8".parse().unwrap()), range, Outcome::True),
            (Test::InRange("10.1.0.0/16".parse().unwrap()), range, Outcome::False),
            (Test::Less(Value::Long(3)), Ok(Fact::Long(3)), Outcome::False),
            (Test::LessOrEqual(Value::Long(3)), Ok(Fact::Long(3)), Outcome::True),
            (Test::Less(Value::Time(3)), Ok(Fact::Time(2)), Outcome::True),
            (Test::Less(Value::Decimal(3)), Ok(Fact::Decimal(2)), Outcome::True),
            (Test::Less(Value::Long(3)), Ok(Fact::Time(2)), Outcome::Error),
            (Test::Contains(Value::Text("b".into())), roles, Outcome::True),
            (Test::Contains(Value::Text("c".into())), roles, Outcome::False),
            (Test::Contains(Value::Long(1)), roles, Outcome::False),
            (Test::Contains(Value::Text("b".into())), text, Outcome::Error),
        ];
        for (test, fact, expected) in table {
            assert_eq!(test.on(fact), expected, "{test:?} on {fact:?}");
        }
    }

    #[test]
    fn a_set_has_no_duplicates_and_a_value_makes_its_tests_needless() {
        let atom = Atom::new;
        let stepped = |steps: &[Step], test| Atom { name: Name::Path, steps: steps.to_vec(), test };
        let set = AtomSet::new(
            vec![
                atom(Name::Path, Test::Present),
                stepped(&[Step::ToDate], Test::Present),
                atom(Name::Method, Test::Present),
                atom(Name::Method, Test::Present),
                atom(Name::Path, Test::Value),
            ],
            true,
        );
        assert_eq!(set.atoms(), [atom(Name::Method, Test::Present), atom(Name::Path, Test::Value)]);
        assert!(set.is_cacheable());
        let kept = vec![
            stepped(&[], Test::Present),
            stepped(&[Step::ToDate], Test::Value),
            stepped(&[Step::ToTime], Test::Present),
        ];
        let mut more = kept.clone();
        more.push(stepped(&[Step::ToDate, Step::ToTime], Test::Value));
        assert_eq!(AtomSet::new(more, true).atoms(), kept);
    }

    #[test]
    fn what_changes_with_every_request_is_not_cacheable() {
        let time = |steps: &[Step], test| {
            AtomSet::new(vec![Atom { name: Name::Time, steps: steps.to_vec(), test }], true).is_cacheable()
        };
        assert!(!time(&[], Test::Value));
        assert!(!time(&[Step::ToTime, Step::ToSeconds], Test::Value));
        assert!(time(&[Step::ToTime, Step::ToHours], Test::Value));
        assert!(time(&[], Test::Less(Value::Time(0))));
        assert!(!AtomSet::new(vec![], false).is_cacheable());
    }
}
