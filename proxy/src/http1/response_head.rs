//! A response's head as it came, and as it goes on.

use std::io::Write as _;
use std::mem::MaybeUninit;

use http::StatusCode;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::buffer::Buffer;
use super::pipe::Framing;
use super::place;
use crate::chunks::Chunks;
use crate::fields::{Field, Fields, Head, Known, part};
use crate::framing::{self, HEAD_MAX, HEADERS_MAX, HeadMax};
use crate::limits::Balance;
use crate::respond;

/// A response's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    head: Head,
    pub status: StatusCode,
    reason: (u32, u32),
    is_http_10: bool,
}

/// Why what an upstream sent is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadResponse {
    /// Not HTTP/1.x.
    #[error("it is not well-formed HTTP/1.1")]
    Syntax,
    /// Too long, or too many fields.
    #[error("its head is longer than {HEAD_MAX} bytes or has more than {HEADERS_MAX} headers")]
    TooLarge,
    /// Two readings of where it ends.
    #[error("the end of its body has no single reading")]
    Framing,
}

/// How a response goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Onward<'a> {
    /// Whether the connection stays open after it.
    pub keeps_alive: bool,
    /// Whether the receiver knows no chunks: HTTP/1.0 does not, nor does HTTP/2.
    pub to_http_10: bool,
    /// Whether what only Tidegate says is taken out: the sender is an application.
    pub strips_own: bool,
    /// The limits that the request was charged to.
    pub balances: &'a [Balance],
}

impl ResponseHead {
    /// Takes the head at the start of what was `read`, if all of it is there. It may be this large.
    pub(crate) fn take(read: &mut Buffer, max: HeadMax) -> Result<Option<Self>, BadResponse> {
        let bytes = read.unused();
        let mut places = [((0, 0), (0, 0)); HeadMax::OF_SIDECARS.headers];
        let mut room = [const { MaybeUninit::uninit() }; HeadMax::OF_SIDECARS.headers];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut room,
        );
        let length = match parsed {
            Ok(httparse::Status::Complete(length))
                if length <= max.bytes && response.headers.len() <= max.headers =>
            {
                length
            }
            Ok(httparse::Status::Partial) if bytes.len() <= max.bytes => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadResponse::TooLarge),
            Err(_) => return Err(BadResponse::Syntax),
        };
        let status = StatusCode::from_u16(response.code.unwrap_or_default());
        let status = status.map_err(|_error| BadResponse::Syntax)?;
        let reason = place(bytes, response.reason.unwrap_or_default().as_bytes());
        let is_http_10 = response.version == Some(0);
        let count = response.headers.len();
        for (slot, header) in places.iter_mut().zip(response.headers.iter()) {
            *slot = (place(bytes, header.name.as_bytes()), place(bytes, header.value));
        }
        let mut head = Head::new(read.take(length));
        for (name, value) in places.into_iter().take(count) {
            head.push(name, value);
        }
        Ok(Some(Self { head, status, reason, is_http_10 }))
    }

    /// The header fields.
    pub(crate) fn fields(&self) -> Fields<'_> {
        self.head.fields()
    }

    /// How the body after it is framed (RFC 9112 6.3), which depends on the method it answers.
    pub(crate) fn framing(&self, to_head: bool, to_http_10: bool) -> Result<Framing, BadResponse> {
        let mut lengths = self.fields().of(Known::ContentLength);
        let mut encodings = self.fields().of(Known::TransferEncoding);
        let framing = match (lengths.next(), lengths.next(), encodings.next(), encodings.next()) {
            (Some(length), None, None, _) => {
                Framing::Exactly(framing::parse_length(length).ok_or(BadResponse::Framing)?)
            }
            (None, _, Some(encoding), None)
                if encoding.eq_ignore_ascii_case(b"chunked") && !self.is_http_10 =>
            {
                if to_http_10 {
                    Framing::Decoded(Chunks::default())
                } else {
                    Framing::Chunked(Chunks::default())
                }
            }
            (None, _, None, _) => Framing::UntilClose,
            _ => return Err(BadResponse::Framing),
        };
        let has_none = to_head
            || self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(if has_none { Framing::Exactly(0) } else { framing })
    }

    /// Whether its connection takes another request.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.is_http_10 && !self.fields().has_token(Known::Connection, "close")
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.head.bytes()
    }

    /// The fields that go on.
    pub(crate) fn passing(&self, onward: Onward<'_>) -> impl Iterator<Item = Field<'_>> {
        let fields = self.fields();
        let switches = self.status == StatusCode::SWITCHING_PROTOCOLS;
        fields.iter().filter(move |field| {
            let passes = match field.known {
                Known::Connection | Known::Hop | Known::Te | Known::Expect => false,
                Known::TransferEncoding => !onward.to_http_10,
                Known::Upgrade => switches,
                Known::Own | Known::ClientCert => !onward.strips_own,
                _ => true,
            };
            let is_listed = || {
                field.known == Known::Other
                    && fields.tokens(Known::Connection).any(|token| token.eq_ignore_ascii_case(field.name))
            };
            passes && !is_listed()
        })
    }

    /// Writes it as it goes on.
    pub(crate) fn write(&self, onward: Onward<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(part(self.head.bytes(), self.reason).unwrap_or_default());
        out.extend_from_slice(b"\r\n");
        for field in self.passing(onward) {
            write_field(out, field.name, field.value);
        }
        if let Some((policy, state)) = respond::rate_limit(onward.balances) {
            write_field(out, b"ratelimit-policy", policy.as_bytes());
            write_field(out, b"ratelimit", state.as_bytes());
        }
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            write_field(out, b"connection", b"upgrade");
        } else if !onward.keeps_alive && !self.status.is_informational() {
            write_field(out, b"connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer of our own, made at `now`, with all of its body.
pub(crate) fn write_own(
    answer: &http::Response<Vec<u8>>,
    now: Timestamp,
    to_head: bool,
    keeps_alive: bool,
    out: &mut Vec<u8>,
) {
    let status = answer.status();
    let reason = status.canonical_reason().unwrap_or_default();
    // Into memory, which takes everything.
    let _written = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_str());
    for (name, value) in answer.headers() {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    write_field(out, b"content-length", answer.body().len().to_string().as_bytes());
    // Only years beyond 9999 have no such form.
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
        write_field(out, b"date", date.as_bytes());
    }
    if !keeps_alive {
        write_field(out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(answer.body());
    }
}
