use proptest::prelude::*;
use proxy_header::ProxiedAddress;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(rest: &[u8]) -> Vec<u8> {
    [V2, rest].concat()
}

/// What is made of `bytes`: the caller and the header's length, `more` to come, or why not.
fn made_of(bytes: &[u8]) -> String {
    match parse(bytes) {
        Ok(Some((Some(caller), length))) => format!("{caller} {length}"),
        Ok(Some((None, length))) => format!("sender {length}"),
        Ok(None) => "more".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn headers_of_both_versions_are_read() {
    let text = |text: &str| text.as_bytes().to_vec();
    let v4 = [&[0x21, 0x11, 0, 12][..], &[192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80]].concat();
    let extended = [&[0x21, 0x11, 0, 16][..], &v4[4..], &[4, 0, 1, 0]].concat();
    let mut v6 = vec![0x21, 0x21, 0, 36];
    v6.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    v6.extend([0; 16]);
    v6.extend([0x30, 0x39, 0, 80]);
    let malformed = "it does not begin with a header of the PROXY protocol";
    for (bytes, expected) in [
        (text("PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\nGET / HTTP/1.1\r\n"), "192.0.2.1:12345 40"),
        (text("PROXY TCP6 2001:db8::1 ::1 12345 80\r\n"), "[2001:db8::1]:12345 37"),
        (text("PROXY TCP6 ::ffff:192.0.2.1 ::1 12345 80\r\n"), "192.0.2.1:12345 42"),
        (text("PROXY UNKNOWN\r\n"), "sender 15"),
        (text("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), "sender 35"),
        (text(""), "more"),
        (text("PROXY TCP4 192.0.2.1 10.0"), "more"),
        (text("PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r"), "more"),
        (text("PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\n\r"), malformed),
        (text("PROXY TCP4 192.0.2 10.0.0.1 12345 80\r\n"), malformed),
        (text("PROXY TCP4 192.0.2.1 10.0.0.1 65536 80\r\n"), malformed),
        (text("PROXY TCP5 192.0.2.1 10.0.0.1 12345 80\r\n"), malformed),
        (text("proxy TCP4 192.0.2.1 10.0.0.1 12345 80\r\n"), malformed),
        (text("GET / HTTP/1.1\r\n\r\n"), malformed),
        (format!("PROXY UNKNOWN {}", "x".repeat(107)).into_bytes(), malformed),
        (format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes(), malformed),
        (format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).into_bytes(), "sender 107"),
        (text("G"), malformed),
        (v2(&v4), "192.0.2.1:12345 28"),
        (v2(&extended), "192.0.2.1:12345 32"),
        (v2(&v6), "[2001:db8::1]:12345 52"),
        (v2(&[0x20, 0, 0, 0]), "sender 16"),
        (v2(&v4[..9]), "more"),
        (V2[..5].to_vec(), "more"),
        (v2(&[0x11, 0x11, 0, 0]), malformed),
        (v2(&[0x22, 0x11, 0, 0]), malformed),
        (v2(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]), malformed),
    ] {
        assert_eq!(made_of(&bytes), expected, "{:?}", String::from_utf8_lossy(&bytes));
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(start in 0..4usize, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let start = [&b""[..], b"PROXY TCP4 ", V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"][start];
        let bytes = [start, &bytes].concat();
        if let Ok(Some((_, length))) = parse(&bytes) {
            prop_assert!(length <= bytes.len() && length >= 15);
        }
    }

    #[test]
    fn what_is_written_is_read_and_only_when_it_is_whole(
        v4 in any::<bool>(), source: (u128, u16), destination: (u128, u16), text: bool, more in "[a-z]{0,8}"
    ) {
        let address = |(ip, port): (u128, u16)| {
            // A mapped address would be read as the IPv4 one that it is.
            let ip = if v4 { IpAddr::V4(u32::try_from(ip & 0xffff_ffff).unwrap().into()) } else { IpAddr::V6((ip | 1 << 127).into()) };
            SocketAddr::new(ip, port)
        };
        let header = ProxyHeader::with_address(ProxiedAddress::stream(address(source), address(destination)));
        let mut bytes = [0; 128];
        let length =
            if text { header.encode_to_slice_v1(&mut bytes) } else { header.encode_to_slice_v2(&mut bytes) }.unwrap();
        for cut in 0..length {
            prop_assert_eq!(made_of(&bytes[..cut]), "more");
        }
        let sent = [&bytes[..length], more.as_bytes()].concat();
        prop_assert_eq!(made_of(&sent), format!("{} {length}", address(source)));
    }
}

/// Two ends of a connection: the load balancer's and ours.
async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (far, address) = far.unwrap();
    (near.unwrap(), far, address)
}

fn from(network: &str) -> ProxyProtocol {
    ProxyProtocol { from: vec![network.parse().unwrap()] }
}

#[tokio::test]
async fn the_header_is_taken_and_nothing_more_even_in_pieces() {
    let (mut balancer, mut here, address) = pair().await;
    balancer.set_nodelay(true).unwrap();
    let send = async {
        for piece in ["PROXY TCP4 192.0", ".2.1 10.0.0.1 12345 80\r", "\nGET / HTTP/1.1\r\n"] {
            balancer.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let loopback = from("127.0.0.0/8");
    let (caller, ()) = tokio::join!(loopback.caller(&mut here, address), send);
    assert_eq!(caller.unwrap().to_string(), "192.0.2.1:12345");
    let mut after = [0; 16];
    here.read_exact(&mut after).await.unwrap();
    assert_eq!(&after, b"GET / HTTP/1.1\r\n");
}

#[tokio::test]
async fn who_is_not_believed_or_says_nothing_is_not_served() {
    let (mut balancer, mut here, address) = pair().await;
    balancer.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    let stranger = from("10.0.0.0/8").caller(&mut here, address).await;
    assert!(matches!(stranger, Err(HeaderError::Stranger)));
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), address.port());
    assert_eq!(from("127.0.0.0/8").caller(&mut here, mapped).await.unwrap(), mapped, "its own connection");

    let (balancer, mut here, address) = pair().await;
    drop(balancer);
    let ended = from("127.0.0.0/8").caller(&mut here, address).await;
    assert!(matches!(ended, Err(HeaderError::Io(_))));

    let (mut balancer, mut here, address) = pair().await;
    balancer.write_all(&v2(&[0x21, 0x11, 0xff, 0xff])).await.unwrap();
    balancer.write_all(&[0; HEADER_MAX]).await.unwrap();
    let long = from("127.0.0.0/8").caller(&mut here, address).await;
    assert!(matches!(long, Err(HeaderError::TooLong)));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let (_balancer, mut here, address) = pair().await;
    let silent = from("127.0.0.0/8").caller(&mut here, address).await;
    assert!(matches!(silent, Err(HeaderError::Timeout)));
}
