//! Callers that speak HTTP/2 badly, or mean ill: frame by frame.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http1::{ingress, scripted};
use super::http2::{Caller, request, whole};
use super::http2_upstream::{Upstream, drive, shop, stream};
use super::setting::*;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET http://shop/`, in HPACK.
pub(super) const GET: &[u8] = b"\x82\x86\x84\x41\x04shop";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not in HPACK's table.
pub(super) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name, &[length(value)], value].concat()
}

/// A head that takes a few thousand bytes, after `begin`, and has many millions: a long field, which the table is told of
/// once and then named again and again.
pub(super) fn bomb(begin: &[u8]) -> Vec<u8> {
    let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e], [b'y'; 4000].as_slice()].concat();
    [begin, &long, &[0xbe; 12_000]].concat()
}

/// A caller that sends what it likes.
pub(super) struct Peer(pub(super) TcpStream);

pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// What a RST_STREAM or a GOAWAY tells.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl Peer {
    pub(super) async fn open(address: SocketAddr) -> Self {
        let mut peer = Self(TcpStream::connect(address).await.unwrap());
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        peer.send(&frame(SETTINGS, 0, 0, &[])).await;
        peer
    }

    /// What does not take it any longer says so by what it sent before.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes).await);
    }

    /// The next frame; none at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut header = [0; 9];
            self.0.read_exact(&mut header).await.ok()?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind: header[3], flags: header[4], payload })
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the other side is silent")
    }

    /// The next frame that is one of `kinds`; none at the end of the connection.
    pub(super) async fn until(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// Whether the other side ends the connection, whatever it says before.
    pub(super) async fn is_closed(&mut self) -> bool {
        while self.next().await.is_some() {}
        true
    }
}

/// Time passes, and nothing else.
pub(super) async fn skip(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

#[tokio::test]
async fn heads_that_no_reader_takes_do_not_pass() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let fields: [(&[u8], &[u8]); 11] = [
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"keep-alive", b"x"),
        (b"proxy-connection", b"x"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"X-Upper", b"x"),
        (b"a:b", b"x"),
        (b"a b", b"x"),
        (b"x", b"a\r\nb: c"),
        (b":path", b"/other"),
    ];
    for (name, value) in fields {
        let mut peer = Peer::open(ingress(&proxy)).await;
        let head = [GET, &literal(name, value)].concat();
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
        let told = peer.until(&[RST_STREAM, GOAWAY, HEADERS]).await.unwrap();
        let shown = String::from_utf8_lossy(name);
        assert_ne!(told.kind, HEADERS, "{shown}");
        assert_eq!(told.code(), PROTOCOL_ERROR, "{shown}");
    }
    assert_eq!(application.count(), 0);
}

#[tokio::test]
async fn what_a_caller_may_do_is_told_and_held_to() {
    let setting = Setting::new().await;
    let (_upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut peer = Peer::open(ingress(&proxy)).await;
    let settings = peer.until(&[SETTINGS]).await.unwrap();
    let told: Vec<_> = settings
        .payload
        .chunks(6)
        .map(|one| (one[1], u32::from_be_bytes(one[2..].try_into().unwrap())))
        .collect();
    for expected in [(3, 100), (4, 64 * 1024), (5, 16 * 1024), (6, 72 * 1024)] {
        assert!(told.contains(&expected), "{expected:?} is not among {told:?}");
    }
    // Streams: as many as may be, and one more.
    for stream in 0..101 {
        peer.send(&frame(HEADERS, END_HEADERS, 2 * stream + 1, GET)).await;
    }
    assert_eq!(peer.until(&[RST_STREAM, GOAWAY]).await.unwrap().code(), REFUSED_STREAM);
    // A frame.
    let mut peer = Peer::open(ingress(&proxy)).await;
    peer.send(&frame(HEADERS, END_HEADERS, 1, GET)).await;
    peer.send(&frame(DATA, 0, 1, &[0; 16 * 1024 + 1])).await;
    assert_eq!(peer.until(&[GOAWAY]).await.unwrap().code(), FRAME_SIZE_ERROR);
}

#[tokio::test]
async fn floods_end_the_connection() {
    let setting = Setting::new().await;
    let (_upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let many = |frame: Vec<u8>| frame.repeat(1100);
    let open = frame(HEADERS, END_HEADERS, 1, GET);
    let table = [
        ("pings", many(frame(PING, 0, 0, &[0; 8]))),
        ("settings", many(frame(SETTINGS, 0, 0, &[]))),
        ("priorities", many(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]))),
        ("windows", [open.clone(), many(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))].concat()),
        ("empty data", [open.clone(), many(frame(DATA, 0, 1, &[]))].concat()),
        ("unknown frames", many(frame(77, 0, 0, &[]))),
        (
            "head without end",
            [frame(HEADERS, 0, 1, GET), many(frame(CONTINUATION, 0, 1, &literal(b"a", b"b")))].concat(),
        ),
        (
            "empty head without end",
            [frame(HEADERS, 0, 1, GET), many(frame(CONTINUATION, 0, 1, &[]))].concat(),
        ),
    ];
    for (name, flood) in table {
        let mut peer = Peer::open(ingress(&proxy)).await;
        // The end of a connection with bytes unread may be a reset, and what was told before may be lost.
        peer.send(&flood).await;
        assert!(peer.is_closed().await, "{name}");
    }
    // Others are served meanwhile.
    assert!(proxy.metrics.render().contains("tidegate_open_connections"));
}

#[tokio::test]
async fn streams_that_are_reset_as_they_open_end_the_connection() {
    let setting = Setting::new().await;
    let (_upstream, address) = scripted().await;
    let proxy = setting.proxy("shop", address).await;
    let mut peer = Peer::open(ingress(&proxy)).await;
    let mut rapid = Vec::new();
    for stream in 0..1000 {
        rapid.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, GET));
        rapid.extend(frame(RST_STREAM, 0, 2 * stream + 1, &[0, 0, 0, 8]));
    }
    peer.send(&rapid).await;
    assert_eq!(peer.until(&[GOAWAY]).await.unwrap().code(), ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn a_connection_ends_when_nothing_is_asked_of_it() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    // A preface without end.
    let mut wire = Wire::open(ingress(&proxy)).await;
    wire.write("PRI * HTTP/2.0\r\n\r\n").await;
    // The proxy has read it once it answers with its settings.
    let mut settings = [0; 9];
    wire.read(&mut settings).await;
    skip(Duration::from_secs(11)).await;
    let mut rest = Vec::new();
    wire.read_to_end(&mut rest).await;
    // A connection without streams.
    let mut peer = Peer::open(ingress(&proxy)).await;
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)).await;
    while peer.until(&[HEADERS, DATA]).await.unwrap().flags & END_STREAM == 0 {}
    skip(Duration::from_secs(76)).await;
    assert_eq!(peer.until(&[GOAWAY]).await.unwrap().code(), 0);
    skip(Duration::from_secs(2)).await;
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn a_stream_on_which_nothing_moves_is_given_up() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (response, _body) = caller.open(request("POST", "http://shop/")).await;
    let mut connection = upstream.connection().await;
    let (_received, mut respond) = stream(&mut connection).await;
    let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
    drive(connection);
    let mut response = response.await.unwrap();
    // Longer than the service's timeout, which is for the head of the response: what comes then still passes.
    skip(Duration::from_secs(200)).await;
    answer.send_data("late".into(), false).unwrap();
    assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "late");
    for _ in 0..2 {
        skip(Duration::from_secs(301)).await;
        tokio::task::yield_now().await;
    }
    let error = response.body_mut().data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
    let reset = std::future::poll_fn(|cx| answer.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, h2::Reason::CANCEL);
}

#[tokio::test]
async fn a_proxy_that_stops_says_so_and_finishes_what_it_has() {
    let setting = Setting::new().await;
    let (upstream, address) = Upstream::start().await;
    let proxy = shop(&setting, address).await;
    let mut caller = Caller::connect(ingress(&proxy)).await;
    let (response, mut body) = caller.open(request("POST", "http://shop/")).await;
    let mut connection = upstream.connection().await;
    let (_received, mut respond) = stream(&mut connection).await;
    drive(connection);
    proxy.lifecycle.stop();
    // No new streams once the caller has heard of it.
    while std::future::poll_fn(|cx| caller.0.poll_ready(cx)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    body.send_data("rest".into(), true).unwrap();
    respond.send_response(http::Response::new(()), true).unwrap();
    assert_eq!(whole(response.await.unwrap()).await.status, 200);
    assert!(proxy.lifecycle.drain(Duration::from_secs(20)).await);
}
