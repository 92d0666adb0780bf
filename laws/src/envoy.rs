//! Questions of Envoys.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use api::config::Protocol;
use api::ext_authz::Asked;
use model::Attributes;
use model::head::{HEAD_MAX, HEADERS_MAX};
use policyd::bundle::{Bundle, Files};
use proxy::fuzz::{Parts, Told};

const MESH: &str = "
trust_domain: shop.example
services:
  one: {namespace: n}
  merges: {namespace: n, merge_slashes: true}
  calls: {namespace: n, protocol: http2}
";

static BUNDLE: LazyLock<Option<Bundle>> = LazyLock::new(|| {
    let texts = [("mesh.yaml".to_owned(), MESH.to_owned())].into();
    Bundle::load(&Files { folder: "/".into(), texts }).ok()
});

/// The head of a request of HTTP/1.1. Policies see the same of it, whether a sidecar has it or an Envoy asks about it; and
/// whatever an Envoy forwards as it came, a sidecar forwards in no other form.
pub fn ext_authz(bytes: &[u8]) {
    assert!(BUNDLE.is_some(), "the bundle does not load");
    let Some(bundle) = BUNDLE.as_ref() else { return };
    let services = [
        ("one", Protocol::Http1, false),
        ("merges", Protocol::Http1, true),
        ("calls", Protocol::Http2, false),
    ];
    for (service, protocol, merges) in services {
        let Some(Told { sent, forwarded }) = proxy::fuzz::told(bytes, service, protocol, merges) else {
            return;
        };
        let seen = |parts: &Parts| ::envoy::fuzz::seen(&asked(service, parts), &bundle.mesh);
        if let Some((parts, expected)) = &forwarded
            && is_within_limits(parts)
        {
            assert_eq!(seen(parts).as_ref(), Ok(expected), "an Envoy's question is seen otherwise");
        }
        // Envoy itself takes away what `Connection` names, and has no other form of targets.
        let as_it_came =
            sent.target.starts_with('/') && sent.fields.iter().all(|(name, _)| name != "connection");
        if let Ok(seen) = seen(&sent)
            && as_it_came
        {
            assert!(forwarded.is_some(), "an Envoy's request passes that a sidecar refuses");
            let Some((_, expected)) = &forwarded else { return };
            assert_eq!(of_line(&seen), of_line(expected), "an Envoy forwards another form");
            assert_eq!(seen.cookies, expected.cookies);
        }
    }
}

fn asked(service: &str, parts: &Parts) -> Asked {
    let fields = parts.fields.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    Asked {
        source_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        service: Some(service.to_owned()),
        method: parts.method.clone(),
        target: parts.target.clone(),
        authority: parts.authority.clone(),
        fields: fields.collect(),
        ..Asked::default()
    }
}

/// A sidecar adds to heads, and HTTP/1.0 needs no host.
fn is_within_limits(parts: &Parts) -> bool {
    let size: usize = parts.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    !parts.authority.is_empty()
        && parts.fields.len() < HEADERS_MAX
        && size + parts.target.len() < HEAD_MAX / 2
}

/// What the first line and the host say.
fn of_line(seen: &Attributes) -> (&str, &str, &str, Vec<(&String, &String)>) {
    (&seen.method, &seen.path, &seen.host, seen.query.iter().collect())
}
