//! The decision-cache key.
//!
//! It holds the principal, the resource, and of each fact that an atom reads its class: see [`crate::classes`].
//! Typed and length-prefixed, so that no two different lists of facts encode to the same bytes; compared in
//! full by the cache, never by hash alone. An absent value, an empty one and a value of another type differ.

use std::fmt;

use crate::atom::{Atom, AtomSet, Test};
use crate::attributes::Name;
use crate::classes::{self, Classes, Marks};
use crate::facts::Facts;
use crate::step::{Lack, Step};
use crate::value::Fact;

/// Makes the keys of one atom set. Made once for each set, for it takes longer than a key.
#[derive(Debug, Default)]
pub struct Keys(Vec<Read>);

/// What is read of one fact.
#[derive(Debug)]
struct Read {
    name: Name,
    /// After these steps it is put into these classes.
    ways: Vec<(Vec<Step>, Classes)>,
}

/// Room to make keys in: buffers that the caller keeps, so that nothing is allocated once they have grown.
#[derive(Default)]
pub struct Room {
    key: Vec<u8>,
    text: String,
    marks: Marks,
}

impl Keys {
    /// For the keys of `atoms`. O(length of all literals).
    pub fn new(atoms: &AtomSet) -> Self {
        let same_name = |left: &Atom, right: &Atom| left.name == right.name;
        let same_steps = |left: &Atom, right: &Atom| left.steps == right.steps;
        let way = |atoms: &[Atom]| {
            let tests: Vec<&Test> = atoms.iter().map(|atom| &atom.test).collect();
            Some((atoms.first()?.steps.clone(), Classes::new(&tests)))
        };
        // The atoms of a set are sorted, so that equal names and steps stand together.
        let read = |atoms: &[Atom]| {
            let ways = atoms.chunk_by(same_steps).filter_map(way).collect();
            Some(Read { name: atoms.first()?.name.clone(), ways })
        };
        Self(atoms.atoms().chunk_by(same_name).filter_map(read).collect())
    }

    /// The key of a request.
    ///
    /// Two requests with equal keys get the same decision from the policy state that the atoms were derived from.
    /// O(facts that are read, and their lengths), whatever the number of atoms; see [`crate::classes`].
    pub fn encode<'r>(&self, facts: &impl Facts, room: &'r mut Room) -> &'r [u8] {
        let Room { key, text, marks } = room;
        key.clear();
        classes::text(facts.principal().as_str(), key);
        key.push(facts.action() as u8);
        classes::text(facts.resource(), key);
        // The action that policies see, which they can tell apart without any atom.
        text.clear();
        match facts.fact(&Name::Operation, text) {
            Some(Fact::Text(operation)) => {
                key.push(1);
                classes::text(operation, key);
            }
            _ => key.push(0),
        }
        for read in &self.0 {
            text.clear();
            let fact = facts.fact(&read.name, text);
            let fact = fact.as_ref().ok_or(Lack::Absent);
            for (steps, classes) in &read.ways {
                match fact {
                    Ok(fact) if !steps.is_empty() => {
                        classes.write(Step::all(steps, *fact).as_ref().map_err(|lack| *lack), marks, key);
                    }
                    fact => classes.write(fact, marks, key),
                }
            }
        }
        key
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;

    fn request(path: &str, header: Option<&str>) -> Attributes {
        Attributes {
            resource: "orders".into(),
            path: path.into(),
            headers: header.map(|value| ("x".to_owned(), value.to_owned())).into_iter().collect(),
            ..Attributes::default()
        }
    }

    fn key(attributes: &Attributes, atoms: Vec<Atom>) -> Vec<u8> {
        let mut room = Room::default();
        room.key.push(9);
        Keys::new(&AtomSet::new(atoms, true)).encode(attributes, &mut room).to_vec()
    }

    #[test]
    fn requests_that_no_policy_tells_apart_share_a_key() {
        let orders = Test::Like(vec!["/orders/".to_owned(), String::new()].try_into().unwrap());
        let atoms = vec![Atom::new(Name::Path, orders)];
        let one = key(&request("/orders/1", None), atoms.clone());
        assert_eq!(one, key(&request("/orders/2", Some("y")), atoms.clone()));
        assert_ne!(one, key(&request("/admin", None), atoms));
    }

    #[test]
    fn operations_differ() {
        let of = |operation: Option<&str>| {
            let operation = operation.map(str::to_owned);
            key(&Attributes { operation, ..request("/", None) }, Vec::new())
        };
        assert_ne!(of(None), of(Some("")));
        assert_ne!(of(Some("getReview")), of(Some("putReview")));
    }

    #[test]
    fn absent_empty_and_other_values_differ() {
        let atoms = vec![Atom::new(Name::Header("x".into()), Test::Value)];
        let keys =
            [None, Some(""), Some("a"), Some("b")].map(|header| key(&request("/", header), atoms.clone()));
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one));
        }
    }

    #[test]
    fn one_header_is_read_in_several_ways() {
        use crate::kind::Kind;
        use crate::value::Value;
        let long = |test| Atom { name: Name::Header("x".into()), steps: vec![Step::Read(Kind::Long)], test };
        let atoms =
            vec![long(Test::Less(Value::Long(10))), Atom::new(Name::Header("x".into()), Test::Present)];
        let key = |header| key(&request("/", header), atoms.clone());
        assert_eq!(key(Some("7")), key(Some("-9")));
        assert_ne!(key(Some("7")), key(Some("10")));
        assert_ne!(key(Some("seven")), key(None), "one is there, and no number");
        assert_eq!(key(Some("seven")), key(Some("eight")));
    }
}
