//! The claims of a token, as policies see them: texts by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The most claims of one token.
pub const COUNT_MAX: usize = 256;

/// What a claim takes besides its name and its text, in bytes.
const ENTRY_SIZE: usize = 64;

/// The claims of a verified token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, String>);

/// The content of a token: its claims as their issuer wrote them, each of them once.
#[derive(Debug)]
pub struct Payload(Map<String, Value>);

impl Claims {
    /// The claim called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All claims by name.
    pub const fn all(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// All claims by name, owned.
    pub fn into_all(self) -> BTreeMap<String, String> {
        self.0
    }

    /// About how many bytes they take.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|(name, text)| (name.len() + text.len() + ENTRY_SIZE) as u64).sum()
    }

    /// The claims in `payload`: those that are texts, numbers, booleans or lists of such; and those in `inner`, by the
    /// way to each.
    pub fn of(payload: &Payload, inner: &[(String, Vec<String>)]) -> Self {
        let top = payload.0.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?)));
        let mut claims: BTreeMap<String, String> = top.collect();
        for (name, path) in inner {
            // What stands at the top under this name is another claim, which nobody asked for.
            claims.remove(name);
            if let Some(text) = payload.at(path).and_then(text) {
                claims.insert(name.clone(), text);
            }
        }
        Self(claims)
    }
}

impl Payload {
    /// The content that somebody else has read; none if it has too many claims.
    pub fn of(claims: Map<String, Value>) -> Option<Self> {
        (claims.len() <= COUNT_MAX).then_some(Self(claims))
    }

    /// The claim called `name`; null is none.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Who issued the token, by the claim `iss`.
    pub fn issuer(&self) -> Option<&str> {
        self.get("iss").and_then(Value::as_str)
    }

    /// Whether the token is meant for one of `audiences`, by the claim `aud`. If there are none, it is not looked at.
    pub fn is_for(&self, audiences: &[String]) -> bool {
        let is_meant =
            |value: &Value| value.as_str().is_some_and(|text| audiences.iter().any(|one| one == text));
        match self.get("aud") {
            _ if audiences.is_empty() => true,
            Some(Value::Array(all)) => all.iter().any(is_meant),
            Some(one) => is_meant(one),
            None => false,
        }
    }

    fn at(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(first)?, |value, name| value.get(name))
    }
}

/// A claim as a text. Lists are joined by commas, as they are read again where the schema says `Set<String>`.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Array(members) => {
            let members = members.iter().filter_map(single).filter(|member| stands_alone(member));
            Some(members.collect::<Vec<_>>().join(","))
        }
        value => single(value),
    }
}

fn single(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether a list's member is read again as itself. A group that somebody called `a,admins` must not become two.
fn stands_alone(member: &str) -> bool {
    !member.is_empty() && !member.contains(',') && member.trim() == member
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Payload, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = entries.next_entry::<String, Value>()? {
                    // One reader takes the first and one the last: so neither is taken.
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim stands there twice"));
                    }
                    if claims.len() > COUNT_MAX {
                        return Err(A::Error::custom("there are too many claims"));
                    }
                }
                Ok(Payload(claims))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str, inner: &[(&str, &[&str])]) -> Vec<(String, String)> {
        let inner: Vec<_> = inner
            .iter()
            .map(|(name, path)| ((*name).to_owned(), path.iter().map(|part| (*part).to_owned()).collect()))
            .collect();
        Claims::of(&serde_json::from_str(json).unwrap(), &inner).0.into_iter().collect()
    }

    #[test]
    fn claims_become_texts() {
        for (json, expected) in [
            (r#""a b""#, Some("a b")),
            ("7", Some("7")),
            ("-1.5", Some("-1.5")),
            ("true", Some("true")),
            ("null", None),
            (r#"{"a": 1}"#, None),
            ("[]", Some("")),
            (r#"["a", "b c", 3, false]"#, Some("a,b c,3,false")),
            (r#"["a", ["b"], {"c": 1}, null]"#, Some("a")),
            // What would be read as two, or as another, is left out.
            (r#"["a,admins", " b", "", "c"]"#, Some("c")),
        ] {
            let found = claims(&format!("{{\"it\": {json}}}"), &[]);
            let expected: Vec<_> = expected.iter().map(|text| ("it".into(), (*text).into())).collect();
            assert_eq!(found, expected, "{json}");
        }
    }

    #[test]
    fn claims_within_others_get_names_of_their_own() {
        let json = r#"{"realm_access": {"roles": ["a", "b"]}, "roles": "forged", "x": 1}"#;
        let roles: &[(&str, &[&str])] = &[("roles", &["realm_access", "roles"])];
        assert_eq!(claims(json, roles), [("roles".into(), "a,b".into()), ("x".into(), "1".into())]);
        let missing: &[(&str, &[&str])] = &[("roles", &["realm", "roles"]), ("y", &["x", "z"])];
        assert_eq!(claims(json, missing), [("x".into(), "1".into())]);
    }

    #[test]
    fn a_claim_that_stands_there_twice_is_none() {
        assert!(serde_json::from_str::<Payload>(r#"{"sub": "a", "sub": "b"}"#).is_err());
        assert!(serde_json::from_str::<Payload>(r#"{"sub": "a", "s\u0075b": "b"}"#).is_err());
        assert!(serde_json::from_str::<Payload>(r#"["sub"]"#).is_err());
        let many = |count: usize| {
            let claims: Vec<String> = (0..count).map(|number| format!("\"c{number}\": 1")).collect();
            serde_json::from_str::<Payload>(&format!("{{{}}}", claims.join(","))).is_ok()
        };
        assert!(many(COUNT_MAX) && !many(COUNT_MAX + 1));
    }
}
