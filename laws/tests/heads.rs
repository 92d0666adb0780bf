//! Laws of heads, for heads that are put together from what makes a difference.

#![cfg(test)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const SEGMENTS: &[&str] = &[
    "a", "b", "", ".", "..", "%2e", "%2E%2e", "%61", "%7e", "%7E", "%c3%a9", "%C3%A9", "%2F", "%5c", "%00",
    "~", "\\", "%", "%zz", "é", "a;b", "<a>", "`",
];
const QUERIES: &[&str] =
    &["", "?", "?a=1", "?a=1&a=%20", "?a=%2F&b=+", "?a=%ff", "?%", "?a#b", "?a=\"", "?a?b"];
const HOSTS: &[&str] = &["one", "One:80", "[::1]:8080", "a b", "", "a:b", "x.example", "one:"];
const FIELDS: &[&str] = &[
    "X-User: a",
    "x-user: b, c",
    "x-user:",
    "Cookie: a=1; b=2",
    "cookie: a=3;c",
    "cookie: a=\"x,y\"",
    "Content-Type: application/grpc",
    "content-type: application/grpc+proto;x=y",
    "content-type: text/html",
    "content-type: text/html,application/grpc",
    "X-Tidegate-Policy: mine",
    "x-tidegate-: 1",
    "X-Forwarded-For: 1.1.1.1",
    "X-Request-Id: a b",
    "X-Request-Id: ok",
    "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "TE: trailers",
    "TE: gzip",
    "Connection: close",
    "Connection: x-user, cookie",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Keep-Alive: timeout=5",
    "Proxy-Authorization: x",
    "Expect: 100-continue",
    "Content-Length: 0",
    "Transfer-Encoding: chunked",
    "X-Odd: zo\u{eb}\t!",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn envoys_and_sidecars_see_the_same(
        method in select(&["GET", "POST", "OPTIONS", "CONNECT", "X-a"][..]),
        segments in vec(select(SEGMENTS), 0..6),
        query in select(QUERIES),
        host in select(HOSTS),
        fields in vec(select(FIELDS), 0..8),
    ) {
        let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head = format!("{method} /{}{query} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n", segments.join("/"));
        tidegate_laws::ext_authz(head.as_bytes());
    }
}
