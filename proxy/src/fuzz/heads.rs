//! Heads of requests, of HTTP/1.1 and of HTTP/2.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{self, HeaderName, HeaderValue};

use crate::fields::{Fields, Known};
use crate::framing::{self, HEAD_MAX, HeadMax};
use crate::http1::{Buffer, Forward, RequestHead};
use crate::http2::head;
use crate::introduction::Introduction;
use crate::jwt::KeptBack;
use model::path::Slashes;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// What another proxy of ours would do with what we send: pass everything.
const AGAIN: Introduction = Introduction::Nothing { passes_client_cert: true };

/// The head of a request of HTTP/1.1. What is accepted is forwarded so that whoever reads it, by HTTP/1.1 or HTTP/2,
/// reads what policies saw, and no more.
pub fn request_head(bytes: &[u8]) {
    let Ok(Some(length)) = framing::head_length(bytes, 0, HEAD_MAX) else { return };
    assert!(length <= bytes.len().min(HEAD_MAX));
    let head = bytes.get(..length).unwrap_or_default();
    for cut in 0..length {
        let begun = framing::head_length(head.get(..cut).unwrap_or_default(), 0, HEAD_MAX);
        assert_eq!(begun, Ok(None), "a head ends before its end");
    }
    if let Ok(request) = RequestHead::read(buffer(head), HeadMax::OF_OTHERS) {
        is_forwarded_as_seen(&request);
    }
}

/// The head of a request of HTTP/2, written as a line with method and target, and a line for each field. None of its values
/// becomes a part of another.
pub fn http2_head(bytes: &[u8]) {
    let Some((request, has_body)) = request_of(bytes) else { return };
    let (parts, ()) = request.into_parts();
    let Ok(text) = head::of_request(&parts, has_body, HeadMax::OF_OTHERS) else { return };
    let text_bytes = text.unused().to_vec();
    assert_eq!(
        framing::head_length(&text_bytes, 0, HEAD_MAX),
        Ok(Some(text_bytes.len())),
        "a value ends the head"
    );
    let Ok(read) = RequestHead::read(text, HeadMax::OF_OTHERS) else { return };
    assert_eq!(read.method(), parts.method.as_str());
    let named = |name: &HeaderName| parts.headers.get_all(name).iter().count();
    let all = parts.headers.len();
    // One that says the same as the authority is not sent again.
    let hosts = if parts.uri.authority().is_some() { 1 } else { named(&header::HOST) };
    let others = all.saturating_sub(named(&header::HOST)).saturating_sub(named(&header::COOKIE));
    let chunked = usize::from(has_body && named(&header::CONTENT_LENGTH) == 0);
    let expected = others + hosts + named(&header::COOKIE).min(1) + chunked;
    assert_eq!(read.fields().iter().count(), expected, "a value became a field, or one is lost");
    is_forwarded_as_seen(&read);
}

/// Brings `request` into its form, whoever sent it, and reads that form in every way.
fn is_forwarded_as_seen(request: &RequestHead) {
    let by = [
        (Introduction::Nothing { passes_client_cert: false }, Slashes::Kept),
        (Introduction::Outside { address: PEER, trusted_hops: 0 }, Slashes::Merged),
        (Introduction::Outside { address: PEER, trusted_hops: 1 }, Slashes::Kept),
        (
            Introduction::Mesh { address: PEER, client_cert: CERT.to_owned(), appends_client_cert: true },
            Slashes::Merged,
        ),
    ];
    for (introduction, slashes) in by {
        let Ok(forward) = Forward::of(request, &introduction, &KeptBack::nothing(), slashes) else {
            continue;
        };
        // An application may get what is larger: a list of earlier hops has a blank more for each.
        let is_for_sidecar = matches!(introduction, Introduction::Nothing { .. });
        let is_too_large = !is_for_sidecar && forward.bytes().len() > HeadMax::OF_SIDECARS.bytes;
        // HTTP/1.0 needs no host.
        if forward.host().is_empty() || is_too_large {
            continue;
        }
        says_who_calls(&forward, &introduction);
        is_read_by_httparse(&forward);
        is_read_by_us(request, &forward);
        is_read_by_http2(&forward);
    }
}

const CERT: &str = "By=spiffe://a/b;URI=spiffe://a/c";

/// The last word on who calls is ours, and from outside there is no other.
fn says_who_calls(forward: &Forward, introduction: &Introduction) {
    let last = |known| forward.fields().tokens(known).last().map(<[u8]>::to_vec);
    match introduction {
        Introduction::Nothing { .. } => {}
        Introduction::Outside { trusted_hops, .. } => {
            let hops = forward.fields().tokens(Known::ForwardedFor).count();
            assert!(hops <= trusted_hops.saturating_add(1), "{hops} hops are told");
            assert_eq!(last(Known::ForwardedFor), Some(PEER.to_string().into_bytes()));
            assert_eq!(last(Known::ClientCert), None);
        }
        Introduction::Mesh { .. } => {
            assert_eq!(last(Known::ForwardedFor), Some(PEER.to_string().into_bytes()));
            assert_eq!(last(Known::ClientCert), Some(CERT.as_bytes().to_vec()));
        }
    }
    let own = forward.fields().iter().any(|field| field.known == Known::Own);
    assert!(!own, "a caller speaks for us");
}

/// Method, target and fields are those that policies saw; what else is there only frames the message.
fn is_read_by_httparse(forward: &Forward) {
    let mut room = [httparse::EMPTY_HEADER; HeadMax::OF_SIDECARS.headers];
    let mut request = httparse::Request::new(&mut room);
    let read = request.parse(forward.bytes());
    assert_eq!(read, Ok(httparse::Status::Complete(forward.bytes().len())));
    assert_eq!(request.method, Some(forward.method()));
    assert_eq!(request.path, Some(forward.target()));
    let mut seen = forward.fields().iter().peekable();
    for header in request.headers.iter() {
        if seen
            .peek()
            .is_some_and(|field| (field.name, field.value) == (header.name.as_bytes(), header.value))
        {
            seen.next();
        } else {
            let frames = ["connection", "transfer-encoding"].contains(&header.name);
            assert!(frames, "`{}` is sent, and policies have not seen it", header.name);
        }
    }
    assert!(seen.next().is_none(), "policies saw a field that is not sent");
}

/// The form is a form of its own: the next proxy of ours sends the same.
fn is_read_by_us(request: &RequestHead, forward: &Forward) {
    let again = RequestHead::read(buffer(forward.bytes()), HeadMax::OF_SIDECARS);
    assert!(again.is_ok(), "what we send we do not take: {again:?}");
    let Ok(again) = again else { return };
    assert_eq!((again.method(), again.body), (request.method(), request.body));
    assert_eq!(again.upgrade(), request.upgrade());
    let second = Forward::of(&again, &AGAIN, &KeptBack::nothing(), Slashes::Kept);
    assert!(second.is_ok(), "the next one refuses what we send: {second:?}");
    let Ok(second) = second else { return };
    assert_eq!((second.path(), second.query()), (forward.path(), forward.query()));
    assert_eq!((second.host(), second.request_id()), (forward.host(), forward.request_id()));
    assert_eq!(second.trace_id(), forward.trace_id());
    assert_eq!(sorted(second.fields()), sorted(forward.fields()), "the next one sends other fields");
}

fn is_read_by_http2(forward: &Forward) {
    for field in forward.fields().iter() {
        assert!(HeaderName::from_bytes(field.name).is_ok() && HeaderValue::from_bytes(field.value).is_ok());
    }
    let Some(request) = head::to_request(forward, true) else { return };
    assert_eq!(request.method().as_str(), forward.method());
    assert_eq!(request.uri().path(), forward.path());
    assert_eq!(request.uri().query().unwrap_or_default(), forward.query());
    let host = request.uri().authority().and_then(|authority| framing::host_name(authority.as_str()));
    assert_eq!(host.as_deref(), Some(forward.host().as_ref()));
}

fn sorted(fields: Fields<'_>) -> Vec<(String, Vec<u8>)> {
    let lower = |name| String::from_utf8_lossy(name).to_ascii_lowercase();
    let mut all: Vec<_> = fields.iter().map(|field| (lower(field.name), field.value.to_vec())).collect();
    all.sort();
    all
}

/// A request as `h2` would hand it on, and whether a body follows: if its first line ends with a blank.
fn request_of(bytes: &[u8]) -> Option<(http::Request<()>, bool)> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let line = std::str::from_utf8(lines.next()?).ok()?;
    let (method, target) = line.trim_end_matches(' ').split_once(' ')?;
    let mut request = http::Request::builder().method(method).uri(target);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        request = request.header(name, value.get(1..)?.trim_ascii());
    }
    Some((request.body(()).ok()?, line.ends_with(' ')))
}

pub(super) fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.extend(bytes);
    buffer
}
