//! The text that tells callers apart.
//!
//! Typed and length-prefixed: no two different lists of values share one, and a missing value is not an empty
//! one, else leaving a header out would be the way to another's allowance, or around the limit.

use std::fmt::Write as _;

use model::{Fact, Facts, Name, Operand, Value};

/// What stands for a value that the request lacks.
const MISSING: char = '-';

/// Writes the key of a request to the end of `key`. Allocates only where a fact has to be put together.
pub fn write(operands: &[Operand], facts: &impl Facts, key: &mut String) {
    for operand in operands {
        let id = facts.principal().spiffe_id();
        match operand {
            Operand::Principal => push(&Fact::Text(facts.principal().as_str()), key),
            Operand::PrincipalNamespace => {
                push(&Fact::Text(id.and_then(|id| id.namespace()).unwrap_or_default()), key);
            }
            Operand::PrincipalServiceAccount => {
                push(&Fact::Text(id.and_then(|id| id.service_account()).unwrap_or_default()), key);
            }
            Operand::Action => match facts.fact(&Name::Operation, &mut String::new()) {
                Some(operation) => push(&operation, key),
                None => push(&Fact::Text(facts.action().as_str()), key),
            },
            Operand::Resource => push(&Fact::Text(facts.resource()), key),
            Operand::Context(name) => push_or_missing(facts.fact(name, &mut String::new()).as_ref(), key),
            Operand::Literal(value) => push(&value.as_fact(), key),
            // Only of reports.
            Operand::Response(_) => key.push(MISSING),
        }
    }
}

/// The key whose values are these; none for one that is missing.
pub fn of_values(values: &[Option<Value>]) -> String {
    let mut key = String::new();
    for value in values {
        push_or_missing(value.as_ref().map(Value::as_fact).as_ref(), &mut key);
    }
    key
}

/// A key as people read it: its values, parted by ` · `.
pub fn shown(key: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = key;
    while let Some(tag) = rest.chars().next() {
        let body = rest.get(tag.len_utf8()..).unwrap_or_default();
        if tag == MISSING {
            parts.push("(none)");
            rest = body;
            continue;
        }
        let text = body.split_once(':').and_then(|(length, text)| {
            let length: usize = length.parse().ok()?;
            Some((text.get(..length)?, text.get(length..)?))
        });
        // Not one of ours: as it is.
        let Some((value, after)) = text else { return key.to_owned() };
        parts.push(value);
        rest = after;
    }
    parts.join(" · ")
}

fn push_or_missing(fact: Option<&Fact<'_>>, key: &mut String) {
    match fact {
        Some(fact) => push(fact, key),
        None => key.push(MISSING),
    }
}

fn push(fact: &Fact<'_>, key: &mut String) {
    let tag = match fact {
        Fact::Bool(_) => 'b',
        Fact::Long(_) => 'l',
        Fact::Text(_) => 's',
        Fact::Ip(_) => 'i',
        Fact::Range(_) => 'r',
        Fact::Time(_) => 't',
        Fact::Duration(_) => 'd',
        Fact::Decimal(_) => 'n',
        Fact::Texts(_) => 'e',
    };
    key.push(tag);
    // Into memory, which takes everything.
    let _written = match fact {
        Fact::Text(text) => write!(key, "{}:{text}", text.len()),
        fact => {
            let text = fact.to_string();
            write!(key, "{}:{text}", text.len())
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_shown() {
        let text = |text: &str| Some(Value::Text(text.into()));
        let keys = [
            of_values(&[]),
            of_values(&[None]),
            of_values(&[text("")]),
            of_values(&[text("a"), text("b")]),
            of_values(&[text("as1:b")]),
            of_values(&[text("1")]),
            of_values(&[Some(Value::Long(1))]),
            of_values(&[None, text("é · x")]),
        ];
        let apart: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(apart.len(), keys.len(), "{keys:?}");
        let as_read: Vec<String> = keys.iter().map(|key| shown(key)).collect();
        assert_eq!(as_read, ["", "(none)", "", "a · b", "as1:b", "1", "1", "(none) · é · x"]);
        assert_eq!(shown("s9:short"), "s9:short");
        assert_eq!(shown("x"), "x");
    }
}
