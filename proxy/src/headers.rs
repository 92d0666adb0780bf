//! What happens to headers on their way through.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use model::SpiffeId;

/// Names the policies that determined a denial.
pub(crate) const POLICY: HeaderName = HeaderName::from_static("x-tidegate-policy");
/// Says who the verified caller is, in Envoy's form.
pub(crate) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// One request's name, in all logs it passes.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
/// The prefix of headers that only Tidegate sets.
const OWN_PREFIX: &str = "x-tidegate-";
/// A longer request id is replaced, for it goes into every log line.
const REQUEST_ID_MAX: usize = 128;

/// What names a request across services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// The value of `x-request-id`.
    pub request_id: String,
    /// The trace id within `traceparent`: 32 hexadecimal digits.
    pub trace_id: String,
}

/// Removes what concerns one connection only (RFC 9110 7.6.1), in either direction. No upgrade is spoken.
///
/// `Expect` goes as well: hyper answers `100-continue` itself as soon as the body is asked for.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let wants_trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    let listed: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|token| token.parse().ok()).collect();
    // What frames the message or names its target is never one hop's own affair, whatever Connection says.
    for name in listed.iter().filter(|name| !matches!(**name, header::HOST | header::CONTENT_LENGTH)) {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        PROXY_AUTHENTICATION_INFO,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
    ] {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes the headers that a caller or an application could use to pass for Tidegate.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
    for name in &own {
        headers.remove(name);
    }
    headers.remove(FORWARDED_CLIENT_CERT);
}

/// At an ingress: what a caller from outside says of earlier hops is not believed.
pub(crate) fn forwarded_from_outside(headers: &mut HeaderMap, caller: IpAddr) {
    let host = headers.get(header::HOST).cloned();
    set(headers, &FORWARDED_FOR, &caller.to_string());
    set(headers, &FORWARDED_PROTO, "http");
    match host {
        Some(host) => headers.insert(FORWARDED_HOST, host),
        None => headers.remove(FORWARDED_HOST),
    };
}

/// At an inbound listener: the caller is a verified proxy, so its word stands and it is added itself.
pub(crate) fn forwarded_in_mesh(headers: &mut HeaderMap, caller: IpAddr) {
    let mut hops: Vec<String> = tokens(headers, &FORWARDED_FOR).map(str::to_owned).collect();
    hops.push(caller.to_string());
    set(headers, &FORWARDED_FOR, &hops.join(", "));
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    }
    if let (None, Some(host)) = (headers.get(FORWARDED_HOST), headers.get(header::HOST).cloned()) {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Tells the application who calls: `By` this proxy's identity, `URI` the caller's.
pub(crate) fn set_client_cert(headers: &mut HeaderMap, own: &SpiffeId, caller: &SpiffeId) {
    set(headers, &FORWARDED_CLIENT_CERT, &format!("By={own};URI={caller}"));
}

/// The request's ids; those that are missing or malformed are made up, and set.
pub(crate) fn ids(headers: &mut HeaderMap) -> Ids {
    let request_id = text(headers, &REQUEST_ID).filter(|id| is_request_id(id)).map(str::to_owned);
    let trace_id = text(headers, &TRACEPARENT).and_then(trace_id).map(str::to_owned);
    let request_id = request_id.unwrap_or_else(|| {
        let made = format!("{:032x}", rand::random::<u128>());
        set(headers, &REQUEST_ID, &made);
        made
    });
    let trace_id = trace_id.unwrap_or_else(|| {
        // All zeros would mean "no id" (W3C Trace Context 3.2.2.3).
        let made = format!("{:032x}", rand::random::<u128>() | 1);
        set(headers, &TRACEPARENT, &format!("00-{made}-{:016x}-01", rand::random::<u64>() | 1));
        made
    });
    Ids { request_id, trace_id }
}

/// Sets `name` to `value`, replacing all earlier ones; not at all if `value` can't stand in a header.
pub(crate) fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => headers.insert(name, value),
        Err(_) => headers.remove(name),
    };
}

fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The trace id in a `traceparent` of any version (W3C Trace Context 3.2).
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let well_formed = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && (is_hex(trace, 32) && is_set(trace))
        && (is_hex(parent, 16) && is_set(parent))
        && is_hex(flags, 2);
    well_formed.then_some(trace)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests;
