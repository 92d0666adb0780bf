//! The decision-cache key.
//!
//! Typed and length-prefixed, so that no two different lists of facts encode to the same bytes; compared in
//! full by the cache, never by hash alone. An absent value, an empty one and a value of another type differ.

use std::net::IpAddr;

use crate::atom::{AtomSet, Test};
use crate::attributes::{Attributes, Fact};

/// Writes the key of `attributes` under `atoms` to `key`, which is emptied first.
///
/// Two requests with equal keys get the same decision from the policy state that `atoms` was derived from.
/// The caller keeps `key` as a buffer: nothing is allocated once it has grown. O(atoms).
pub fn encode(attributes: &Attributes, atoms: &AtomSet, key: &mut Vec<u8>) {
    key.clear();
    text(attributes.principal.as_str(), key);
    key.push(attributes.action as u8);
    text(&attributes.resource, key);
    for atom in atoms.atoms() {
        let fact = attributes.fact(&atom.name);
        match atom.test {
            Test::Value => value(fact, key),
            ref test => key.push(test.on(fact) as u8),
        }
    }
}

fn value(fact: Option<Fact<'_>>, key: &mut Vec<u8>) {
    match fact {
        None => key.push(0),
        Some(Fact::Bool(value)) => key.extend([1, u8::from(value)]),
        Some(Fact::Long(value)) => tagged(2, &value.to_be_bytes(), key),
        Some(Fact::Text(value)) => {
            key.push(3);
            text(value, key);
        }
        Some(Fact::Ip(IpAddr::V4(ip))) => tagged(4, &ip.octets(), key),
        Some(Fact::Ip(IpAddr::V6(ip))) => tagged(5, &ip.octets(), key),
        Some(Fact::Time(value)) => tagged(6, &value.to_be_bytes(), key),
    }
}

fn text(value: &str, key: &mut Vec<u8>) {
    key.extend((value.len() as u64).to_be_bytes());
    key.extend(value.as_bytes());
}

fn tagged(tag: u8, bytes: &[u8], key: &mut Vec<u8>) {
    key.push(tag);
    key.extend(bytes);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::atom::Atom;
    use crate::attributes::{Action, Name, Principal};

    fn request(path: &str, header: Option<&str>) -> Attributes {
        Attributes {
            principal: Principal::Unauthenticated,
            action: Action::Http,
            resource: "orders".into(),
            method: "GET".into(),
            path: path.into(),
            host: "orders".into(),
            headers: header.map(|value| ("x".to_owned(), value.to_owned())).into_iter().collect(),
            query: std::collections::BTreeMap::new(),
            source_ip: "127.0.0.1".parse().unwrap(),
            tls: true,
            time: Timestamp::UNIX_EPOCH,
            ..Attributes::default()
        }
    }

    fn key(attributes: &Attributes, atoms: &AtomSet) -> Vec<u8> {
        let mut key = vec![9];
        encode(attributes, atoms, &mut key);
        key
    }

    #[test]
    fn requests_that_no_policy_tells_apart_share_a_key() {
        let orders = Test::Like(vec!["/orders/".to_owned(), String::new()].try_into().unwrap());
        let atoms = AtomSet::new(vec![Atom { name: Name::Path, test: orders }], true);
        let one = key(&request("/orders/1", None), &atoms);
        assert_eq!(one, key(&request("/orders/2", Some("y")), &atoms));
        assert_ne!(one, key(&request("/admin", None), &atoms));
    }

    #[test]
    fn absent_empty_and_other_values_differ() {
        let atoms = AtomSet::new(vec![Atom { name: Name::Header("x".into()), test: Test::Value }], true);
        let keys = [None, Some(""), Some("a"), Some("b")].map(|header| key(&request("/", header), &atoms));
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one));
        }
    }
}
