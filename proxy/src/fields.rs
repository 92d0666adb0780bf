//! The header fields of a message: a flat list over the bytes they came in, in their order.
//!
//! A message has some ten fields, of which we look for a few. Going through a short list takes less time than making
//! a map of it, and what is only passed on is copied straight from where it lies.

use std::cell::RefCell;

use crate::http1::Buffer;

/// What a field is to us, so that its name is compared once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// Of one connection, not of the message, such as `keep-alive`.
    Hop,
    Te,
    Upgrade,
    Expect,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    ClientCert,
    /// Only Tidegate says it.
    Own,
    RequestId,
    Traceparent,
    Other,
}

/// Where a field lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub name: (u32, u32),
    pub value: (u32, u32),
    pub known: Known,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    /// As sent: a token, so ASCII.
    pub name: &'a [u8],
    /// As sent, without the blanks around it.
    pub value: &'a [u8],
    pub known: Known,
}

/// The fields of a message, borrowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

/// A message's head: its bytes, and where its fields lie in them.
#[derive(Debug, Default)]
pub(crate) struct Head {
    bytes: Buffer,
    spans: Vec<Span>,
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<Span>>> = const { RefCell::new(Vec::new()) };
}

/// How many lists a thread keeps for heads to come.
const SPARE_MAX: usize = 256;

impl Head {
    /// A head without fields so far.
    pub(crate) fn new(bytes: Buffer) -> Self {
        Self { bytes, spans: SPARE.with_borrow_mut(Vec::pop).unwrap_or_default() }
    }

    /// A head with these fields alone.
    pub(crate) fn of(fields: &[(&str, &str)]) -> Self {
        let mut head = Self::new(Buffer::default());
        for (name, value) in fields {
            let mut add = |text: &str| {
                let start = head.bytes().len();
                head.vec().extend_from_slice(text.as_bytes());
                crate::http1::at(start, text.len())
            };
            let (name, value) = (add(name), add(value));
            head.push(name, value);
        }
        head
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.unused()
    }

    /// Its bytes, to be added to.
    pub(crate) fn vec(&mut self) -> &mut Vec<u8> {
        self.bytes.vec()
    }

    /// The place of the value of the first field of this kind.
    pub(crate) fn place_of(&self, known: Known) -> Option<(u32, u32)> {
        self.spans.iter().find(|span| span.known == known).map(|span| span.value)
    }

    /// Adds the field at these places of the bytes.
    pub(crate) fn push(&mut self, name: (u32, u32), value: (u32, u32)) {
        let known = part(self.bytes.unused(), name).map_or(Known::Other, known);
        self.spans.push(Span { name, value, known });
    }

    /// Its fields.
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields { bytes: self.bytes.unused(), spans: &self.spans }
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.clear();
        SPARE.with_borrow_mut(|spare| {
            if spans.capacity() > 0 && spare.len() < SPARE_MAX {
                spare.push(spans);
            }
        });
    }
}

impl<'a> Fields<'a> {
    /// No fields.
    pub(crate) const EMPTY: Self = Self { bytes: &[], spans: &[] };

    /// All fields, in their order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Field<'a>> {
        self.spans.iter().filter_map(move |span| {
            let (name, value) = (part(self.bytes, span.name)?, part(self.bytes, span.value)?);
            Some(Field { name, value, known: span.known })
        })
    }

    /// The values of the fields called `name`, whatever the case.
    pub(crate) fn named<'n>(self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        // Most have another length, which is seen without looking at the bytes.
        let spans = self.spans.iter().filter(move |span| span.name.1 as usize == name.len());
        spans.filter_map(move |span| {
            let is_it = part(self.bytes, span.name)?.eq_ignore_ascii_case(name.as_bytes());
            if is_it { std::str::from_utf8(part(self.bytes, span.value)?).ok() } else { None }
        })
    }

    /// The values of the fields of this kind.
    pub(crate) fn of(self, known: Known) -> impl Iterator<Item = &'a [u8]> {
        let spans = self.spans.iter().filter(move |span| span.known == known);
        spans.filter_map(move |span| part(self.bytes, span.value))
    }

    /// The members of the lists that the fields of this kind are.
    pub(crate) fn tokens(self, known: Known) -> impl Iterator<Item = &'a [u8]> {
        let members = self.of(known).flat_map(|value| value.split(|&byte| byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
    }

    /// Whether `token` is among them.
    pub(crate) fn has_token(self, known: Known, token: &str) -> bool {
        self.tokens(known).any(|sent| sent.eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl<'a> Field<'a> {
    /// Whether it has this name, whatever the case.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name.len() == name.len() && self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Its value, if it is UTF-8: of requests, all are.
    pub(crate) fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value).ok()
    }
}

/// The bytes at a place.
pub(crate) fn part(bytes: &[u8], (start, length): (u32, u32)) -> Option<&[u8]> {
    bytes.get(start as usize..)?.get(..length as usize)
}

fn known(name: &[u8]) -> Known {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 if is("te") => Known::Te,
        4 if is("host") => Known::Host,
        6 if is("expect") => Known::Expect,
        7 if is("upgrade") => Known::Upgrade,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::Hop,
        11 if is("traceparent") => Known::Traceparent,
        12 if is("x-request-id") => Known::RequestId,
        14 if is("content-length") => Known::ContentLength,
        15 if is("x-forwarded-for") => Known::ForwardedFor,
        16 if is("x-forwarded-host") => Known::ForwardedHost,
        16 if is("proxy-connection") => Known::Hop,
        17 if is("transfer-encoding") => Known::TransferEncoding,
        17 if is("x-forwarded-proto") => Known::ForwardedProto,
        18 if is("proxy-authenticate") => Known::Hop,
        19 if is("proxy-authorization") => Known::Hop,
        23 if is("x-forwarded-client-cert") => Known::ClientCert,
        25 if is("proxy-authentication-info") => Known::Hop,
        11.. if name.get(..11).is_some_and(|begin| begin.eq_ignore_ascii_case(b"x-tidegate-")) => Known::Own,
        _ => Known::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_their_case() {
        let head = Head::of(&[
            ("X-User", "a"),
            ("CONNECTION", "close, X-User ,,"),
            ("x-user", "zoë"),
            ("X-Tidegate-Anything", "1"),
            ("x-tidegate", "2"),
        ]);
        let fields = head.fields();
        assert_eq!(fields.named("x-user").collect::<Vec<_>>(), ["a", "zoë"]);
        assert_eq!(fields.tokens(Known::Connection).collect::<Vec<_>>(), [b"close".as_slice(), b"X-User"]);
        assert!(fields.has_token(Known::Connection, "x-user") && !fields.has_token(Known::Te, "x-user"));
        let known: Vec<_> = fields.iter().map(|field| field.known).collect();
        assert_eq!(known, [Known::Other, Known::Connection, Known::Other, Known::Own, Known::Other]);
    }
}
