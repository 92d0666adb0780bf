//! A request shown as its author would write it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use model::{Action, Attributes, Principal};

use super::request_text::{DEFAULT_TIME, RequestText};
use super::{Answer, word};

impl RequestText {
    /// The words for a request, without those that say what is the default anyway.
    pub fn of(attributes: &Attributes) -> Self {
        let unless = |text: String, default: &str| (text != default).then_some(text);
        let has_identity = attributes.principal != Principal::Unauthenticated;
        let is_loopback = attributes.source_ip == Ipv4Addr::LOCALHOST;
        Self {
            principal: has_identity.then(|| attributes.principal.as_str().to_owned()),
            action: unless(attributes.action.as_str().to_owned(), Action::Http.as_str()),
            service: attributes.resource.clone(),
            method: unless(attributes.method.clone(), "GET"),
            path: unless(attributes.path.clone(), "/"),
            host: unless(attributes.host.clone(), &attributes.resource),
            headers: attributes.headers.clone(),
            query: attributes.query.clone(),
            cookies: attributes.cookies.clone(),
            claims: attributes.claims.clone(),
            source_ip: (!is_loopback).then(|| attributes.source_ip.to_string()),
            tls: (attributes.tls != has_identity).then_some(attributes.tls),
            sni: attributes.sni.clone(),
            destination_port: (attributes.destination_port != 0).then_some(attributes.destination_port),
            time: unless(attributes.time.to_string(), DEFAULT_TIME),
        }
    }

    /// The keys that are given and their values, in YAML.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let text = |text: &Option<String>| text.as_deref().map(plain);
        let record = |record: &BTreeMap<String, String>| {
            let fields: Vec<String> =
                record.iter().map(|(name, value)| format!("{}: {}", plain(name), plain(value))).collect();
            (!fields.is_empty()).then(|| format!("{{{}}}", fields.join(", ")))
        };
        let entries = [
            ("principal", text(&self.principal)),
            ("action", text(&self.action)),
            ("service", Some(plain(&self.service))),
            ("method", text(&self.method)),
            ("path", text(&self.path)),
            ("host", text(&self.host)),
            ("headers", record(&self.headers)),
            ("query", record(&self.query)),
            ("cookies", record(&self.cookies)),
            ("claims", record(&self.claims)),
            ("source_ip", text(&self.source_ip)),
            ("tls", self.tls.map(|tls| tls.to_string())),
            ("sni", text(&self.sni)),
            ("destination_port", self.destination_port.map(|port| port.to_string())),
            ("time", text(&self.time)),
        ];
        entries.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// The keys by which `after` is not `before`, and its values, in YAML; `{}` for a record of which nothing is left.
    pub fn differences(before: &Attributes, after: &Attributes) -> Vec<(&'static str, String)> {
        let (before, after) = (Self::whole(before).entries(), Self::whole(after).entries());
        let gone = before.iter().filter(|(key, _)| after.iter().all(|(other, _)| other != key));
        let gone = gone.map(|(key, _)| (*key, "{}".to_owned()));
        after.iter().filter(|entry| !before.contains(entry)).cloned().chain(gone).collect()
    }

    /// All words for a request.
    fn whole(attributes: &Attributes) -> Self {
        Self {
            principal: Some(attributes.principal.as_str().to_owned()),
            action: Some(attributes.action.as_str().to_owned()),
            method: Some(attributes.method.clone()),
            path: Some(attributes.path.clone()),
            host: Some(attributes.host.clone()),
            source_ip: Some(attributes.source_ip.to_string()),
            tls: Some(attributes.tls),
            time: Some(attributes.time.to_string()),
            ..Self::of(attributes)
        }
    }
}

/// A test that expects `answer` to `request`, as its author would write it into a list of tests.
pub fn test_text(name: &str, request: &Attributes, answer: &Answer) -> String {
    let entries =
        RequestText::of(request).entries().into_iter().map(|(key, value)| format!("{key}: {value}"));
    let list = |names: &BTreeSet<String>| names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
    format!(
        "- name: {}\n  request: {{{}}}\n  expect: {{decision: {}, policies: [{}], limits: [{}], rules: [{}]}}\n",
        plain(name),
        entries.collect::<Vec<_>>().join(", "),
        word(answer.decision),
        list(&answer.policies),
        list(&answer.limits),
        list(&answer.rules),
    )
}

/// A text as YAML has it: in quotes if it needs them.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._:@*-".contains(&b);
    let starts_plain = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/');
    if starts_plain && text.bytes().all(is_plain) && !text.ends_with(':') {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
