//! What a request's head must look like before anything is made of it.
//!
//! Two parties that disagree on where a request ends can be made to disagree on who sent it (request
//! smuggling). Standards let a proxy repair some such heads. Tidegate refuses each of them instead.

use http::StatusCode;

use crate::exchange::Direction;
use crate::fields::{Fields, Known};

pub(crate) use model::head::{HEAD_MAX, HEADERS_MAX, TARGET_MAX, host_name};
use model::path::is_well_formed;

/// What a head that a sidecar passes on may have more than that: its ids, who calls, what is left of limits. The next
/// sidecar must not refuse for it what this one took.
const ADDED_BYTES_MAX: usize = 8 * 1024;
const ADDED_HEADERS_MAX: usize = 10;

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadMax {
    /// All of it, in bytes.
    pub bytes: usize,
    /// Its header lines.
    pub headers: usize,
}

impl HeadMax {
    /// One from an application, or from outside of the mesh.
    pub(crate) const OF_OTHERS: Self = Self { bytes: HEAD_MAX, headers: HEADERS_MAX };
    /// One from another sidecar.
    pub(crate) const OF_SIDECARS: Self =
        Self { bytes: HEAD_MAX + ADDED_BYTES_MAX, headers: HEADERS_MAX + ADDED_HEADERS_MAX };

    /// A request's that goes this way.
    pub(crate) const fn of_request(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::OF_SIDECARS,
            Direction::Outbound | Direction::Ingress => Self::OF_OTHERS,
        }
    }

    /// That of the response to a request that went this way.
    pub(crate) const fn of_response(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::OF_SIDECARS,
            Direction::Inbound | Direction::Ingress => Self::OF_OTHERS,
        }
    }
}

/// How the body after a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// So many bytes, maybe none.
    Exactly(u64),
    /// Chunks, until the last one and its trailers.
    Chunked,
}

/// Why a head is refused. The connection is closed after the answer, because what follows has no sure start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not HTTP/1.x, or not well-formed in a way that has no variant of its own.
    #[error("the request is not well-formed HTTP/1.1")]
    Syntax,
    /// A line that ends in LF without CR.
    #[error("a line of the request's head ends in LF without CR")]
    BareLineFeed,
    /// The request target is no URI, or has a fragment.
    #[error("the request target is not well-formed")]
    Target,
    /// The method is CONNECT.
    #[error("CONNECT is not supported")]
    Connect,
    /// A header's value is not UTF-8, or has control characters.
    #[error("a header's value is neither visible ASCII nor UTF-8")]
    HeaderValue,
    /// Both Transfer-Encoding and Content-Length.
    #[error("the request has both `Transfer-Encoding` and `Content-Length`")]
    TwoLengths,
    /// More than one Content-Length, equal ones included.
    #[error("the request has more than one `Content-Length`")]
    RepeatedLength,
    /// A Content-Length that is no number.
    #[error("the `Content-Length` is not a number")]
    Length,
    /// A Transfer-Encoding other than `chunked`.
    #[error("the `Transfer-Encoding` is not exactly `chunked`")]
    TransferEncoding,
    /// A Transfer-Encoding in HTTP/1.0.
    #[error("HTTP/1.0 has no `Transfer-Encoding`")]
    TransferEncodingInHttp10,
    /// None or several Host headers.
    #[error("the request does not have exactly one `Host`")]
    HostCount,
    /// A Host that is no host name or address, with an optional port.
    #[error("the `Host` is not a host name or address with an optional port")]
    Host,
    /// HTTP/2 says the host in two ways that differ.
    #[error("`:authority` and `Host` differ")]
    Authority,
    /// A field of HTTP/1.1's connections in HTTP/2.
    #[error("HTTP/2 has no fields of a connection, such as `Connection` or `Transfer-Encoding`")]
    Hop,
    /// A call of gRPC with more than one Content-Type.
    #[error("the call has more than one `Content-Type`")]
    ContentTypes,
    /// Chunked framing that is broken.
    #[error("the chunks of the request's body are not well-formed")]
    Chunks,
    /// The target is longer than [`TARGET_MAX`].
    #[error("the request target is longer than {TARGET_MAX} bytes")]
    TargetTooLong,
    /// The head is longer than [`HEAD_MAX`] or has more than [`HEADERS_MAX`] lines.
    #[error("the request's head is longer than {HEAD_MAX} bytes or has more than {HEADERS_MAX} headers")]
    HeadTooLarge,
    /// The head did not arrive in time.
    #[error("the request's head did not arrive in time")]
    HeadTimeout,
}

impl Malformed {
    /// The status that tells the caller.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// The length of the head at the start of `bytes`, if all of it is there, which is at most `max`. Looks no further back
/// than `from`, up to where an earlier call found nothing.
pub(crate) fn head_length(bytes: &[u8], from: usize, max: usize) -> Result<Option<usize>, Malformed> {
    // The line feed may be the first new byte while its carriage return is an old one.
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n')) {
        let line_feed = at + found;
        let line = bytes.get(..line_feed).unwrap_or_default();
        let Some(before) = line.strip_suffix(b"\r") else { return Err(Malformed::BareLineFeed) };
        if before.ends_with(b"\r\n") {
            let length = line_feed + 1;
            return if length > max { Err(too_large(bytes)) } else { Ok(Some(length)) };
        }
        at = line_feed + 1;
    }
    if bytes.len() > max { Err(too_large(bytes)) } else { Ok(None) }
}

/// A request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Of a target in absolute form, which replaces Host (RFC 9112 3.2.2).
    pub authority: Option<&'a str>,
    /// Empty where a target in absolute form has none.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// Takes a request target apart.
pub(crate) fn target<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Malformed> {
    if method == "CONNECT" {
        return Err(Malformed::Connect);
    }
    if target.len() > TARGET_MAX {
        return Err(Malformed::TargetTooLong);
    }
    let (authority, origin) = match target.split_at_checked(SCHEME.len()) {
        _ if target.starts_with('/') || (target == "*" && method == "OPTIONS") => (None, target),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            let (authority, origin) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), origin)
        }
        _ => return Err(Malformed::Target),
    };
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (origin, None),
    };
    if !is_well_formed(path, query.unwrap_or_default()) {
        return Err(Malformed::Target);
    }
    Ok(Target { authority, path, query })
}

/// The one scheme of requests that come here in the clear, or in TLS that we end.
const SCHEME: &str = "http://";

/// What `Host` says, if it may say it. HTTP/1.0 may come without one.
pub(crate) fn host<'a>(
    fields: Fields<'a>,
    is_http_10: bool,
    absolute: Option<&'a str>,
) -> Result<&'a str, Malformed> {
    let mut hosts = fields.of(Known::Host);
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(std::str::from_utf8(host).map_err(|_error| Malformed::Host)?),
        (None, None) if is_http_10 => None,
        _ => return Err(Malformed::HostCount),
    };
    let well_formed = [host, absolute].into_iter().flatten().all(|host| host_name(host).is_some());
    if well_formed { Ok(absolute.or(host).unwrap_or_default()) } else { Err(Malformed::Host) }
}

/// How the body after a request's head is framed.
pub(crate) fn body_length(fields: Fields<'_>, is_http_10: bool) -> Result<BodyLength, Malformed> {
    let mut lengths = fields.of(Known::ContentLength);
    let mut encodings = fields.of(Known::TransferEncoding);
    match (lengths.next(), lengths.next(), encodings.next(), encodings.next()) {
        (None, _, None, _) => Ok(BodyLength::Exactly(0)),
        (Some(_), _, Some(_), _) => Err(Malformed::TwoLengths),
        (_, Some(_), _, _) => Err(Malformed::RepeatedLength),
        (Some(length), ..) => parse_length(length).map(BodyLength::Exactly).ok_or(Malformed::Length),
        (_, _, Some(_), _) if is_http_10 => Err(Malformed::TransferEncodingInHttp10),
        (_, _, Some(encoding), None) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
        _ => Err(Malformed::TransferEncoding),
    }
}

/// The number of a `Content-Length`.
pub(crate) fn parse_length(digits: &[u8]) -> Option<u64> {
    // `u64::from_str` would take a plus sign.
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Says which part of a head that is too long is to blame.
fn too_large(bytes: &[u8]) -> Malformed {
    let request_line = bytes.iter().take(TARGET_MAX).any(|&byte| byte == b'\n');
    if request_line { Malformed::HeadTooLarge } else { Malformed::TargetTooLong }
}

#[cfg(test)]
mod tests;
