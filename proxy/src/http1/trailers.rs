//! The fields after a chunked body, on their way through.
//!
//! Some receivers put trailers among the headers. So what a header must not say, a trailer must not either.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The most fields.
const TRAILERS_MAX: usize = 32;

/// Names that mean something before the body is read (RFC 9110 6.5.1): framing, routing, identity, formats.
const NEVER: [&str; 27] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-request-id",
    "traceparent",
];

/// Beginnings of names that only proxies set.
const NEVER_BEGINS: [&str; 2] = ["x-tidegate-", "x-forwarded-"];

/// Those of `section`, with the empty line that ends it, that may pass. None if it is not well-formed.
pub(crate) fn read(section: &[u8]) -> Option<HeaderMap> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return None;
    };
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields.iter().filter(|field| may_pass(field.name)) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        map.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(map)
}

/// Writes those of `section`, with the empty line that ends it, that may pass. None if it is not well-formed.
pub(super) fn write(section: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return None;
    };
    for field in fields.iter().filter(|field| may_pass(field.name)) {
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Some(())
}

/// Whether a trailer may have this name.
pub(crate) fn may_pass(name: &str) -> bool {
    let begins = |start: &str| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    !NEVER.iter().any(|never| never.eq_ignore_ascii_case(name)) && !NEVER_BEGINS.into_iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_says_nothing_that_belongs_into_the_head() {
        let table = [
            ("\r\n", Some("\r\n")),
            ("X-Sum: 7\r\nx-b:  c \r\n\r\n", Some("X-Sum: 7\r\nx-b: c\r\n\r\n")),
            ("Content-Length: 7\r\nX-Forwarded-Client-Cert: URI=spiffe://a/b\r\n\r\n", Some("\r\n")),
            ("x-tidegate-policy: p\r\nHOST: b\r\nok: 1\r\n\r\n", Some("ok: 1\r\n\r\n")),
            ("no colon\r\n\r\n", None),
            ("a b: c\r\n\r\n", None),
            ("a: b\r\n c\r\n\r\n", None),
        ];
        for (section, expected) in table {
            let mut out = Vec::new();
            let written = write(section.as_bytes(), &mut out);
            let out = written.map(|()| String::from_utf8(out).unwrap());
            assert_eq!(out.as_deref(), expected, "{section:?}");
        }
        assert_eq!(write("a: b\r\n".repeat(TRAILERS_MAX + 1).as_bytes(), &mut Vec::new()), None);
    }
}
