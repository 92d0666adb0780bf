//! Values: what facts are, and what they are compared with. They are Cedar's, with Cedar's equality.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A fact's value, or a literal to compare one with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A Cedar `Bool`.
    Bool(bool),
    /// A Cedar `Long`.
    Long(i64),
    /// A Cedar `String`, or an entity's id.
    Text(String),
    /// A Cedar `ipaddr` that is one address.
    Ip(IpAddr),
    /// A Cedar `ipaddr` that is a range of more than one address. As in Cedar, ranges whose addresses are written
    /// differently are not equal, even if they hold the same addresses.
    Range(IpNet),
    /// A Cedar `datetime`, in milliseconds since 1970.
    Time(i64),
    /// A Cedar `duration`, in milliseconds.
    Duration(i64),
    /// A Cedar `decimal`, in ten-thousandths.
    Decimal(i64),
    /// A Cedar `Set<String>`.
    Texts(BTreeSet<String>),
}

/// A fact's value, borrowed from the request: what [`crate::Atom`]s are evaluated on, without allocating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// A Cedar `Bool`.
    Bool(bool),
    /// A Cedar `Long`.
    Long(i64),
    /// A Cedar `String`.
    Text(&'a str),
    /// A Cedar `ipaddr` that is one address.
    Ip(IpAddr),
    /// A Cedar `ipaddr` that is a range of more than one address.
    Range(IpNet),
    /// A Cedar `datetime`, in milliseconds since 1970.
    Time(i64),
    /// A Cedar `duration`, in milliseconds.
    Duration(i64),
    /// A Cedar `decimal`, in ten-thousandths.
    Decimal(i64),
    /// A Cedar `Set<String>`.
    Texts(Texts<'a>),
}

/// A set of texts, borrowed. Equal to another if both have the same members.
#[derive(Clone, Copy, Debug)]
pub enum Texts<'a> {
    /// As it lies in a [`Value`].
    Set(&'a BTreeSet<String>),
    /// As it lies in a header: members between commas, with blanks around them, empty ones not counted.
    List(&'a str),
}

/// What a decimal counts in.
const DECIMAL_UNIT: u64 = 10_000;

impl Value {
    /// The value of `ip("…")`.
    pub fn network(network: IpNet) -> Self {
        if network.prefix_len() == network.max_prefix_len() {
            Self::Ip(network.addr())
        } else {
            Self::Range(network)
        }
    }

    /// The value, borrowed.
    pub fn as_fact(&self) -> Fact<'_> {
        match self {
            Self::Bool(value) => Fact::Bool(*value),
            Self::Long(value) => Fact::Long(*value),
            Self::Text(value) => Fact::Text(value),
            Self::Ip(value) => Fact::Ip(*value),
            Self::Range(value) => Fact::Range(*value),
            Self::Time(value) => Fact::Time(*value),
            Self::Duration(value) => Fact::Duration(*value),
            Self::Decimal(value) => Fact::Decimal(*value),
            Self::Texts(value) => Fact::Texts(Texts::Set(value)),
        }
    }
}

impl Fact<'_> {
    /// The value, owned.
    pub fn to_value(&self) -> Value {
        match *self {
            Self::Bool(value) => Value::Bool(value),
            Self::Long(value) => Value::Long(value),
            Self::Text(value) => Value::Text(value.to_owned()),
            Self::Ip(value) => Value::Ip(value),
            Self::Range(value) => Value::Range(value),
            Self::Time(value) => Value::Time(value),
            Self::Duration(value) => Value::Duration(value),
            Self::Decimal(value) => Value::Decimal(value),
            Self::Texts(texts) => Value::Texts(texts.to_set()),
        }
    }
}

impl<'a> Texts<'a> {
    /// Whether `text` is a member. O(length) for a list.
    pub fn contain(self, text: &str) -> bool {
        match self {
            Self::Set(set) => set.contains(text),
            Self::List(_) => !self.all(|member| member != text),
        }
    }

    /// Whether `holds` for every member, some of which may be asked for repeatedly.
    pub fn all(self, mut holds: impl FnMut(&'a str) -> bool) -> bool {
        match self {
            Self::Set(set) => set.iter().all(|member| holds(member)),
            Self::List(list) => list
                .split(',')
                .map(|member| member.trim_matches([' ', '\t']))
                .all(|m| m.is_empty() || holds(m)),
        }
    }

    fn to_set(self) -> BTreeSet<String> {
        let mut set = BTreeSet::new();
        self.all(|member| {
            set.insert(member.to_owned());
            true
        });
        set
    }
}

impl PartialEq for Texts<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Set(left), Self::Set(right)) => left == right,
            // A set finds a member faster than a list, and two lists are compared as sets, lest long ones take
            // the product of their lengths.
            (Self::Set(set), list @ Self::List(_)) | (list @ Self::List(_), Self::Set(set)) => {
                list.all(|member| set.contains(member)) && list.to_set().len() == set.len()
            }
            (left, right) => left.to_set() == right.to_set(),
        }
    }
}

impl Eq for Texts<'_> {}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_fact().fmt(f)
    }
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Long(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::Ip(value) => value.fmt(f),
            Self::Range(value) => value.fmt(f),
            Self::Time(value) => match Timestamp::from_millisecond(*value) {
                Ok(time) => time.fmt(f),
                Err(_) => value.fmt(f),
            },
            Self::Duration(value) => write!(f, "{value}ms"),
            Self::Decimal(value) => {
                let sign = if value.is_negative() { "-" } else { "" };
                let (whole, part) =
                    (value.unsigned_abs() / DECIMAL_UNIT, value.unsigned_abs() % DECIMAL_UNIT);
                write!(f, "{sign}{whole}.{part:04}")
            }
            Self::Texts(texts) => {
                let members: Vec<String> = texts.to_set().into_iter().collect();
                f.write_str(&members.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_the_set_of_its_members() {
        let set =
            |members: &[&str]| members.iter().map(|member| (*member).to_owned()).collect::<BTreeSet<_>>();
        let table: [(&str, &[&str]); 5] =
            [("", &[]), (" , ", &[]), ("a", &["a"]), ("b,\ta , b", &["a", "b"]), ("a b", &["a b"])];
        for (list, members) in table {
            let (list, set) = (Texts::List(list), set(members));
            assert_eq!(list, Texts::Set(&set));
            assert_eq!(Fact::Texts(list).to_value(), Value::Texts(set.clone()));
            assert!(set.iter().all(|member| list.contain(member)) && !list.contain("c") && !list.contain(""));
            assert_ne!(list, Texts::Set(&BTreeSet::from(["a".to_owned(), "c".to_owned()])));
        }
        assert_eq!(Texts::List("a,b"), Texts::List("b, a"));
    }

    #[test]
    fn values_are_shown_as_cedar_writes_them() {
        let table = [
            (Value::Decimal(-5), "-0.0005"),
            (Value::Decimal(123_400), "12.3400"),
            (Value::Decimal(i64::MIN), "-922337203685477.5808"),
            (Value::Duration(-7), "-7ms"),
            (Value::Time(0), "1970-01-01T00:00:00Z"),
            (Value::network("10.0.0.0/8".parse().unwrap()), "10.0.0.0/8"),
            (Value::network("10.0.0.1/32".parse().unwrap()), "10.0.0.1"),
            (Value::Texts(["b".to_owned(), "a".to_owned()].into()), "a, b"),
        ];
        for (value, text) in table {
            assert_eq!(value.to_string(), text);
        }
    }
}
