//! Heads of responses, of HTTP/1.1 and of HTTP/2.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use super::heads::buffer;
use crate::fields::Known;
use crate::framing::{HEAD_MAX, HeadMax};
use crate::http1::{Buffer, Framing, Onward, ResponseHead};
use crate::http2::head::{self, Body};

/// The head of a response of HTTP/1.1, which is passed on so that it ends where we have seen it end.
pub fn response_head(bytes: &[u8]) {
    let mut read = buffer(bytes);
    let Ok(Some(response)) = ResponseHead::take(&mut read, HeadMax::OF_OTHERS) else { return };
    let length = bytes.len().saturating_sub(read.unused().len());
    assert!(length <= HEAD_MAX);
    ends_where_we_saw(&response);
}

/// The head of a response of HTTP/2, written as a line with the status, and a line for each field. None of its values
/// becomes a part of another, where it ends is told by us alone or by its only length, and what goes on by HTTP/2 is
/// what came, but for the fields that go no further.
pub fn http2_response(bytes: &[u8]) {
    let Some(response) = response_of(bytes) else { return };
    let (parts, ()) = response.into_parts();
    for body in [Body::None, Body::Empty, Body::Some] {
        let mut text = head::of_response(&parts, body);
        let Ok(Some(read)) = ResponseHead::take(&mut text, HeadMax::OF_OTHERS) else { continue };
        assert!(text.is_empty(), "a value ends the head");
        assert_eq!(read.status, parts.status);
        let tells = parts.headers.contains_key(header::CONTENT_LENGTH);
        let never = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let has_none = never || parts.status.is_informational();
        match (body, read.framing(false, false)) {
            (_, Ok(framing)) if has_none => assert!(matches!(framing, Framing::Exactly(0))),
            (Body::Some, Ok(framing)) if !tells => assert!(matches!(framing, Framing::Chunked(_))),
            (Body::Empty, Ok(framing)) if !tells => assert!(matches!(framing, Framing::Exactly(0))),
            (Body::Some | Body::Empty, framing) if !tells => {
                assert!(framing.is_ok(), "we told it in two ways")
            }
            _ => {}
        }
        ends_where_we_saw(&read);
        let Some(again) = head::to_response(&read, ONWARD) else { continue };
        let mut expected = parts.headers.clone();
        expected.extend((body == Body::Empty && !tells && !never).then(empty));
        GOES_NO_FURTHER.iter().for_each(|name| drop(expected.remove(*name)));
        let of_ours: Vec<_> =
            expected.keys().filter(|name| name.as_str().starts_with("x-tidegate-")).cloned().collect();
        of_ours.iter().for_each(|name| drop(expected.remove(name)));
        assert_eq!((again.status(), sorted(again.headers())), (parts.status, sorted(&expected)));
    }
}

const ONWARD: Onward<'_> = Onward { keeps_alive: true, to_http_10: false, strips_own: true, balances: &[] };

/// Fields of one connection, and one that an application has no say in.
const GOES_NO_FURTHER: [&str; 11] = [
    "connection",
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "te",
    "expect",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "x-forwarded-client-cert",
];

/// Writes `response` as it goes on, and reads it as the next sidecar does.
fn ends_where_we_saw(response: &ResponseHead) {
    for to_http_10 in [false, true] {
        let Ok(framing) = response.framing(false, to_http_10) else { continue };
        let mut text = Buffer::default();
        response.write(Onward { to_http_10, ..ONWARD }, text.vec());
        let again = ResponseHead::take(&mut text, HeadMax::OF_SIDECARS);
        assert!(matches!(again, Ok(Some(_))), "what we send is no head: {again:?}");
        let Ok(Some(again)) = again else { continue };
        assert!(text.is_empty(), "something of the head is left over");
        assert_eq!(again.status, response.status);
        let own = again.fields().iter().any(|field| matches!(field.known, Known::Own | Known::ClientCert));
        assert!(!own, "an application speaks for us");
        let same = match (framing, again.framing(false, to_http_10)) {
            (Framing::Exactly(one), Ok(Framing::Exactly(other))) => one == other,
            (Framing::Chunked(_), Ok(Framing::Chunked(_))) => true,
            // Its data goes on without chunks, up to the end of the connection.
            (Framing::Decoded(_) | Framing::UntilClose, Ok(Framing::UntilClose)) => true,
            _ => false,
        };
        assert!(same, "the body would end elsewhere for the next one");
    }
}

/// A response as `h2` would hand it on.
fn response_of(bytes: &[u8]) -> Option<http::Response<()>> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let status = StatusCode::from_bytes(lines.next()?).ok()?;
    let mut response = http::Response::builder().status(status);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        response = response.header(name, value.get(1..)?);
    }
    response.body(()).ok()
}

fn empty() -> (header::HeaderName, HeaderValue) {
    (header::CONTENT_LENGTH, HeaderValue::from_static("0"))
}

/// Blanks around a value are no part of it.
fn sorted(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes().trim_ascii())).collect();
    all.sort_unstable();
    all
}
