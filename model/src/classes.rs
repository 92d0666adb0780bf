//! Classes of facts: two facts are of one class when no test of an atom set tells them apart.
//!
//! A thousand tests of one fact must not cost a thousand evaluations a request. So the tests of each fact are
//! compiled into structures that find a fact's class in a few steps: a hash map for what is compared by `==`,
//! sorted bounds for `<`, nested ranges for `isInRange`, automata for `like`. The class is what goes into the key.
//!
//! Memory and time to build are linear in the length of all literals. The law that the tests check: facts of
//! equal classes have equal outcomes, and the other way round.

mod patterns;
mod ranges;

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;

pub(crate) use patterns::Marks;
use patterns::Patterns;
use ranges::{Ranges, bounds};

use crate::atom::Test;
use crate::step::Lack;
use crate::value::{Fact, Texts, Value};

/// A map with keys out of policies, which no stranger chooses.
type Map<K, V> = HashMap<K, V, FixedState>;

/// The classes that some tests of one fact make.
#[derive(Debug)]
pub(crate) enum Classes {
    /// Each value is a class of its own.
    Value,
    /// Facts are told apart by tests.
    Tests(Box<Tests>),
}

/// Tests of one fact.
#[derive(Debug, Default)]
pub(crate) struct Tests {
    equal: Literals,
    members: Literals,
    longs: Bounds,
    times: Bounds,
    durations: Bounds,
    decimals: Bounds,
    ranges: Ranges,
    patterns: Patterns,
}

/// Literals, and for each which tests it satisfies, as a number: equal sets of tests have equal numbers. 0: none.
#[derive(Debug, Default)]
struct Literals {
    texts: Map<Box<str>, u32>,
    /// The same, if they are few: then they are compared one by one, most by their length alone.
    few: Vec<(Box<str>, u32)>,
    /// Values of other types; few.
    others: Vec<(Value, u32)>,
}

/// Up to so many texts are found sooner one by one than by a hash.
const FEW: usize = 6;

/// The numbers at which the outcome of some comparison changes, sorted.
#[derive(Debug, Default)]
struct Bounds(Vec<i64>);

impl Classes {
    /// The classes that `tests` make.
    pub(crate) fn new(tests: &[&Test]) -> Self {
        if tests.contains(&&Test::Value) {
            return Self::Value;
        }
        let (mut equal, mut members) = (Satisfied::default(), Satisfied::default());
        let mut compiled = Tests::default();
        let mut patterns = Vec::new();
        let mut ranges = Vec::new();
        for (number, test) in (0_u32..).zip(tests) {
            match test {
                Test::Value | Test::Present => {}
                Test::Equals(value) => equal.add(value, number),
                Test::OneOf(values) => values.iter().for_each(|value| equal.add(value, number)),
                Test::Contains(value) => members.add(value, number),
                Test::Less(value) => compiled.bound(value, 0),
                Test::LessOrEqual(value) => compiled.bound(value, 1),
                Test::InRange(range) => ranges.push(*range),
                Test::Like(pattern) => match pattern.literal() {
                    // On texts the same as `==`; facts of other types are told apart by their type.
                    Some(text) => equal.add(&Value::Text(text.to_owned()), number),
                    None => patterns.push(pattern),
                },
            }
        }
        compiled.equal = equal.number();
        compiled.members = members.number();
        compiled.ranges = Ranges::new(&ranges);
        compiled.patterns = Patterns::new(&patterns);
        for bounds in
            [&mut compiled.longs, &mut compiled.times, &mut compiled.durations, &mut compiled.decimals]
        {
            bounds.0.sort_unstable();
            bounds.0.dedup();
        }
        Self::Tests(Box::new(compiled))
    }

    /// Writes the class of `fact` to `key`. Classes of different facts are never prefixes of each other.
    ///
    /// By reference: a fact is of many sizes, so each copy of one costs as much as a comparison.
    pub(crate) fn write(&self, fact: Result<&Fact<'_>, Lack>, marks: &mut Marks, key: &mut Vec<u8>) {
        let fact = match fact {
            Ok(fact) => fact,
            Err(Lack::Absent) => return key.push(0),
            Err(Lack::Error) => return key.push(1),
        };
        key.push(tag(fact));
        match self {
            Self::Value => value(fact, key),
            Self::Tests(tests) => tests.write(fact, marks, key),
        }
    }
}

impl Tests {
    fn write(&self, fact: &Fact<'_>, marks: &mut Marks, key: &mut Vec<u8>) {
        self.equal.write(fact, key);
        match *fact {
            Fact::Bool(_) => {}
            Fact::Text(text) => self.patterns.write(text, marks, key),
            Fact::Long(number) => self.longs.write(number, key),
            Fact::Time(number) => self.times.write(number, key),
            Fact::Duration(number) => self.durations.write(number, key),
            Fact::Decimal(number) => self.decimals.write(number, key),
            Fact::Ip(ref address) => self.ranges.write_address(address, key),
            Fact::Range(ref range) => self.ranges.write(bounds(range), range.addr().is_ipv4(), key),
            Fact::Texts(texts) => self.members.write_members(texts, marks.found(), key),
        }
    }

    /// The outcome changes at `value`, or `after` it.
    fn bound(&mut self, value: &Value, after: i64) {
        let (bounds, number) = match value {
            Value::Long(number) => (&mut self.longs, number),
            Value::Time(number) => (&mut self.times, number),
            Value::Duration(number) => (&mut self.durations, number),
            Value::Decimal(number) => (&mut self.decimals, number),
            _ => return,
        };
        // Every number is `<=` the greatest: there the outcome never changes.
        bounds.0.extend(number.checked_add(after));
    }
}

impl Bounds {
    fn write(&self, number: i64, key: &mut Vec<u8>) {
        if !self.0.is_empty() {
            push(count(self.0.partition_point(|bound| *bound <= number)), key);
        }
    }
}

impl Literals {
    fn write(&self, fact: &Fact<'_>, key: &mut Vec<u8>) {
        match *fact {
            Fact::Text(_) if self.texts.is_empty() => {}
            Fact::Text(text) => push(self.text(text), key),
            _ if self.others.is_empty() => {}
            _ => {
                let equal = self.others.iter().find(|(value, _)| value.as_fact() == *fact);
                push(equal.map_or(0, |(_, class)| *class), key);
            }
        }
    }

    /// The number of `text`, 0 if it is no literal.
    fn text(&self, text: &str) -> u32 {
        if self.few.is_empty() {
            return self.texts.get(text).copied().unwrap_or(0);
        }
        self.few.iter().find(|(literal, _)| **literal == *text).map_or(0, |(_, number)| *number)
    }

    /// Which of the literals are members. O(members).
    fn write_members(&self, texts: Texts<'_>, found: &mut Vec<u32>, key: &mut Vec<u8>) {
        if self.texts.is_empty() {
            return;
        }
        found.clear();
        texts.all(|member| {
            found.extend(self.texts.get(member));
            true
        });
        found.sort_unstable();
        found.dedup();
        list(found, key);
    }
}

/// Which tests each literal satisfies.
#[derive(Default)]
struct Satisfied(BTreeMap<Value, Vec<u32>>);

impl Satisfied {
    fn add(&mut self, value: &Value, test: u32) {
        self.0.entry(value.clone()).or_default().push(test);
    }

    fn number(self) -> Literals {
        let mut numbers: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
        let mut literals = Literals::default();
        for (value, mut tests) in self.0 {
            tests.dedup();
            let next = count(numbers.len()).saturating_add(1);
            let number = *numbers.entry(tests).or_insert(next);
            match value {
                Value::Text(text) => {
                    literals.texts.insert(text.into(), number);
                }
                value => literals.others.push((value, number)),
            }
        }
        if literals.texts.len() <= FEW {
            literals.few = literals.texts.iter().map(|(text, number)| (text.clone(), *number)).collect();
        }
        literals
    }
}

fn tag(fact: &Fact<'_>) -> u8 {
    match fact {
        Fact::Bool(_) => 2,
        Fact::Long(_) => 3,
        Fact::Text(_) => 4,
        Fact::Ip(_) => 5,
        Fact::Range(_) => 6,
        Fact::Time(_) => 7,
        Fact::Duration(_) => 8,
        Fact::Decimal(_) => 9,
        Fact::Texts(Texts::List(_)) => 10,
        Fact::Texts(Texts::Set(_)) => 11,
    }
}

fn value(fact: &Fact<'_>, key: &mut Vec<u8>) {
    match *fact {
        Fact::Bool(value) => key.push(u8::from(value)),
        Fact::Long(number) | Fact::Time(number) | Fact::Duration(number) | Fact::Decimal(number) => {
            key.extend(number.to_be_bytes());
        }
        Fact::Text(value) => text(value, key),
        Fact::Ip(address) => ip(address, key),
        Fact::Range(range) => {
            key.push(range.prefix_len());
            ip(range.addr(), key);
        }
        // Lists of the same members in another order differ here: more than needed, which is sound.
        Fact::Texts(Texts::List(list)) => text(list, key),
        Fact::Texts(Texts::Set(set)) => {
            push(count(set.len()), key);
            set.iter().for_each(|member| text(member, key));
        }
    }
}

fn ip(address: std::net::IpAddr, key: &mut Vec<u8>) {
    match address {
        std::net::IpAddr::V4(address) => {
            key.push(4);
            key.extend(address.octets());
        }
        std::net::IpAddr::V6(address) => {
            key.push(6);
            key.extend(address.octets());
        }
    }
}

/// Writes a text with its length before it.
pub(crate) fn text(value: &str, key: &mut Vec<u8>) {
    push(count(value.len()), key);
    key.extend_from_slice(value.as_bytes());
}

/// Writes a list of numbers with its length before it.
fn list(numbers: &[u32], key: &mut Vec<u8>) {
    push(count(numbers.len()), key);
    numbers.iter().for_each(|number| push(*number, key));
}

/// Writes a number; small ones, as nearly all are, in one byte. None is the beginning of another.
fn push(number: u32, key: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(small) if small < u8::MAX => key.push(small),
        _ => {
            key.push(u8::MAX);
            key.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// A count of things that lie in memory, each longer than a byte. No text of a request has 4 GiB.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
