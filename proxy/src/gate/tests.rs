use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// What hyper would read when a client sends `parts` and then ends, or how reading failed.
async fn through(parts: &[&[u8]]) -> (Vec<u8>, Option<io::ErrorKind>, Refused) {
    let (mut client, server) = tokio::io::duplex(64);
    let refused = Refused::default();
    let mut gate = Gate::new(server, refused.clone());
    let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
    let sender = tokio::spawn(async move {
        for part in parts {
            if client.write_all(&part).await.is_err() {
                return;
            }
        }
    });
    let mut seen = Vec::new();
    let mut bytes = [0; 16];
    let error = loop {
        if refused.0.get().is_some() && gate.passed.is_empty() {
            break None;
        }
        match gate.read(&mut bytes).await {
            Ok(0) => break None,
            Ok(count) => seen.extend_from_slice(&bytes[..count]),
            Err(error) => break Some(error.kind()),
        }
    };
    drop(gate);
    sender.await.unwrap();
    (seen, error, refused)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nHost: ";
const CHUNKED: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
const BAD: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

#[tokio::test]
async fn good_requests_pass_unchanged_however_they_arrive() {
    let all = [GET, POST, GET, CHUNKED, CHUNKED, POST, GET].concat();
    for size in [1, 7, 64, all.len()] {
        let parts: Vec<&[u8]> = all.chunks(size).collect();
        let (seen, error, refused) = through(&parts).await;
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&all));
        assert_eq!((error, refused.0.get()), (None, None));
    }
}

#[tokio::test]
async fn nothing_after_a_bad_head_passes() {
    let (seen, _, refused) =
        through(&[GET, CHUNKED, BAD, GET, GET].concat().chunks(9).collect::<Vec<_>>()).await;
    assert_eq!(seen, [GET, CHUNKED, STAND_IN].concat());
    assert_eq!(refused.at(2), Some(Malformed::TwoLengths));
    assert_eq!((refused.at(0), refused.at(1), refused.at(3)), (None, None, None));
    let (seen, _, _) = through(&[b"HEAD / HTTP/1.1\r\n\r\n"]).await;
    assert_eq!(seen, HEAD_STAND_IN);
}

#[tokio::test]
async fn broken_chunks_break_the_connection() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (seen, error, _) = through(&[head, b"3\nabc"]).await;
    assert_eq!((seen, error), (head.to_vec(), Some(io::ErrorKind::InvalidData)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_refused_but_an_idle_connection_is_not() {
    let (mut client, server) = tokio::io::duplex(64);
    let refused = Refused::default();
    let mut gate = Gate::new(server, refused.clone());
    let mut bytes = [0; 64];
    let idle = tokio::time::timeout(10 * HEAD_TIMEOUT, gate.read(&mut bytes)).await;
    assert!(idle.is_err());
    client.write_all(b"GET / HT").await.unwrap();
    let read = gate.read(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..read], STAND_IN);
    assert_eq!(refused.at(0), Some(Malformed::HeadTimeout));
}

#[tokio::test(start_paused = true)]
async fn closing_waits_a_moment_for_the_peer_to_finish() {
    let (mut client, server) = tokio::io::duplex(64);
    let mut gate = Gate::new(server, Refused::default());
    let sender = tokio::spawn(async move {
        client.write_all(&[b'x'; 4096]).await.unwrap();
        client
    });
    let start = tokio::time::Instant::now();
    gate.shutdown().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());
    drop(sender.await.unwrap());
}

proptest! {
    #[test]
    fn what_passes_does_not_depend_on_how_it_arrives(
        requests in prop::collection::vec(prop::sample::select(vec![GET, POST, CHUNKED, BAD, b"\r\n", b"0\r\n\r\n", b"x\n"]), 0..6),
        size in 1usize..80,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let all = requests.concat();
        let parts: Vec<&[u8]> = all.chunks(size).collect();
        let (whole, whole_error, whole_refused) = runtime.block_on(through(&[&all]));
        let (seen, error, refused) = runtime.block_on(through(&parts));
        prop_assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&whole));
        prop_assert_eq!((error, refused.0.get()), (whole_error, whole_refused.0.get()));
    }
}
