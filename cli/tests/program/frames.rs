//! A caller by HTTP/2, frame by frame: so a test says when what is said.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Of SETTINGS and PING: it is an answer. Of HEADERS and DATA: it is the stream's last frame.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, in HPACK.
const IS_200: u8 = 0x88;

/// A caller's connection.
pub(crate) struct Caller(BufReader<TcpStream>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Caller {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        // Only a test that fails waits so long.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut caller = Self(BufReader::new(stream));
        caller.0.get_mut().write_all(PREFACE).unwrap();
        caller.write(SETTINGS, 0, 0, &[]);
        caller
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap();
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.get_mut().write_all(&frame).unwrap();
    }

    /// Asks for `path`, on a stream of its own.
    pub(crate) fn send(&mut self, stream: u32, path: &str) {
        // `:method: GET` and `:scheme: http`; then the names `:path` and `:authority`, each with its value.
        let mut head = vec![0x82, 0x86];
        for (name, value) in [(0x04, path), (0x01, "shop")] {
            head.extend([name, u8::try_from(value.len()).unwrap()]);
            head.extend(value.bytes());
        }
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, &head);
    }

    /// Answers a PING.
    pub(crate) fn pong(&mut self, ping: &Frame) {
        self.write(PING, ACK, 0, &ping.payload);
    }

    /// The next frame that says something; none at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            if let Err(error) = self.0.read_exact(&mut head) {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
                return None;
            }
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let mut payload = vec![0; (number(0) >> 8) as usize];
            self.0.read_exact(&mut payload).unwrap();
            let frame = Frame { kind: head[3], flags: head[4], stream: number(5), payload };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]),
                SETTINGS | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The body of the response, of status 200, that comes next on this stream.
    pub(crate) fn response(&mut self, stream: u32) -> String {
        let head = self.next().unwrap();
        assert_eq!((head.kind, head.stream, head.payload[0]), (HEADERS, stream, IS_200), "{head:?}");
        let mut body = Vec::new();
        loop {
            let data = self.next().unwrap();
            assert_eq!((data.kind, data.stream), (DATA, stream), "{data:?}");
            body.extend(data.payload);
            if data.flags & END_STREAM != 0 {
                return String::from_utf8(body).unwrap();
            }
        }
    }

    /// The last stream that will be served, as the GOAWAY says that comes next. It tells of no error.
    pub(crate) fn goaway(&mut self) -> u32 {
        let frame = self.next().unwrap();
        assert_eq!((frame.kind, &frame.payload[4..]), (GOAWAY, &[0; 4][..]), "{frame:?}");
        u32::from_be_bytes(frame.payload[..4].try_into().unwrap())
    }
}
