//! A line of a decision log: what was decided, and all that it was decided on, so that it can be decided again.
//!
//! Of headers, query parameters, cookies and claims a line holds those that policies read at the time, the absent
//! ones too, as null: what a line does not name is not known, and is not the same as absent.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::attributes::{Action, Attributes, Name, Record};
use crate::decision::{Shadow, Source, Verdict};

/// One decision on one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionLine {
    /// When the request arrived: what policies see as `context.time`.
    pub ts: Timestamp,
    /// The request's name in all logs.
    pub request_id: String,
    /// The proxy that logged it.
    pub instance: String,
    /// The service called.
    pub service: String,
    /// Who called.
    pub principal: Logged,
    /// What kind of exchange it was.
    pub action: Action,
    /// The service's operation, if it has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Allow or deny.
    pub verdict: Verdict,
    /// False where the service only observed.
    pub enforced: bool,
    /// Where the decision came from.
    pub source: Source,
    /// Something failed while it was made.
    #[serde(default, skip_serializing_if = "is_false")]
    pub degraded: bool,
    /// What determined it.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The limits that the request was charged to.
    #[serde(default)]
    pub limits: Vec<String>,
    /// The report rules that fired.
    #[serde(default)]
    pub rules: Vec<String>,
    /// The state of the policies, as it is shown elsewhere.
    pub revision: String,
    /// What other policies would have said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<Shadow>,
    /// What it was decided on.
    pub input: Inputs,
}

/// The facts that policies may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The HTTP method.
    pub method: Logged,
    /// The normalised path.
    pub path: Logged,
    /// The host asked for.
    pub host: Logged,
    /// Headers; null: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Option<Logged>>,
    /// Query parameters; null: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, Option<Logged>>,
    /// Cookies; null: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cookies: BTreeMap<String, Option<Logged>>,
    /// Claims; null: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Option<Logged>>,
    /// The address the connection came from.
    pub source_ip: Logged,
    /// Whether the connection was mutual TLS.
    pub tls: bool,
    /// The server name of a raw connection; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<Logged>,
    /// The port that a raw connection is for; absent for requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub destination_port: u16,
}

/// A value in a log: as it was, or masked. In JSON a masked one is an object, which no request's value can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// The value.
    Plain(String),
    /// A digest: equal for equal values, and nothing can be told from it.
    Masked(String),
}

impl Default for Logged {
    fn default() -> Self {
        Self::Plain(String::new())
    }
}

/// What a line says of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Its value, or that it was absent.
    Known,
    /// That there was one.
    Masked,
    /// Nothing: no policy read it then.
    NotLogged,
}

/// Why a line makes no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not what it should be")]
pub struct NotARequest(pub &'static str);

impl DecisionLine {
    /// What the line says of the fact called `name`.
    pub fn knowledge_of(&self, name: &Name) -> Knowledge {
        let input = &self.input;
        let logged = match name {
            Name::Method => &input.method,
            Name::Path => &input.path,
            Name::Host => &input.host,
            Name::SourceIp => &input.source_ip,
            Name::Sni => match &input.sni {
                Some(sni) => sni,
                None => return Knowledge::Known,
            },
            Name::Operation | Name::Tls | Name::DestinationPort | Name::Time => return Knowledge::Known,
            Name::Header(_) | Name::Query(_) | Name::Cookie(_) | Name::Claim(_) => {
                match name.field().and_then(|(record, field)| input.record(record).get(field)) {
                    Some(Some(logged)) => logged,
                    Some(None) => return Knowledge::Known,
                    None => return Knowledge::NotLogged,
                }
            }
        };
        if logged.plain().is_some() { Knowledge::Known } else { Knowledge::Masked }
    }

    /// The request's attributes, taken out of the line. What is not [known](Self::knowledge_of) has some value.
    ///
    /// # Errors
    /// When the caller's id, unless it is masked, or the address is malformed.
    pub fn take_attributes(&mut self) -> Result<Attributes, NotARequest> {
        let defaults = Attributes::default();
        let input = &mut self.input;
        let principal = match self.principal.plain() {
            Some(id) => id.parse().map_err(|_error| NotARequest("principal"))?,
            None => defaults.principal,
        };
        let source_ip = match input.source_ip.plain() {
            Some(ip) => ip.parse().map_err(|_error| NotARequest("source_ip"))?,
            None => defaults.source_ip,
        };
        Ok(Attributes {
            principal,
            action: self.action,
            resource: self.service.clone(),
            method: input.method.take(),
            path: input.path.take(),
            host: input.host.take(),
            headers: taken(&mut input.headers),
            query: taken(&mut input.query),
            cookies: taken(&mut input.cookies),
            claims: taken(&mut input.claims),
            operation: self.operation.take(),
            source_ip,
            tls: input.tls,
            sni: input.sni.as_mut().map(Logged::take),
            destination_port: input.destination_port,
            time: self.ts,
        })
    }
}

impl Inputs {
    /// The fields of `record`.
    pub const fn record(&self, record: Record) -> &BTreeMap<String, Option<Logged>> {
        match record {
            Record::Headers => &self.headers,
            Record::Query => &self.query,
            Record::Cookies => &self.cookies,
            Record::Claims => &self.claims,
        }
    }

    /// The same, to fill them in.
    pub const fn record_mut(&mut self, record: Record) -> &mut BTreeMap<String, Option<Logged>> {
        match record {
            Record::Headers => &mut self.headers,
            Record::Query => &mut self.query,
            Record::Cookies => &mut self.cookies,
            Record::Claims => &mut self.claims,
        }
    }
}

impl Logged {
    /// The value, if it is not masked.
    pub fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(value) => Some(value),
            Self::Masked(_) => None,
        }
    }

    fn take(&mut self) -> String {
        match self {
            Self::Plain(value) => std::mem::take(value),
            Self::Masked(_) => String::new(),
        }
    }
}

fn taken(record: &mut BTreeMap<String, Option<Logged>>) -> BTreeMap<String, String> {
    let fields = std::mem::take(record).into_iter();
    fields.filter_map(|(name, value)| Some((name, value?.take()))).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u16) -> bool {
    *value == 0
}

/// The one field of a masked value.
const MASKED: &str = "masked";

impl Serialize for Logged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => serializer.serialize_str(value),
            Self::Masked(digest) => serializer.collect_map([(MASKED, digest)]),
        }
    }
}

impl<'de> Deserialize<'de> for Logged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Logged;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an object with the field `masked`")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Logged, E> {
                Ok(Logged::Plain(value.to_owned()))
            }
            fn visit_string<E: de::Error>(self, value: String) -> Result<Logged, E> {
                Ok(Logged::Plain(value))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Logged, A::Error> {
                match map.next_entry::<String, String>()? {
                    Some((field, digest)) if field == MASKED => Ok(Logged::Masked(digest)),
                    _ => Err(de::Error::missing_field(MASKED)),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"ts":"2026-01-01T00:00:00.123Z","request_id":"r","instance":"orders-v1","service":"orders","#,
        r#""principal":"spiffe://a.example/ns/b/sa/c","action":"http","operation":"getOrder","verdict":"deny","#,
        r#""enforced":true,"source":"miss","degraded":true,"reasons":["p"],"message":"why","limits":["l"],"#,
        r#""rules":["r"],"revision":"1f.3","shadows":[{"name":"next","verdict":"allow","reasons":["q"],"#,
        r#""degraded":false}],"input":{"method":"GET","path":"/a\"b","host":"orders","headers":{"a":"1","#,
        r#""b":null,"c":{"masked":"0123"}},"cookies":{"d":""},"source_ip":{"masked":"4567"},"tls":true}}"#,
    );

    fn line() -> DecisionLine {
        serde_json::from_str(LINE).unwrap()
    }

    #[test]
    fn a_line_is_what_it_was_once_it_is_read() {
        assert_eq!(serde_json::to_string(&line()).unwrap(), LINE);
    }

    #[test]
    fn what_is_masked_or_not_named_is_not_known() {
        let header = |name: &str| Name::Header(name.into());
        let table = [
            (Name::Method, Knowledge::Known),
            (Name::SourceIp, Knowledge::Masked),
            (Name::Time, Knowledge::Known),
            (header("a"), Knowledge::Known),
            (header("b"), Knowledge::Known),
            (header("c"), Knowledge::Masked),
            (header("d"), Knowledge::NotLogged),
            (Name::Cookie("d".into()), Knowledge::Known),
            (Name::Query("a".into()), Knowledge::NotLogged),
        ];
        for (name, knowledge) in table {
            assert_eq!(line().knowledge_of(&name), knowledge, "{name:?}");
        }
    }

    #[test]
    fn a_line_makes_the_request_that_it_was_made_of() {
        let attributes = line().take_attributes().unwrap();
        let expected = Attributes {
            principal: "spiffe://a.example/ns/b/sa/c".parse().unwrap(),
            resource: "orders".into(),
            method: "GET".into(),
            path: "/a\"b".into(),
            host: "orders".into(),
            headers: [("a".to_owned(), "1".to_owned()), ("c".to_owned(), String::new())].into(),
            cookies: [("d".to_owned(), String::new())].into(),
            operation: Some("getOrder".into()),
            tls: true,
            time: "2026-01-01T00:00:00.123Z".parse().unwrap(),
            ..Attributes::default()
        };
        assert_eq!(attributes, expected);
        let masked = Logged::Masked("89".into());
        assert!(DecisionLine { principal: masked, ..line() }.take_attributes().is_ok());
        let nobody = Logged::Plain("nobody".into());
        let wrong = DecisionLine { principal: nobody, ..line() }.take_attributes();
        assert_eq!(wrong, Err(NotARequest("principal")));
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for (from, to) in [
            (r#""verdict":"deny""#, r#""verdict":"maybe""#),
            (r#""source":"miss""#, r#""source":"none""#),
            (r#"{"masked":"0123"}"#, r#"{"hidden":"0123"}"#),
            (r#"{"masked":"0123"}"#, "7"),
            (r#""tls":true"#, r#""tls":"true""#),
            (r#""input""#, r#""inputs""#),
        ] {
            let text = LINE.replace(from, to);
            assert_ne!(text, LINE);
            assert!(serde_json::from_str::<DecisionLine>(&text).is_err(), "{text}");
        }
    }
}
