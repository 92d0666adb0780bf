//! What a request's head must look like before anything else reads it.
//!
//! Two parties that disagree on where a request ends can be made to disagree on who sent it (request
//! smuggling). Standards let a proxy repair some such heads, and hyper does, silently. Tidegate refuses each
//! of them instead: this module reads the raw head, before hyper does.

use http::{StatusCode, Uri};

/// The longest request target, in bytes.
pub(crate) const TARGET_MAX: usize = 16 * 1024;
/// The longest head: request line, headers and the empty line, in bytes.
pub(crate) const HEAD_MAX: usize = 64 * 1024;
/// The most header lines.
pub(crate) const HEADERS_MAX: usize = 100;

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

/// The length of the head at the start of `bytes`, if all of it is there. Looks no further back than `from`,
/// up to where an earlier call found nothing.
pub(crate) fn head_length(bytes: &[u8], from: usize) -> Result<Option<usize>, Malformed> {
    // The line feed may be the first new byte while its carriage return is an old one.
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n')) {
        let line_feed = at + found;
        let line = bytes.get(..line_feed).unwrap_or_default();
        let Some(before) = line.strip_suffix(b"\r") else { return Err(Malformed::BareLineFeed) };
        if before.ends_with(b"\r\n") {
            let length = line_feed + 1;
            return if length > HEAD_MAX { Err(too_large(bytes)) } else { Ok(Some(length)) };
        }
        at = line_feed + 1;
    }
    if bytes.len() > HEAD_MAX { Err(too_large(bytes)) } else { Ok(None) }
}

/// How the body after `head`, a complete head, is framed.
pub(crate) fn check(head: &[u8]) -> Result<BodyLength, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Malformed::Syntax),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLarge),
        Err(httparse::Error::Token) if request.method.is_some() => return Err(Malformed::Target),
        Err(httparse::Error::HeaderValue) => return Err(Malformed::HeaderValue),
        Err(_) => return Err(Malformed::Syntax),
    }
    let is_http_10 = request.version == Some(0);
    let absolute = check_target(request.method.unwrap_or_default(), request.path.unwrap_or_default())?;
    if request.headers.iter().any(|header| std::str::from_utf8(header.value).is_err()) {
        return Err(Malformed::HeaderValue);
    }
    check_host(request.headers, is_http_10, absolute.as_deref())?;
    body_length(request.headers, is_http_10)
}

/// The host name in `authority`, lower-cased and without port, if it is well-formed.
pub(crate) fn host_name(authority: &str) -> Option<String> {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (authority.get(..address.len() + 2)?, after)
        }
        None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let name_is_valid = name.starts_with('[') || (!name.is_empty() && name.bytes().all(allowed));
    (port_is_valid && name_is_valid).then(|| name.to_ascii_lowercase())
}

/// Checks the request target; answers the authority of one in absolute form.
fn check_target(method: &str, target: &str) -> Result<Option<String>, Malformed> {
    if method == "CONNECT" {
        return Err(Malformed::Connect);
    }
    if target.len() > TARGET_MAX {
        return Err(Malformed::TargetTooLong);
    }
    if target.contains('#') || (target == "*" && method != "OPTIONS") {
        return Err(Malformed::Target);
    }
    if target.starts_with('/') || target == "*" {
        return target.parse::<Uri>().map(|_uri| None).map_err(|_error| Malformed::Target);
    }
    match target.parse::<Uri>().map(Uri::into_parts) {
        Ok(uri) if uri.scheme == Some(http::uri::Scheme::HTTP) => {
            Ok(uri.authority.map(|authority| authority.as_str().to_owned()))
        }
        _ => Err(Malformed::Target),
    }
}

fn check_host(
    headers: &[httparse::Header<'_>],
    is_http_10: bool,
    absolute: Option<&str>,
) -> Result<(), Malformed> {
    let mut hosts = named(headers, "host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(std::str::from_utf8(host).unwrap_or_default()),
        (None, None) if is_http_10 => None,
        _ => return Err(Malformed::HostCount),
    };
    let well_formed = [host, absolute].into_iter().flatten().all(|host| host_name(host).is_some());
    if well_formed { Ok(()) } else { Err(Malformed::Host) }
}

fn body_length(headers: &[httparse::Header<'_>], is_http_10: bool) -> Result<BodyLength, Malformed> {
    let mut lengths = named(headers, "content-length");
    let mut encodings = named(headers, "transfer-encoding");
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

fn parse_length(digits: &[u8]) -> Option<u64> {
    // `u64::from_str` would take a plus sign.
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn named<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Says which part of a head that is too long is to blame.
fn too_large(bytes: &[u8]) -> Malformed {
    let request_line = bytes.iter().take(TARGET_MAX).any(|&byte| byte == b'\n');
    if request_line { Malformed::HeadTooLarge } else { Malformed::TargetTooLong }
}

#[cfg(test)]
mod tests;
