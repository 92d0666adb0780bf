//! What is special about gRPC: how long a call may take, and how it is refused.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use model::head::is_grpc;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::fields::Fields;
use crate::framing::Malformed;
use crate::respond::Refusal;
use crate::upstream::UpstreamError;

/// What `grpc-message` can't hold as it is.
const MESSAGE: AsciiSet = CONTROLS.add(b'%');
/// The most digits of a timeout.
const TIMEOUT_DIGITS: usize = 8;

/// Codes of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Whether a message with these fields belongs to a call: by its content type alone, as callees see it.
pub(crate) fn is_call(fields: Fields<'_>) -> bool {
    fields.named("content-type").any(is_grpc)
}

/// The same of a head that has no form yet.
pub(super) fn is_call_of(fields: &HeaderMap) -> bool {
    fields.get_all(CONTENT_TYPE).iter().filter_map(|value| value.to_str().ok()).any(is_grpc)
}

/// How long the caller waits for all of the call, if it says so.
pub(super) fn timeout(fields: Fields<'_>) -> Option<Duration> {
    let text = fields.named("grpc-timeout").next()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The code that a refusal has. Who is not identified is told to identify itself.
pub(crate) fn code(refusal: &Refusal, is_identified: bool) -> Code {
    match refusal {
        Refusal::Malformed(Malformed::HeadTimeout) => Code::DeadlineExceeded,
        Refusal::Malformed(_) | Refusal::Path(_) => Code::InvalidArgument,
        Refusal::Denied(_) if is_identified => Code::PermissionDenied,
        Refusal::Denied(_) => Code::Unauthenticated,
        Refusal::Token(refused) if refused.status().is_client_error() => Code::Unauthenticated,
        Refusal::Limited(_) => Code::ResourceExhausted,
        Refusal::NoSuchService(_) => Code::Unimplemented,
        Refusal::Upstream(UpstreamError::Timeout { .. }) => Code::DeadlineExceeded,
        _ => Code::Unavailable,
    }
}

/// `answer`, a refusal as it is told over HTTP, as it is told to a caller of gRPC: a response that is over with its
/// head.
pub(crate) fn refusal(code: Code, message: &str, mut answer: Response<Vec<u8>>) -> Response<Vec<u8>> {
    *answer.status_mut() = StatusCode::OK;
    answer.body_mut().clear();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.extend(status(code, message));
    answer
}

/// What ends a call.
pub(super) fn status(code: Code, message: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", (code as u16).into());
    let message = percent_encode(message.as_bytes(), &MESSAGE).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        fields.insert("grpc-message", message);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Head;

    #[test]
    fn a_call_is_known_by_its_content_type() {
        let table = [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc ; x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ];
        for (content_type, expected) in table {
            let sent = Head::of(&[("Content-Type", content_type)]);
            assert_eq!(is_call(sent.fields()), expected, "{content_type}");
        }
    }

    #[test]
    fn a_timeout_has_a_unit() {
        let table = [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("99999999m", Some(99_999_999_000_000)),
            ("5u", Some(5_000)),
            ("6n", Some(6)),
            ("0m", Some(0)),
            ("100000000m", None),
            ("+1S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1é", None),
        ];
        for (text, nanoseconds) in table {
            let sent = Head::of(&[("grpc-timeout", text)]);
            assert_eq!(timeout(sent.fields()), nanoseconds.map(Duration::from_nanos), "{text}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let fields = status(Code::PermissionDenied, "100 %\nnon-ASCII: é");
        assert_eq!(fields["grpc-status"], "7");
        assert_eq!(fields["grpc-message"], "100 %25%0Anon-ASCII: %C3%A9");
    }
}
