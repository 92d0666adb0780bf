use proptest::prelude::*;

use super::*;
use crate::http1::{Buffer, RequestHead};

fn read(head: &str) -> Result<BodyLength, Malformed> {
    let length = head_length(head.as_bytes(), 0, HEAD_MAX)?.expect("a complete head");
    check(&head.as_bytes()[..length])
}

fn check(head: &[u8]) -> Result<BodyLength, Malformed> {
    let mut bytes = Buffer::default();
    bytes.extend(head);
    RequestHead::read(bytes, HeadMax::OF_OTHERS).map(|request| request.body)
}

#[test]
fn each_ambiguity_is_refused_by_name() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(TARGET_MAX));
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(HEAD_MAX));
    let long_header = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "x".repeat(HEAD_MAX));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX));
    let full_headers = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX - 1));
    let with = |line: &str, lines: &str| format!("{line}\r\nHost: a\r\n{lines}\r\n");
    let post = |lines: &str| with("POST / HTTP/1.1", lines);
    let table: Vec<(String, Result<BodyLength, Malformed>)> = vec![
        (post(""), Ok(BodyLength::Exactly(0))),
        (post("Content-Length: 12\r\n"), Ok(BodyLength::Exactly(12))),
        (post("Transfer-Encoding: Chunked\r\n"), Ok(BodyLength::Chunked)),
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Err(Malformed::TwoLengths)),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), Err(Malformed::TwoLengths)),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(Malformed::RepeatedLength)),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n"), Err(Malformed::RepeatedLength)),
        (post("Content-Length: 1, 1\r\n"), Err(Malformed::Length)),
        (post("Content-Length: +1\r\n"), Err(Malformed::Length)),
        (post("Content-Length: -1\r\n"), Err(Malformed::Length)),
        (post("Content-Length: 0x1\r\n"), Err(Malformed::Length)),
        (post("Content-Length:\r\n"), Err(Malformed::Length)),
        (post("Content-Length: 99999999999999999999\r\n"), Err(Malformed::Length)),
        (post("Transfer-Encoding: gzip, chunked\r\n"), Err(Malformed::TransferEncoding)),
        (post("Transfer-Encoding: chunked, chunked\r\n"), Err(Malformed::TransferEncoding)),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            Err(Malformed::TransferEncoding),
        ),
        (post("Transfer-Encoding: xchunked\r\n"), Err(Malformed::TransferEncoding)),
        (post("Transfer-Encoding: \x0bchunked\r\n"), Err(Malformed::HeaderValue)),
        (with("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"), Err(Malformed::TransferEncodingInHttp10)),
        (post("Host: a\r\n"), Err(Malformed::HostCount)),
        ("GET / HTTP/1.1\r\n\r\n".into(), Err(Malformed::HostCount)),
        ("GET / HTTP/1.0\r\n\r\n".into(), Ok(BodyLength::Exactly(0))),
        ("GET http://a/ HTTP/1.1\r\n\r\n".into(), Err(Malformed::HostCount)),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".into(), Ok(BodyLength::Exactly(0))),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Host)),
        ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Target)),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Target)),
        ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Target)),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Target)),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Ok(BodyLength::Exactly(0))),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Connect)),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), Err(Malformed::Host)),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), Err(Malformed::Host)),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), Err(Malformed::Host)),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), Err(Malformed::Host)),
        ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n".into(), Err(Malformed::Host)),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".into(), Err(Malformed::BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\n\n".into(), Err(Malformed::BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n folded\r\n\r\n".into(), Err(Malformed::Syntax)),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), Err(Malformed::Syntax)),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: \u{1}\r\n\r\n".into(), Err(Malformed::HeaderValue)),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), Err(Malformed::Syntax)),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Err(Malformed::Target)),
        (long_target, Err(Malformed::TargetTooLong)),
        (long_line, Err(Malformed::TargetTooLong)),
        (long_header, Err(Malformed::HeadTooLarge)),
        (many_headers, Err(Malformed::HeadTooLarge)),
        (full_headers, Ok(BodyLength::Exactly(0))),
    ];
    for (head, expected) in table {
        assert_eq!(read(&head), expected, "{}", head.chars().take(200).collect::<String>());
    }
    assert_eq!(check(b"GET / HTTP/1.1\r\nHost: a\r\nx: \xff\r\n\r\n"), Err(Malformed::HeaderValue));
}

proptest! {
    #[test]
    fn where_a_head_ends_does_not_depend_on_how_it_arrives(
        head in "[a\r]{0,9}(\r\n)?[a]{0,4}(\r\n){0,2}[a\r\n]{0,4}", cut in 0usize..20
    ) {
        let bytes = head.as_bytes();
        let cut = cut.min(bytes.len());
        let at_once = head_length(bytes, 0, HEAD_MAX);
        let in_parts = match head_length(&bytes[..cut], 0, HEAD_MAX) {
            Ok(None) => head_length(bytes, cut, HEAD_MAX),
            found => found,
        };
        prop_assert_eq!(at_once, in_parts);
    }
}
