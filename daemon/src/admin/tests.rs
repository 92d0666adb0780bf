use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;

struct Fixture {
    address: SocketAddr,
    readiness: Readiness,
    life: Lifecycle,
}

async fn serve() -> Fixture {
    let (readiness, life) = (Readiness::new(), Lifecycle::new());
    let admin = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.address();
    admin.serve(Arc::new(|| "# EOF\n".to_owned()), readiness.clone(), &life);
    Fixture { address, readiness, life }
}

/// The whole answer to `request`, after which the server closes the connection.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get_path(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_have_the_openmetrics_content_type() {
    let fixture = serve().await;
    let answer = get_path(fixture.address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("content-type: {}\r\n", metrics::CONTENT_TYPE)), "{answer}");
    assert!(answer.ends_with("\r\n\r\n# EOF\n"), "{answer}");
}

#[tokio::test]
async fn a_daemon_may_show_more() {
    let life = Lifecycle::new();
    let admin = bind("127.0.0.1:0".parse().unwrap()).await.unwrap().with_json("/more", || "{}".to_owned());
    let address = admin.address();
    admin.serve(Arc::new(String::new), Readiness::new(), &life);
    let answer = get_path(address, "/more").await;
    assert!(
        answer.contains("content-type: application/json\r\n") && answer.ends_with("\r\n\r\n{}"),
        "{answer}"
    );
}

#[tokio::test]
async fn readiness_names_what_is_missing_while_health_does_not_care() {
    let fixture = serve().await;
    let guard = fixture.readiness.block("a certificate");
    let answer = get_path(fixture.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nwaiting for a certificate\n"), "{answer}");
    assert!(get_path(fixture.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    drop(guard);
    assert!(get_path(fixture.address, "/readyz").await.ends_with("\r\n\r\nready\n"));
}

#[tokio::test]
async fn strangers_get_clear_errors() {
    let fixture = serve().await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(HEAD_SIZE_MAX));
    let table = [
        ("GET /other HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "HTTP/1.1 404"),
        (
            "POST /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 405",
        ),
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        (&long, "HTTP/1.1 4"),
    ];
    for (request, expected) in table {
        let answer = exchange(fixture.address, request).await;
        assert!(answer.starts_with(expected), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_stop_closes_idle_connections() {
    let fixture = serve().await;
    let mut idle = TcpStream::connect(fixture.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    assert!(fixture.life.drain(Duration::from_secs(60)).await);
    assert_eq!(idle.read(&mut [0; 1024]).await.unwrap(), 0);
    assert!(TcpStream::connect(fixture.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_closed_in_time() {
    let fixture = serve().await;
    let mut silent = TcpStream::connect(fixture.address).await.unwrap();
    let start = Instant::now();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.unwrap();
    assert!(start.elapsed() >= HEAD_TIME_MAX && start.elapsed() < 2 * HEAD_TIME_MAX);
}

#[tokio::test(start_paused = true)]
async fn connections_beyond_the_limit_wait_for_a_slot() {
    let fixture = serve().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    let start = Instant::now();
    let answer = get_path(fixture.address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A slot came free when a silent client's time was up.
    assert!(start.elapsed() >= HEAD_TIME_MAX);
}
