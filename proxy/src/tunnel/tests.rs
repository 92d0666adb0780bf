use std::future::pending;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Our end of a connection, and the other one.
async fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (there, here) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Stream::Plain(here.unwrap().0), there.unwrap())
}

/// What comes of a tunnel between a caller and a service that do as they are told, and how much has passed.
async fn between<C: PartialEq, A, B>(
    idle_timeout: Duration,
    cut: impl Future<Output = C>,
    caller: impl AsyncFnOnce(TcpStream) -> A,
    service: impl AsyncFnOnce(TcpStream) -> B,
) -> (Ended<C>, (u64, u64), A, B) {
    let ((mut down, caller_end), (mut up, service_end)) = tokio::join!(pair(), pair());
    let (mut read, mut read_above) = (Buffer::default(), Buffer::default());
    let mut passed = (0, 0);
    let tunnel = async {
        let ended = run(
            End { stream: &mut down, read: &mut read },
            End { stream: &mut up, read: &mut read_above },
            idle_timeout,
            |now| passed = now,
            cut,
        )
        .await;
        if ended != Ended::Whole {
            down.abort();
            up.abort();
        }
        drop((down, up));
        ended
    };
    let (ended, a, b) = tokio::join!(tunnel, caller(caller_end), service(service_end));
    (ended, passed, a, b)
}

#[tokio::test]
async fn who_has_said_its_last_still_hears_the_other() {
    let caller = async |mut stream: TcpStream| {
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let service = async |mut stream: TcpStream| {
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        // Only now: more than fits into any buffer on the way.
        stream.write_all(&vec![7; 3 << 20]).await.unwrap();
        heard
    };
    let (ended, passed, answer, question) = between(HOUR, pending::<()>(), caller, service).await;
    assert_eq!(ended, Ended::Whole);
    assert_eq!((question.as_str(), answer.len(), passed), ("question", 3 << 20, (8, 3 << 20)));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_a_word_in_either_direction_does_not() {
    let start = Instant::now();
    let caller = async |mut stream: TcpStream| {
        for _ in 0..3 {
            tokio::time::sleep(HOUR * 2 / 3).await;
            stream.write_all(b"x").await.unwrap();
        }
        stream.read_u8().await.unwrap_err().kind()
    };
    let service = async |mut stream: TcpStream| {
        let mut heard = Vec::new();
        (stream.read_to_end(&mut heard).await.unwrap_err().kind(), heard.len())
    };
    let (ended, passed, of_caller, of_service) = between(HOUR, pending::<()>(), caller, service).await;
    assert_eq!((ended, passed), (Ended::Idle, (3, 0)));
    let minutes = start.elapsed().as_secs() / 60;
    assert_eq!(minutes, 180, "an hour after the last word");
    let reset = std::io::ErrorKind::ConnectionReset;
    assert_eq!((of_caller, of_service), (reset, (reset, 3)), "neither may take it for the end");
}

#[tokio::test]
async fn it_is_cut_when_it_must_not_go_on_and_broken_when_a_side_breaks() {
    let nothing = async |mut stream: TcpStream| stream.read_u8().await.is_err();
    let (ended, _, caller, service) = between(HOUR, std::future::ready("why"), nothing, nothing).await;
    assert_eq!((ended, caller, service), (Ended::Cut("why"), true, true));

    let breaks = async |stream: TcpStream| Stream::Plain(stream).abort();
    let (ended, _, (), service) = between(HOUR, pending::<()>(), breaks, nothing).await;
    assert_eq!((ended, service), (Ended::Broken, true));
}
