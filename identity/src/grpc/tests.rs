use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::Source;
use crate::test_pki::{self, Pki, WORKLOAD};
use crate::tls::{ClientAuth, H2, client_config, server_config};

const PATIENCE: Duration = Duration::from_secs(60);

struct Case {
    source: Source,
    clock: daemon::Clock,
    lifecycle: Lifecycle,
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Case {
    async fn new() -> Self {
        let (clock, now) = test_pki::clock();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            source: Pki::new(now).source(WORKLOAD, |_| {}),
            clock,
            lifecycle: Lifecycle::new(),
            address: listener.local_addr().unwrap(),
            listener: Some(listener),
        }
    }

    fn incoming(&mut self) -> Pin<Box<dyn Incoming<Item = io::Result<Connection>>>> {
        let config = server_config(&self.source, self.clock.clone(), ClientAuth::Required, H2);
        Box::pin(incoming(self.listener.take().unwrap().try_into().unwrap(), config, &self.lifecycle))
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let allowed = vec![WORKLOAD.parse().unwrap()];
        let connector = TlsConnector::from(client_config(&self.source, self.clock.clone(), allowed, H2));
        let stream = TcpStream::connect(self.address).await.unwrap();
        connector.connect(ServerName::IpAddress(self.address.ip().into()), stream).await.unwrap()
    }
}

#[tokio::test]
async fn a_connection_carries_bytes_and_knows_its_peer_and_one_that_fails_hinders_nobody() {
    let mut case = Case::new().await;
    let mut incoming = case.incoming();
    let mut silent = TcpStream::connect(case.address).await.unwrap();
    let mut plain = TcpStream::connect(case.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (mut client, server) = tokio::join!(case.connect(), incoming.next());
    let mut server = server.unwrap().unwrap();
    let info = server.connect_info();
    assert_eq!(info.peer.unwrap().id.as_str(), WORKLOAD);
    assert_eq!(info.remote, Some(client.get_ref().0.local_addr().unwrap()));
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");

    // A stop ends the stream and the handshakes that hang.
    case.lifecycle.stop();
    assert!(incoming.next().await.is_none());
    assert_eq!(silent.read(&mut bytes).await.unwrap_or(0), 0);
    assert!(case.lifecycle.drain(PATIENCE).await);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_is_cut_off_in_time() {
    let mut case = Case::new().await;
    let _incoming = case.incoming();
    let mut silent = TcpStream::connect(case.address).await.unwrap();
    let before = tokio::time::Instant::now();
    let end = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 1])).await.expect("to be cut off");
    assert_eq!(end.unwrap_or(0), 0);
    assert!(before.elapsed() >= HANDSHAKE_TIMEOUT && before.elapsed() < 2 * HANDSHAKE_TIMEOUT);
}
