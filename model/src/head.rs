//! What the head of a request may be, and how parts of it are read: the same for all who let requests in.

use std::borrow::Cow;

/// The longest request target, in bytes.
pub const TARGET_MAX: usize = 16 * 1024;
/// The longest head: request line, headers and the empty line, in bytes.
pub const HEAD_MAX: usize = 64 * 1024;
/// The most header lines.
pub const HEADERS_MAX: usize = 100;

/// The host name in `authority`, lower-cased and without port, if it is well-formed.
pub fn host_name(authority: &str) -> Option<Cow<'_, str>> {
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
    let lower = || {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        }
    };
    (port_is_valid && name_is_valid).then(lower)
}

/// Whether a message with this content type belongs to a call of gRPC.
pub fn is_grpc(content_type: &str) -> bool {
    const GRPC: &str = "application/grpc";
    let begins = content_type.get(..GRPC.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(GRPC));
    // `application/grpc-web` is another protocol.
    let rest = content_type.get(GRPC.len()..).unwrap_or_default().trim_start();
    begins && (rest.is_empty() || rest.starts_with(['+', ';']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lower_cased_and_lose_their_port() {
        let table = [
            ("Reviews", Some("reviews")),
            ("reviews:9080", Some("reviews")),
            ("reviews:", Some("reviews")),
            ("a.b-c_d~1", Some("a.b-c_d~1")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("[::1]x", None),
            ("[x]", None),
            ("[::1", None),
            ("::1", None),
            ("a:123456", None),
            ("a%62", None),
            ("", None),
            (":80", None),
        ];
        for (authority, expected) in table {
            assert_eq!(host_name(authority).as_deref(), expected, "{authority}");
        }
    }
}
