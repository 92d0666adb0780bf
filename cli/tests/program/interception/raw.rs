//! Raw connections that the kernel redirects, to a database of the mesh.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{CALLS_OUT, CART, DB, Family, LETS_IN, World};

/// An ordinary user, and the one that sidecars run as.
const USER: u32 = 20001;
const ROOT: u32 = 0;

const GREETING: [u8; 4] = *b"hi\0\n";
/// Nothing that HTTP could begin with.
const WORD: [u8; 3] = *b"\0\xff\n";

/// A database that speaks first, then sends back what it hears: how many have connected.
fn serve(world: &World) -> Arc<AtomicUsize> {
    let listener = world.network.within(DB, ROOT, || TcpListener::bind("127.0.0.1:5432").unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let connected = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            connected.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let _greeted = stream.write_all(&GREETING);
                let _ended = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
                let _ended = stream.shutdown(Shutdown::Write);
            });
        }
    });
    count
}

/// A connection of `user` to a port of the database's host, without a word about a sidecar.
fn connect(world: &World, user: u32, port: u16) -> TcpStream {
    let address = format!("{}:{port}", world.family.of(DB));
    let stream = world.network.within(CART, user, || TcpStream::connect(address).unwrap());
    // Only a test that fails waits so long.
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Waits to be greeted, then says a word and hears it.
fn talk(stream: &mut TcpStream) {
    let (mut greeting, mut word) = ([0; GREETING.len()], [0; WORD.len()]);
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&WORD).unwrap();
    stream.read_exact(&mut word).unwrap();
    assert_eq!((greeting, word), (GREETING, WORD));
}

/// What is heard until the connection has ended, in whichever way.
fn rest(mut stream: TcpStream) -> String {
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8(heard).unwrap()
}

fn a_database_needs_no_local_address(family: Family, test: &str) {
    let Some(mut world) = World::start(family, test) else { return };
    let connected = serve(&world);
    world.install(DB, LETS_IN);
    world.start_proxy(DB, "db", "v1", 15001, "ports: [5432]");
    world.install(CART, CALLS_OUT);

    let mut stream = connect(&world, USER, 5432);
    talk(&mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(stream), "");
    let at = format!("{}:5432", family.of(DB));
    let called = json!({
        "direction": "outbound", "complete": true, "upstream_address": at, "request_bytes": 3, "response_bytes": 7,
    });
    assert_tells(&world.access_log("cart-v1", 1)[0], &called);
    let decided = json!({
        "direction": "inbound", "tls": "mutual", "complete": true, "verdict": "allow", "reasons": ["cart-stores"],
        "upstream_address": "127.0.0.1:5432", "request_bytes": 3, "response_bytes": 7,
    });
    assert_tells(&world.access_log("db-v1", 1)[0], &decided);

    // Who is not redirected has no identity, and hears an alert of TLS; a port that no instance has is none of the mesh.
    for (user, port, answer) in [(ROOT, 5432, "\u{15}\u{3}"), (USER, 5433, "HTTP/1.1 400 ")] {
        let mut stream = connect(&world, user, port);
        stream.write_all(&WORD).unwrap();
        let heard = rest(stream);
        assert!(heard.starts_with(answer), "{port}: {heard:?}");
    }
    assert_eq!(connected.load(Ordering::Relaxed), 1);

    // A sidecar whose application may call anything still takes this for a service of the mesh. What policies no longer
    // let in ends.
    world.install(CART, "--uid 0 --outbound 15011");
    let mut stream = connect(&world, USER, 5432);
    talk(&mut stream);
    world.write("bundle/acl.cedar", "");
    assert_eq!(rest(stream), "");
    let revoked = json!({"error": "revoked", "verdict": "deny", "complete": false});
    assert_tells(&world.access_log("db-v1", 2)[1], &revoked);
    assert_eq!(rest(connect(&world, USER, 5432)), "");
    let denied = json!({"error": "denied", "verdict": "deny", "request_bytes": 0, "response_bytes": 0});
    assert_tells(&world.access_log("db-v1", 3)[2], &denied);
    for line in world.access_log("cart-v2", 2) {
        assert_tells(&line, &json!({"direction": "outbound", "complete": false, "upstream_address": at}));
    }
    assert_eq!(connected.load(Ordering::Relaxed), 2, "what was denied did not reach it");
}

/// That a line of an access log is on a connection of `cart` to the database, and says all of `wanted`.
fn assert_tells(line: &Value, wanted: &Value) {
    let cart = "spiffe://shop.example/ns/shop/sa/cart";
    let always = json!({"action": "tcp", "service": "db", "principal": cart});
    for (name, value) in always.as_object().unwrap().iter().chain(wanted.as_object().unwrap()) {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
    assert!(line.get("path").is_none() && line.get("status").is_none(), "{line}");
}

#[test]
fn a_database_needs_no_local_address_over_ipv4() {
    a_database_needs_no_local_address(Family::V4, "a_database_needs_no_local_address_over_ipv4");
}

#[test]
fn a_database_needs_no_local_address_over_ipv6() {
    a_database_needs_no_local_address(Family::V6, "a_database_needs_no_local_address_over_ipv6");
}
