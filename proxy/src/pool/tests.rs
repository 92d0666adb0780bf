use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn each_connection_takes_its_place_among_all_and_gives_it_back() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    for protocol in [Protocol::Http1, Protocol::Tcp] {
        let room: &'static Semaphore = Box::leak(Box::new(Semaphore::new(1)));
        for pool in [Pool::in_the_clear(address.to_string()), Pool::to_outside(address, Outgoing::default())]
        {
            let connect = || pool.connect_without_timeout(protocol, None, room);
            let first = connect().await.unwrap();
            let full = connect().await.unwrap_err();
            assert!(matches!(full, ConnectError::Full) && full.is_ours(), "{protocol:?}");
            drop(first);
            assert!(connect().await.is_ok(), "{protocol:?}");
        }
    }
}
