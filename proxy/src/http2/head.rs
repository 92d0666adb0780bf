//! Heads of HTTP/2 as the text of HTTP/1.1, and back.
//!
//! The text goes to the reader of all heads, which refuses what has no single reading. What could end up in another
//! place of the text than it was sent in does not get here: `h2` takes only tokens as names and methods, and no control
//! characters in values. Fields of one connection (RFC 9113 8.2.2) it refuses.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{StatusCode, header};

use crate::fields::{Field, Known};
use crate::framing::{HeadMax, Malformed};
use crate::http1::{Buffer, Forward, Onward, ResponseHead, trailers};
use crate::respond;

/// How a client says that it speaks HTTP/2 without having asked: the head of a request that nobody makes.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Fields that concern one connection of HTTP/1.1.
const HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The HTTP/1.1 head of `request`, after which a body follows, or nothing does. It may be this large.
pub(crate) fn of_request(
    request: &http::request::Parts,
    has_body: bool,
    max: HeadMax,
) -> Result<Buffer, Malformed> {
    let mut text = Buffer::default();
    let out = text.vec();
    let path = request.uri.path_and_query().map_or("", PathAndQuery::as_str);
    // CONNECT has an authority only, and is refused for what it is.
    let target = if path.is_empty() { "*" } else { path };
    for part in [request.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let authority = request.uri.authority().map(Authority::as_str);
    if let Some(authority) = authority {
        field(out, "host", authority.as_bytes());
    }
    for (name, value) in &request.headers {
        match *name {
            header::HOST if authority.is_some() => {
                let same = authority.is_some_and(|own| value.as_bytes().eq_ignore_ascii_case(own.as_bytes()));
                if !same {
                    return Err(Malformed::Authority);
                }
            }
            // One line, see below.
            header::COOKIE => {}
            _ if HOP.contains(name) => return Err(Malformed::Hop),
            _ => field(out, name.as_str(), value.as_bytes()),
        }
    }
    cookies(out, &request.headers);
    if has_body && !request.headers.contains_key(header::CONTENT_LENGTH) {
        field(out, "transfer-encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    if out.len() > max.bytes { Err(Malformed::HeadTooLarge) } else { Ok(text) }
}

/// Cookies may come one by one, and are one list outside of HTTP/2 (RFC 9113 8.2.3).
fn cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let Some(first) = cookies.next() else { return };
    out.extend_from_slice(b"cookie: ");
    out.extend_from_slice(first);
    for cookie in cookies {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(cookie);
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What follows the head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing, and the head need not say so.
    None,
    /// Nothing, of which the head tells.
    Empty,
    /// A body.
    Some,
}

/// The HTTP/1.1 head of `response`.
pub(crate) fn of_response(response: &http::response::Parts, body: Body) -> Buffer {
    let mut text = Buffer::default();
    let out = text.vec();
    for part in ["HTTP/1.1 ", response.status.as_str(), " \r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in response.headers.iter().filter(|(name, _)| !HOP.contains(name)) {
        field(out, name.as_str(), value.as_bytes());
    }
    let has_none = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match body {
        _ if response.headers.contains_key(header::CONTENT_LENGTH) => {}
        Body::Some => field(out, "transfer-encoding", b"chunked"),
        Body::Empty if !has_none => field(out, "content-length", b"0"),
        Body::Empty | Body::None => {}
    }
    out.extend_from_slice(b"\r\n");
    text
}

/// A request as it goes to an upstream that speaks HTTP/2. None if it has no form there.
pub(crate) fn to_request(forward: &Forward, is_secret: bool) -> Option<http::Request<()>> {
    let fields = forward.fields();
    let text = Shared::of(forward.bytes());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if is_secret { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::from_maybe_shared(text.part(fields.of(Known::Host).next()?)?).ok()?);
    parts.path_and_query =
        Some(PathAndQuery::from_maybe_shared(text.part(forward.target().as_bytes())?).ok()?);
    let mut request = http::Request::new(());
    *request.method_mut() = forward.method().parse().ok()?;
    *request.uri_mut() = http::Uri::from_parts(parts).ok()?;
    // An upgrade that was asked for is of this connection, and HTTP/2 has none.
    let stays = [Known::Host, Known::Connection, Known::TransferEncoding, Known::Upgrade];
    let goes = fields.iter().filter(|field| !stays.contains(&field.known));
    text.put(goes, request.headers_mut())?;
    Some(request)
}

/// A response as it goes to a caller that speaks HTTP/2.
pub(crate) fn to_response(head: &ResponseHead, onward: Onward<'_>) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    let headers = response.headers_mut();
    let goes = head.passing(onward);
    let goes = goes.filter(|field| !matches!(field.known, Known::TransferEncoding | Known::Upgrade));
    Shared::of(head.bytes()).put(goes, headers)?;
    respond::tell_of_limits(headers, onward.balances);
    Some(response)
}

/// A copy of a head's text, of which what goes on is parts: one allocation for all of it.
struct Shared<'a> {
    of: &'a [u8],
    bytes: Bytes,
}

impl<'a> Shared<'a> {
    fn of(text: &'a [u8]) -> Self {
        Self { of: text, bytes: Bytes::copy_from_slice(text) }
    }

    /// The copy of `part`; none if that is no part of the head.
    fn part(&self, part: &[u8]) -> Option<Bytes> {
        let start = part.as_ptr().addr().checked_sub(self.of.as_ptr().addr())?;
        let end = start.checked_add(part.len())?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }

    /// Adds `fields` to `headers`.
    fn put<'f>(&self, fields: impl Iterator<Item = Field<'f>>, headers: &mut HeaderMap) -> Option<()> {
        headers.reserve(16);
        for field in fields {
            let name = match field.known {
                // Whose names we know, so that they need no allocation either.
                Known::RequestId => REQUEST_ID,
                Known::Traceparent => TRACEPARENT,
                Known::ForwardedFor => FORWARDED_FOR,
                Known::ForwardedProto => FORWARDED_PROTO,
                _ => HeaderName::from_bytes(field.name).ok()?,
            };
            headers.append(name, HeaderValue::from_maybe_shared(self.part(field.value)?).ok()?);
        }
        Some(())
    }
}

/// Those of `trailers` that may pass.
pub(super) fn passing(trailers: &HeaderMap) -> HeaderMap {
    let mut passing = HeaderMap::with_capacity(trailers.len());
    for (name, value) in trailers {
        if trailers::may_pass(name.as_str()) {
            passing.append(name, value.clone());
        }
    }
    passing
}
