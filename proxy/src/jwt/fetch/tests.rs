use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that gives each connection this answer; its port.
async fn server(answer: impl Into<String>) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, answer) = (socket.local_addr().unwrap().port(), answer.into());
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(respond(stream, answer.clone()));
        }
    });
    port
}

async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /jwks?v=1 HTTP/1.1\r\n") && head.contains("host: localhost:"), "{head}");
    // The caller may hang up as soon as it has seen enough.
    let _sent = stream.write_all(answer.as_bytes()).await;
    let _closed = stream.shutdown().await;
}

async fn get(answer: impl Into<String>) -> Result<Fetched, FetchError> {
    let port = server(answer).await;
    Network::default().fetch(&format!("http://localhost:{port}/jwks?v=1")).await
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn keys_are_fetched_with_how_long_they_hold() {
    for (headers, max_age) in [
        ("", None),
        ("Cache-Control: no-store\r\n", None),
        ("Cache-Control: public, Max-Age=300\r\n", Some(300)),
        ("Cache-Control: public\r\ncache-control: max-age=\"300\"\r\nAge: 100\r\n", Some(200)),
        ("Cache-Control: max-age=1\r\nAge: 100\r\n", Some(0)),
        ("Cache-Control: max-age=soon\r\n", None),
    ] {
        let fetched = get(ok(headers, "{}")).await.unwrap();
        let expected = Fetched { text: "{}".into(), max_age: max_age.map(Duration::from_secs) };
        assert_eq!(fetched, expected, "{headers}");
    }
}

#[tokio::test]
async fn other_answers_are_no_keys() {
    let told = |error: FetchError| error.to_string();
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://localhost/\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(get(moved).await.map_err(told), Err("the answer is 302 Found".to_owned()));
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(get(missing).await.map_err(told), Err("the answer is 404 Not Found".to_owned()));
    assert!(
        matches!(get(ok("", &"a".repeat(SIZE_MAX))).await, Ok(fetched) if fetched.text.len() == SIZE_MAX)
    );
    assert!(matches!(get(ok("", &"a".repeat(SIZE_MAX + 1))).await, Err(FetchError::Body(_))));
    assert!(matches!(get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await, Err(FetchError::Body(_))));
    assert!(matches!(get("nonsense\r\n\r\n").await, Err(FetchError::Http(_))));
    assert!(matches!(get("").await, Err(FetchError::Http(_))));
}

#[tokio::test]
async fn what_comes_in_the_clear_comes_from_this_host() {
    for url in ["http://192.0.2.1/jwks", "ftp://localhost/", "localhost", "/jwks", "http://", ""] {
        assert!(matches!(Network::default().fetch(url).await, Err(FetchError::Url)), "{url}");
    }
}

#[tokio::test]
async fn a_server_is_believed_by_its_certificate() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            if let Ok(stream) = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await {
                tokio::spawn(respond(stream, ok("", "keys")));
            }
        }
    });
    let trusting = Network { roots: Some(roots) };
    let at = |host| format!("https://{host}:{port}/jwks?v=1");
    assert_eq!(trusting.fetch(&at("localhost")).await.unwrap().text, "keys");
    // Another name than that of the certificate, and another authority than its own.
    assert!(matches!(trusting.fetch(&at("127.0.0.1")).await, Err(FetchError::Io(_))));
    let others = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(others.der().clone()).unwrap();
    let strange = Network { roots: Some(roots) };
    assert!(matches!(strange.fetch(&at("localhost")).await, Err(FetchError::Io(_))));
}
