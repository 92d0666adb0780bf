//! The request as it goes on: its one form, on which policies decide and which the next hop gets.
//!
//! It is written first and decided on afterwards, so that nothing can come between the two.

use std::borrow::Cow;
use std::net::IpAddr;

use super::buffer::Buffer;
use super::request_head::RequestHead;
use crate::fields::{Field, Fields, Head, Known, part};
use crate::framing::{self, BodyLength};
use crate::ids;
use crate::introduction::{self, Introduction, Named};
use crate::jwt::KeptBack;
use crate::respond::Refusal;
use model::path::{self, Query, Slashes};

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
    client: Option<IpAddr>,
}

impl Forward {
    /// The form in which `request` goes on, without the tokens that are `kept` from the next hop. What becomes of
    /// repeated `slashes` is for the service to say that it goes to.
    pub(crate) fn of(
        request: &RequestHead,
        introduction: &Introduction,
        kept: &KeptBack,
        slashes: Slashes,
    ) -> Result<Self, Refusal> {
        let target = request.target()?;
        // A target in absolute form may have no path, and means the root then (RFC 9110 4.2.3).
        let path = if target.path.is_empty() {
            Cow::Borrowed("/")
        } else {
            path::normalise_with(target.path, slashes)?
        };
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
        let named = introduction.named(request.fields());
        writer.introduce(request.fields(), request.authority(&target), introduction, named);
        let (request_id, trace_id) = writer.identify();
        writer.frame(request);
        let client = named.map(|named| named.client);
        Ok(Self { head: writer.0, method, path, query, authority, request_id, trace_id, client })
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

    /// The caller, where it is not who sits at the other end of the connection.
    pub(crate) const fn client(&self) -> Option<IpAddr> {
        self.client
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
                Known::ForwardedFor => matches!(introduction, Introduction::Nothing { .. }),
                Known::ClientCert => {
                    matches!(introduction, Introduction::Nothing { passes_client_cert: true })
                }
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
    fn introduce(
        &mut self,
        fields: Fields<'_>,
        host: &str,
        introduction: &Introduction,
        named: Option<Named<'_>>,
    ) {
        match introduction {
            Introduction::Nothing { .. } => {}
            Introduction::Outside { address, .. } => {
                let hops = named.into_iter().flat_map(|named| named.hops(fields));
                self.list("x-forwarded-for", hops, &address.to_string());
                let (proto, asked) = named.map_or((None, None), |named| (named.proto, named.host));
                self.field("x-forwarded-proto", proto.unwrap_or(b"http"));
                self.field("x-forwarded-host", asked.unwrap_or(host.as_bytes()));
            }
            Introduction::Mesh { address, client_cert, appends_client_cert } => {
                self.list("x-forwarded-for", fields.tokens(Known::ForwardedFor), &address.to_string());
                if fields.of(Known::ForwardedProto).next().is_none() {
                    self.field("x-forwarded-proto", b"https");
                }
                if fields.of(Known::ForwardedHost).next().is_none() {
                    self.field("x-forwarded-host", host.as_bytes());
                }
                let earlier =
                    if *appends_client_cert { introduction::earlier_certs(fields) } else { Vec::new() };
                self.list("x-forwarded-client-cert", earlier.into_iter(), client_cert);
            }
        }
    }

    /// A field that is a list, whose last member is ours.
    fn list<'f>(&mut self, name: &str, earlier: impl Iterator<Item = &'f [u8]>, last: &str) {
        let name = self.text(name);
        self.text(": ");
        let start = self.0.bytes().len();
        for member in earlier {
            self.raw(member);
            self.text(", ");
        }
        self.text(last);
        let end = self.0.bytes().len();
        self.text("\r\n");
        self.0.push(name, super::at(start, end.saturating_sub(start)));
    }

    /// Where the request's ids lie; those that were not passed on are made up.
    fn identify(&mut self) -> ((u32, u32), (u32, u32)) {
        let request_id = match self.0.place_of(Known::RequestId) {
            Some(place) => place,
            None => self.field("x-request-id", &ids::new_request_id()),
        };
        let traceparent = match self.0.place_of(Known::Traceparent) {
            Some(place) => place,
            None => self.field("traceparent", &ids::new_traceparent()),
        };
        // After the version and a hyphen.
        let trace_id = (traceparent.0.saturating_add(3), 32);
        (request_id, trace_id)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::HeadMax;

    fn forward(lines: &str, introduction: &Introduction) -> Result<Forward, String> {
        let mut bytes = Buffer::default();
        bytes.extend(lines.as_bytes());
        let request =
            RequestHead::read(bytes, HeadMax::OF_OTHERS).map_err(|malformed| malformed.to_string())?;
        Forward::of(&request, introduction, &KeptBack::nothing(), Slashes::Kept)
            .map_err(|refusal| refusal.to_string())
    }

    /// The lines that go on, without ids.
    fn lines(head: &str, introduction: &Introduction) -> Vec<String> {
        let forward = forward(head, introduction).unwrap();
        let text = std::str::from_utf8(forward.bytes()).unwrap().trim_end().to_owned();
        let is_id = |line: &&str| line.starts_with("x-request-id: ") || line.starts_with("traceparent: ");
        text.split("\r\n").filter(|line| !is_id(line)).map(str::to_owned).collect()
    }

    const NOTHING: Introduction = Introduction::Nothing { passes_client_cert: false };
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    fn outside(trusted_hops: usize) -> Introduction {
        Introduction::Outside { address: PEER, trusted_hops }
    }

    fn mesh(appends_client_cert: bool) -> Introduction {
        let client_cert = "By=spiffe://a/me;URI=spiffe://a/you".to_owned();
        Introduction::Mesh { address: PEER, client_cert, appends_client_cert }
    }

    #[test]
    fn fields_of_one_hop_end_here() {
        let table: &[(&str, &[&str])] = &[
            ("Connection: close\r\nA: b\r\n", &["A: b"]),
            ("Connection: x-one, X-Two\r\nconnection: x-3\r\nx-one: 1\r\nX-two: 2\r\nX-3: 3\r\n", &[]),
            // What frames the message or names its target is never one hop's own affair.
            ("Connection: host, content-length\r\nContent-Length: 0\r\n", &["content-length: 0"]),
            ("Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\n", &[]),
            ("TE: gzip, trailers\r\n", &["te: trailers"]),
            ("TE: gzip\r\n", &[]),
            ("Transfer-Encoding: chunked\r\nTrailer: x\r\n", &["Trailer: x", "transfer-encoding: chunked"]),
            ("Upgrade: websocket\r\nExpect: 100-continue\r\n", &[]),
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n", &["connection: upgrade", "upgrade: websocket"]),
            ("X-Tidegate-Policy: a\r\nx-forwarded-client-cert: URI=c\r\nx-tide: d\r\n", &["x-tide: d"]),
        ];
        for (sent, expected) in table {
            let head = format!("POST / HTTP/1.1\r\nHost: shop\r\n{sent}\r\n");
            let passed = lines(&head, &NOTHING);
            assert_eq!(passed, [&["POST / HTTP/1.1", "host: shop"], *expected].concat(), "{sent:?}");
        }
    }

    #[test]
    fn hops_are_replaced_at_the_edge_and_appended_in_the_mesh() {
        let sent = "GET http://Shop:80?a=b HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: evil\r\n\r\n";
        let line = ["GET /?a=b HTTP/1.1", "host: Shop:80"];
        let edge = ["x-forwarded-for: 10.0.0.9", "x-forwarded-proto: http", "x-forwarded-host: Shop:80"];
        assert_eq!(lines(sent, &outside(0)), [line.as_slice(), &edge].concat());
        let hop = [
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: evil",
            "x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.9",
            "x-forwarded-client-cert: By=spiffe://a/me;URI=spiffe://a/you",
        ];
        assert_eq!(lines(sent, &mesh(false)), [line.as_slice(), &hop].concat());
        let first = [
            "GET / HTTP/1.1",
            "host: shop",
            "x-forwarded-for: 10.0.0.9",
            "x-forwarded-proto: https",
            "x-forwarded-host: shop",
            "x-forwarded-client-cert: By=spiffe://a/me;URI=spiffe://a/you",
        ];
        assert_eq!(lines("GET / HTTP/1.1\r\nHost: shop\r\n\r\n", &mesh(false)), first);
    }

    #[test]
    fn proxies_of_ours_are_believed_as_far_as_they_reach() {
        let sent = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 6.6.6.6, 1.1.1.1, 2.2.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n\r\n";
        let line = ["GET / HTTP/1.1", "host: shop"];
        let believed = [
            "x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.9",
            "x-forwarded-proto: https",
            "x-forwarded-host: shop.example",
        ];
        assert_eq!(lines(sent, &outside(2)), [line.as_slice(), &believed].concat());
        let unbelieved = ["x-forwarded-for: 10.0.0.9", "x-forwarded-proto: http", "x-forwarded-host: shop"];
        assert_eq!(lines(sent, &outside(4)), [line.as_slice(), &unbelieved].concat());
        let client = |hops| forward(sent, &outside(hops)).unwrap().client().map(|client| client.to_string());
        assert_eq!([client(0), client(2), client(4)], [None, Some("1.1.1.1".to_owned()), None]);
        let odd = sent.replace("https", "gopher").replace("X-Forwarded-Host", "x-forwarded-proto");
        assert_eq!(lines(&odd, &outside(1))[3..], ["x-forwarded-proto: http", "x-forwarded-host: shop"]);
    }

    #[test]
    fn certificates_are_taken_from_verified_peers_alone() {
        let head =
            |cert: &str| format!("GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Client-Cert: {cert}\r\n\r\n");
        let passed = |cert: &str, introduction: &Introduction| {
            let mut lines = lines(&head(cert), introduction);
            lines.retain(|line| line.to_ascii_lowercase().starts_with("x-forwarded-client-cert: "));
            lines
        };
        let ours = "By=spiffe://a/me;URI=spiffe://a/you";
        let earlier = "By=spiffe://a/you;URI=spiffe://a/edge";
        let none: [&str; 0] = [];
        assert_eq!(passed(earlier, &outside(0)), none);
        assert_eq!(passed(earlier, &outside(1)), none);
        assert_eq!(passed(earlier, &mesh(false)), [format!("x-forwarded-client-cert: {ours}")]);
        assert_eq!(passed(earlier, &mesh(true)), [format!("x-forwarded-client-cert: {earlier}, {ours}")]);
        assert_eq!(passed("Subject=\"", &mesh(true)), [format!("x-forwarded-client-cert: {ours}")]);
        assert_eq!(passed(earlier, &NOTHING), none);
        let told = Introduction::Nothing { passes_client_cert: true };
        assert_eq!(passed(earlier, &told), [format!("X-Forwarded-Client-Cert: {earlier}")]);
    }

    #[test]
    fn ids_are_those_that_go_on() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("X-Request-Id: abc\r\nTraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
        let head = |lines: &str| format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
        let kept = forward(&head(&good), &NOTHING).unwrap();
        assert_eq!((kept.request_id(), kept.trace_id()), ("abc", trace));
        let zeros = format!("traceparent: 00-{}-00f067aa0ba902b7-01\r\n", "0".repeat(32));
        for sent in
            ["", "X-Request-Id: a b\r\n", &zeros, &format!("{good}Connection: x-request-id, traceparent\r\n")]
        {
            let made = forward(&head(sent), &NOTHING).unwrap();
            assert_eq!((made.request_id().len(), made.trace_id().len()), (32, 32), "{sent:?}");
            let text = std::str::from_utf8(made.bytes()).unwrap();
            for told in [
                format!("x-request-id: {}\r\n", made.request_id()),
                format!("traceparent: 00-{}-", made.trace_id()),
            ] {
                assert!(text.contains(&told), "{told} is not in {text}");
            }
        }
    }
}
