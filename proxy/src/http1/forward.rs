//! The request as it goes on: its one form, on which policies decide and which the next hop gets.
//!
//! It is written first and decided on afterwards, so that nothing can come between the two.

use std::borrow::Cow;

use super::buffer::Buffer;
use super::request_head::RequestHead;
use crate::fields::{Field, Fields, Head, Known, part};
use crate::framing::{self, BodyLength};
use crate::ids;
use crate::jwt::KeptBack;
use crate::path::{self, Query};
use crate::respond::Refusal;

/// What the next hop is told of the caller, the same for all requests of a connection.
#[derive(Debug)]
pub(crate) enum Introduction {
    /// Nothing: the caller is our own application.
    Nothing,
    /// A caller from outside the mesh. What it says of earlier hops is not believed.
    Outside {
        /// Its address.
        address: String,
    },
    /// A verified sidecar. Its word of earlier hops stands.
    Mesh {
        /// Its address.
        address: String,
        /// Both identities, in the form of Envoy's `x-forwarded-client-cert`.
        client_cert: String,
    },
}

/// A request in the form in which it is decided on and forwarded.
#[derive(Debug)]
pub(crate) struct Forward {
    head: Head,
    method: (u32, u32),
    path: (u32, u32),
    query: (u32, u32),
    authority: (u32, u32),
    request_id: (u32, u32),
    trace_id: (u32, u32),
}

impl Forward {
    /// The form in which `request` goes on, without the tokens that are `kept` from the next hop.
    pub(crate) fn of(
        request: &RequestHead,
        introduction: &Introduction,
        kept: &KeptBack,
    ) -> Result<Self, Refusal> {
        let target = request.target()?;
        // A target in absolute form may have no path, and means the root then (RFC 9110 4.2.3).
        let path = if target.path.is_empty() { Cow::Borrowed("/") } else { path::normalise(target.path)? };
        Query::new(target.query.unwrap_or_default())?;
        let mut writer = Writer(Head::new(Buffer::default()));
        let method = writer.text(request.method());
        writer.text(" ");
        let path = writer.text(&path);
        let query = match target.query.and_then(|query| kept.query(query)) {
            Some(query) => {
                writer.text("?");
                writer.text(&query)
            }
            None => (0, 0),
        };
        writer.text(" HTTP/1.1\r\n");
        let authority = writer.field("host", request.authority(&target).as_bytes());
        writer.pass(request, introduction, kept);
        writer.introduce(request.fields(), request.authority(&target), introduction);
        let (request_id, trace_id) = writer.identify(request.fields());
        writer.frame(request);
        Ok(Self { head: writer.0, method, path, query, authority, request_id, trace_id })
    }

    /// All of it, as it is sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.head.bytes()
    }

    /// The fields that policies see, and the next hop gets.
    pub(crate) fn fields(&self) -> Fields<'_> {
        self.head.fields()
    }

    /// The method.
    pub(crate) fn method(&self) -> &str {
        self.text(self.method)
    }

    /// The path, in normal form.
    pub(crate) fn path(&self) -> &str {
        self.text(self.path)
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        let (path, query) = (self.path, self.query);
        let end =
            if query == (0, 0) { path.0.saturating_add(path.1) } else { query.0.saturating_add(query.1) };
        self.text((path.0, end.saturating_sub(path.0)))
    }

    /// The query, without its `?`; empty if there is none.
    pub(crate) fn query(&self) -> &str {
        self.text(self.query)
    }

    /// The host asked for, in lower case, without port.
    pub(crate) fn host(&self) -> Cow<'_, str> {
        framing::host_name(self.text(self.authority)).unwrap_or_default()
    }

    /// The value of `x-request-id`.
    pub(crate) fn request_id(&self) -> &str {
        self.text(self.request_id)
    }

    /// The trace id within `traceparent`.
    pub(crate) fn trace_id(&self) -> &str {
        self.text(self.trace_id)
    }

    fn text(&self, place: (u32, u32)) -> &str {
        // All of these are ASCII: they were written from text.
        part(self.head.bytes(), place).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// Writes a head, and notes where its fields lie.
#[derive(Debug)]
struct Writer(Head);

impl Writer {
    fn text(&mut self, text: &str) -> (u32, u32) {
        self.raw(text.as_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> (u32, u32) {
        let out = self.0.vec();
        let start = out.len();
        out.extend_from_slice(bytes);
        super::at(start, bytes.len())
    }

    /// A field that policies see.
    fn field(&mut self, name: &str, value: &[u8]) -> (u32, u32) {
        let name = self.text(name);
        self.text(": ");
        let value = self.raw(value);
        self.text("\r\n");
        self.0.push(name, value);
        value
    }

    /// The fields that concern more than one hop.
    fn pass(&mut self, request: &RequestHead, introduction: &Introduction, kept: &KeptBack) {
        let fields = request.fields();
        let lists_names = fields.tokens(Known::Connection).any(|token| !is_option(token));
        for field in fields.iter() {
            let passes = match field.known {
                Known::Other | Known::RequestId | Known::Traceparent => true,
                Known::ForwardedFor => matches!(introduction, Introduction::Nothing),
                Known::ForwardedProto | Known::ForwardedHost => {
                    !matches!(introduction, Introduction::Outside { .. })
                }
                // The rest is of this hop, or is written anew.
                _ => false,
            };
            if passes
                && !(lists_names && is_listed(fields, &field))
                && !self.is_replaced(&field)
                && let Some(value) = kept.field(&field)
            {
                let name = self.raw(field.name);
                self.text(": ");
                let value = self.raw(&value);
                self.text("\r\n");
                self.0.push(name, value);
            }
        }
        if fields.has_token(Known::Te, "trailers") {
            self.field("te", b"trailers");
        }
    }

    /// Ids that are not well-formed are replaced.
    fn is_replaced(&self, field: &Field<'_>) -> bool {
        match field.known {
            Known::RequestId => !field.text().is_some_and(ids::is_request_id),
            Known::Traceparent => field.text().and_then(ids::trace_id).is_none(),
            _ => false,
        }
    }

    /// Tells the next hop who calls, and through whom.
    fn introduce(&mut self, fields: Fields<'_>, host: &str, introduction: &Introduction) {
        match introduction {
            Introduction::Nothing => {}
            Introduction::Outside { address } => {
                self.field("x-forwarded-for", address.as_bytes());
                self.field("x-forwarded-proto", b"http");
                self.field("x-forwarded-host", host.as_bytes());
            }
            Introduction::Mesh { address, client_cert } => {
                let name = self.text("x-forwarded-for");
                self.text(": ");
                let start = self.0.bytes().len();
                for hop in fields.tokens(Known::ForwardedFor) {
                    self.raw(hop);
                    self.text(", ");
                }
                self.text(address);
                let end = self.0.bytes().len();
                self.text("\r\n");
                self.0.push(name, super::at(start, end.saturating_sub(start)));
                if fields.of(Known::ForwardedProto).next().is_none() {
                    self.field("x-forwarded-proto", b"https");
                }
                if fields.of(Known::ForwardedHost).next().is_none() {
                    self.field("x-forwarded-host", host.as_bytes());
                }
                self.field("x-forwarded-client-cert", client_cert.as_bytes());
            }
        }
    }

    /// Where the request's ids lie; those that are missing are made up.
    fn identify(&mut self, sent: Fields<'_>) -> ((u32, u32), (u32, u32)) {
        let text = |known| sent.of(known).next().and_then(|value| std::str::from_utf8(value).ok());
        let has_request_id = text(Known::RequestId).is_some_and(ids::is_request_id);
        let has_trace = text(Known::Traceparent).and_then(ids::trace_id).is_some();
        let request_id = if has_request_id {
            self.written(Known::RequestId)
        } else {
            self.field("x-request-id", &ids::new_request_id())
        };
        let traceparent = if has_trace {
            self.written(Known::Traceparent)
        } else {
            self.field("traceparent", &ids::new_traceparent())
        };
        // After the version and a hyphen.
        let trace_id = (traceparent.0.saturating_add(3), 32);
        (request_id, trace_id)
    }

    /// The value of the first field of this kind that was passed on.
    fn written(&self, known: Known) -> (u32, u32) {
        self.0.place_of(known).unwrap_or_default()
    }

    /// What concerns the next hop only: how the body is framed, and the upgrade that is asked for.
    fn frame(&mut self, request: &RequestHead) {
        match request.body {
            BodyLength::Exactly(length) => {
                if length > 0 || request.fields().of(Known::ContentLength).next().is_some() {
                    self.field("content-length", length.to_string().as_bytes());
                }
            }
            BodyLength::Chunked => {
                self.text("transfer-encoding: chunked\r\n");
            }
        }
        if let Some(protocol) = request.upgrade() {
            self.text("connection: upgrade\r\n");
            self.field("upgrade", protocol.as_bytes());
        }
        self.text("\r\n");
    }
}

/// Whether a token of `Connection` is no field's name.
fn is_option(token: &[u8]) -> bool {
    ["close", "keep-alive", "upgrade", "te"]
        .iter()
        .any(|option| token.eq_ignore_ascii_case(option.as_bytes()))
}

/// Whether `Connection` lists a field as one of its hop.
fn is_listed(fields: Fields<'_>, field: &Field<'_>) -> bool {
    fields.tokens(Known::Connection).any(|token| token.eq_ignore_ascii_case(field.name))
}
