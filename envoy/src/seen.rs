//! A request as policies see it, by the rules by which a sidecar sees one.
//!
//! Envoy forwards the path as it stands, so there is nothing to bring into normal form here: what is not in it is refused.
//! Hexadecimal digits may be small, for whoever decodes them reads the same.

use std::collections::BTreeMap;

use api::config::Protocol;
use api::ext_authz::Asked;
use cookie::Cookie;
use jiff::Timestamp;
use model::head::{HEAD_MAX, HEADERS_MAX, TARGET_MAX, host_name, is_grpc};
use model::path::{Query, Slashes, is_well_formed, normalise_with};
use model::refused::OWN;
use model::{Action, Attributes, Principal, SpiffeId};
use policyd::bundle::mesh::{Mesh, Service};

use crate::refusal::Refusal;

/// Fields of one hop, which Envoy does not pass on.
const HOP: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding"];

/// The request that was `asked` about, which is for `service`, and arrives at `now`. It has no claims yet.
pub(crate) fn attributes(
    asked: &Asked,
    mesh: &Mesh,
    (name, service): (&str, &Service),
    now: Timestamp,
) -> Result<Attributes, Refusal> {
    within_limits(asked)?;
    if asked.method == "CONNECT" {
        return Err(Refusal::Connect);
    }
    let principal = principal(asked, mesh)?;
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    if !is_well_formed(path, query) {
        return Err(Refusal::Target);
    }
    let slashes = if service.merge_slashes { Slashes::Merged } else { Slashes::Kept };
    let mut seen = Attributes {
        tls: principal.spiffe_id().is_some(),
        principal,
        resource: name.to_owned(),
        method: asked.method.clone(),
        path: normal(path, slashes)?,
        query: Query::new(query)?.parameters(),
        host: host_name(&asked.authority).ok_or(Refusal::Host)?.into_owned(),
        source_ip: asked.source_ip.ok_or(Refusal::NoAddress)?,
        headers: headers(asked)?,
        cookies: cookies(asked)?,
        time: now,
        ..Attributes::default()
    };
    seen.operation = mesh.operation(&seen).map(str::to_owned);
    seen.action = action(asked, service.protocol, &seen)?;
    Ok(seen)
}

/// The names of the fields that only Tidegate says, and that somebody else has said.
pub(crate) fn own_fields(asked: &Asked) -> Vec<String> {
    let own = asked.fields.iter().filter(|(name, _)| name.starts_with(OWN));
    let mut names: Vec<String> = own.map(|(name, _)| name.clone()).collect();
    names.dedup();
    names
}

/// Whether a call of gRPC waits for the answer.
pub(crate) fn is_call(asked: &Asked) -> bool {
    content_types(asked).any(is_grpc)
}

fn within_limits(asked: &Asked) -> Result<(), Refusal> {
    if asked.target.len() > TARGET_MAX {
        return Err(Refusal::TargetTooLong);
    }
    // As it is written in HTTP/1.1: with a colon, a blank and the line's end.
    let fields: usize = asked.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let line = asked.method.len() + asked.target.len() + asked.authority.len();
    if asked.fields.len() > HEADERS_MAX || fields + line > HEAD_MAX {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

/// Who calls. What Envoy takes from a certificate that is no workload's of this mesh is nobody whom policies could know.
fn principal(asked: &Asked, mesh: &Mesh) -> Result<Principal, Refusal> {
    if asked.principal.is_empty() {
        return Ok(Principal::Unauthenticated);
    }
    let id: Option<SpiffeId> = asked.principal.parse().ok();
    let ours = id.filter(|id| id.trust_domain() == mesh.trust_domain.as_str());
    ours.map(Principal::Workload).ok_or_else(|| Refusal::Caller(mesh.trust_domain.clone()))
}

/// The normal form of `path`, if that is what goes on.
fn normal(path: &str, slashes: Slashes) -> Result<String, Refusal> {
    let normal = normalise_with(path, slashes)?;
    if is_same_but_for_hex(path, &normal) { Ok(normal.into_owned()) } else { Err(Refusal::NotNormal) }
}

/// Whether `path` differs from its `normal` form at most by small hexadecimal digits in percent-encodings.
fn is_same_but_for_hex(path: &str, normal: &str) -> bool {
    let mut digits = 0_u8;
    let same = |(sent, normal): (u8, u8)| {
        let is_digit = digits > 0;
        digits = if sent == b'%' { 2 } else { digits.saturating_sub(1) };
        sent == normal || (is_digit && sent.to_ascii_uppercase() == normal)
    };
    path.len() == normal.len() && path.bytes().zip(normal.bytes()).all(same)
}

fn headers(asked: &Asked) -> Result<BTreeMap<String, String>, Refusal> {
    let mut headers = BTreeMap::from([("host".to_owned(), asked.authority.clone())]);
    for (name, value) in &asked.fields {
        let value = text(value)?;
        if name.starts_with(OWN) || HOP.contains(&name.as_str()) || name == "host" {
            continue;
        }
        add(&mut headers, name, value, ", ");
    }
    Ok(headers)
}

/// Cookies (RFC 6265 4.2.1), as sent. A piece that is no cookie is left out, as servers do.
fn cookies(asked: &Asked) -> Result<BTreeMap<String, String>, Refusal> {
    let mut cookies = BTreeMap::new();
    for (_, line) in asked.fields.iter().filter(|(name, _)| name == "cookie") {
        let line = text(line)?;
        if asked.is_joined && line.contains(',') {
            return Err(Refusal::Cookies);
        }
        for cookie in Cookie::split_parse(line).flatten() {
            if let (Some(name), Some(value)) = (cookie.name_raw(), cookie.value_raw()) {
                add(&mut cookies, name, value, "; ");
            }
        }
    }
    Ok(cookies)
}

/// Several values of one name are one, with `separator` between them.
fn add(all: &mut BTreeMap<String, String>, name: &str, value: &str, separator: &str) {
    match all.get_mut(name) {
        Some(values) => {
            values.push_str(separator);
            values.push_str(value);
        }
        None => {
            all.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn text(value: &[u8]) -> Result<&str, Refusal> {
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    let text = std::str::from_utf8(value).map_err(|_no_text| Refusal::HeaderValue)?;
    if value.iter().any(is_control) { Err(Refusal::HeaderValue) } else { Ok(text) }
}

/// What is asked for, by the proxy's rule: a caller's content type counts where it makes a difference to the service,
/// which is where that speaks HTTP/2 and has not declared the operation.
fn action(asked: &Asked, protocol: Protocol, seen: &Attributes) -> Result<Action, Refusal> {
    if protocol != Protocol::Http2 || seen.operation.is_some() || !is_call(asked) {
        return Ok(Action::Http);
    }
    if content_types(asked).nth(1).is_some() {
        return Err(Refusal::ContentTypes);
    }
    Ok(if asked.method == "POST" { Action::Grpc } else { Action::Http })
}

fn content_types(asked: &Asked) -> impl Iterator<Item = &str> {
    let lines = asked.fields.iter().filter(|(name, _)| name == "content-type");
    let lines = lines.filter_map(|(_, value)| std::str::from_utf8(value).ok());
    // No content type of a call has a comma, so where there is one two lines were put together.
    lines.flat_map(|line| line.split(|c| asked.is_joined && c == ',').map(str::trim))
}
