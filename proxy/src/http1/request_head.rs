//! A request's head as it came.

use std::mem::MaybeUninit;

use super::buffer::Buffer;
use super::place;
use crate::fields::{Fields, Head, Known, part};
use crate::framing::{self, BodyLength, HeadMax, Malformed, Target};

/// A head that has one reading.
#[derive(Debug)]
pub(crate) struct RequestHead {
    head: Head,
    method: (u32, u32),
    target: (u32, u32),
    pub is_http_10: bool,
    /// How the body after it is framed.
    pub body: BodyLength,
}

impl RequestHead {
    /// Reads `bytes`, which are one complete head, and may be this large.
    pub(crate) fn read(bytes: Buffer, max: HeadMax) -> Result<Self, Malformed> {
        let mut head = Head::new(bytes);
        let (method, target, is_http_10) = parse(&mut head, max)?;
        let mut request = Self { head, method, target, is_http_10, body: BodyLength::Exactly(0) };
        let target = framing::target(request.method(), request.raw_target())?;
        framing::host(request.fields(), is_http_10, target.authority)?;
        request.body = framing::body_length(request.fields(), is_http_10)?;
        Ok(request)
    }

    /// The method, as sent.
    pub(crate) fn method(&self) -> &str {
        self.text(self.method)
    }

    /// The target, taken apart.
    pub(crate) fn target(&self) -> Result<Target<'_>, Malformed> {
        framing::target(self.method(), self.raw_target())
    }

    /// The host asked for, with its port; empty if HTTP/1.0 has none.
    pub(crate) fn authority<'a>(&'a self, target: &Target<'a>) -> &'a str {
        let host = self.fields().of(Known::Host).next().and_then(|host| std::str::from_utf8(host).ok());
        target.authority.or(host).unwrap_or_default()
    }

    /// The header fields.
    pub(crate) fn fields(&self) -> Fields<'_> {
        self.head.fields()
    }

    /// Whether the connection is to take another request after this one.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.is_http_10 && !self.fields().has_token(Known::Connection, "close")
    }

    /// Whether it may be sent twice: it is idempotent (RFC 9110 9.2.2), and has no body.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.body == BodyLength::Exactly(0)
            && matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }

    /// The protocol that it asks to go on with, if any (RFC 9110 7.8).
    pub(crate) fn upgrade(&self) -> Option<&str> {
        if self.is_http_10 || !self.fields().has_token(Known::Connection, "upgrade") {
            return None;
        }
        std::str::from_utf8(self.fields().of(Known::Upgrade).next()?).ok()
    }

    /// Whether its sender waits to be asked for the body (RFC 9110 10.1.1).
    pub(crate) fn expects_continue(&self) -> bool {
        !self.is_http_10 && self.fields().has_token(Known::Expect, "100-continue")
    }

    fn raw_target(&self) -> &str {
        self.text(self.target)
    }

    fn text(&self, place: (u32, u32)) -> &str {
        // The parser lets only ASCII pass in a method, and targets that are no UTF-8 are refused below.
        part(self.head.bytes(), place).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

type RequestLine = ((u32, u32), (u32, u32), bool);

fn parse(head: &mut Head, max: HeadMax) -> Result<RequestLine, Malformed> {
    let mut places = [((0, 0), (0, 0)); HeadMax::OF_SIDECARS.headers];
    let bytes = head.bytes();
    let mut room = [const { MaybeUninit::uninit() }; HeadMax::OF_SIDECARS.headers];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut room) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Malformed::Syntax),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLarge),
        Err(httparse::Error::Token) if request.method.is_some() => return Err(Malformed::Target),
        Err(httparse::Error::HeaderValue) => return Err(Malformed::HeaderValue),
        Err(_) => return Err(Malformed::Syntax),
    }
    if request.headers.len() > max.headers {
        return Err(Malformed::HeadTooLarge);
    }
    if request.headers.iter().any(|header| std::str::from_utf8(header.value).is_err()) {
        return Err(Malformed::HeaderValue);
    }
    let line = (
        place(bytes, request.method.unwrap_or_default().as_bytes()),
        place(bytes, request.path.unwrap_or_default().as_bytes()),
        request.version == Some(0),
    );
    let count = request.headers.len();
    for (slot, header) in places.iter_mut().zip(request.headers.iter()) {
        *slot = (place(bytes, header.name.as_bytes()), place(bytes, header.value));
    }
    for (name, value) in places.into_iter().take(count) {
        head.push(name, value);
    }
    Ok(line)
}
