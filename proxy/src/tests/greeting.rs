//! Applications that are told who calls by the PROXY protocol.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use api::config::Protocol;
use identity::Source;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::clients::skip;
use super::setting::*;
use crate::app::Bound;
use crate::config::{ProxyProtocol, ProxyProtocolVersion};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Answers each request with its connection's number, and with whom that began by naming.
async fn application() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 1.. {
            let Ok((stream, peer)) = socket.accept().await else { return };
            tokio::spawn(serve(stream, peer, number));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, peer: SocketAddr, number: usize) {
    let anyone = ProxyProtocol { from: vec!["127.0.0.0/8".parse().unwrap()] };
    let caller = anyone.caller(&mut stream, peer).await.unwrap();
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
        if read.ends_with(b"\r\n\r\n") {
            read.clear();
            let body = format!("{number} {caller}");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

async fn proxy(setting: &Setting, application: SocketAddr, version: ProxyProtocolVersion) -> Bound {
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let from = vec!["127.0.0.0/8".parse().unwrap()];
    let proxy = setting
        .proxy_with("shop", application, source, |config| {
            config.greets_application = Some(version);
            config.proxy_protocol = Some(ProxyProtocol { from });
            config.forwarding.trusted_hops = 1;
        })
        .await;
    proxy.readiness.until_ready().await;
    proxy
}

/// A caller that a load balancer names.
async fn caller(proxy: &Bound, address: &str) -> Wire {
    let mut wire = Wire::open(proxy.addresses.ingress.unwrap()).await;
    wire.write(format!("PROXY TCP4 {address} 10.0.0.1 12345 80\r\n")).await;
    wire
}

async fn ask(wire: &mut Wire, request: &str) -> String {
    wire.write(request).await;
    wire.response(false).await.body
}

#[tokio::test]
async fn a_connection_to_the_application_is_of_one_caller() {
    for version in [ProxyProtocolVersion::V1, ProxyProtocolVersion::V2] {
        let setting = Setting::new().await;
        let proxy = proxy(&setting, application().await, version).await;
        let (mut one, mut two) = (caller(&proxy, "192.0.2.1").await, caller(&proxy, "192.0.2.2").await);
        // Each has its own, whoever was there last.
        for _ in 0..3 {
            assert_eq!(ask(&mut one, REQUEST).await, "1 192.0.2.1:12345");
            assert_eq!(ask(&mut two, REQUEST).await, "2 192.0.2.2:12345");
        }
        // The same caller over another connection of its own, which began alike.
        let mut again = caller(&proxy, "192.0.2.1").await;
        assert_eq!(ask(&mut again, REQUEST).await, "1 192.0.2.1:12345");
        // Whom policies see is whom the application is told of; his port is not known.
        let named = REQUEST.replace("\r\n\r\n", "\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n");
        assert_eq!(ask(&mut one, &named).await, "3 198.51.100.7:0");
        assert_eq!(ask(&mut one, REQUEST).await, "1 192.0.2.1:12345");
    }
}

/// nginx, which reads the header and answers with what it read.
async fn nginx(folder: &std::path::Path, http2: &str) -> Option<(Child, SocketAddr, Socket)> {
    // Bound and not listened on: nobody else gets this port, and nginx may.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr notice;
events {{}}
http {{
    access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
    server {{
        listen {address} proxy_protocol {http2};
        location / {{ return 200 '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr'; }}
    }}
}}"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/programs/usr/sbin/nginx");
    for program in ["nginx", "/usr/sbin/nginx", unpacked] {
        let mut command = Command::new(program);
        command.arg("-p").arg(folder).arg("-c").arg(&file).args(["-e", "stderr"]);
        match command.stderr(Stdio::piped()).kill_on_drop(true).spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            spawned => {
                let mut nginx = spawned.unwrap();
                let mut lines = BufReader::new(nginx.stderr.take().unwrap()).lines();
                // It tells its version once it listens.
                while let Some(line) = lines.next_line().await.unwrap() {
                    assert!(!line.contains("[emerg]"), "{line}");
                    if line.contains("nginx/") {
                        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                        return Some((nginx, address, socket));
                    }
                }
                panic!("nginx has ended");
            }
        }
    }
    None
}

#[tokio::test]
async fn nginx_reads_who_calls() {
    for version in [ProxyProtocolVersion::V1, ProxyProtocolVersion::V2] {
        for (http2, protocol) in [("", Protocol::Http1), ("http2", Protocol::Http2)] {
            let folder = tempfile::tempdir().unwrap();
            let Some((_nginx, address, _port)) = nginx(folder.path(), http2).await else {
                return skip("nginx_reads_who_calls", "nginx");
            };
            let setting = Setting::new().await;
            let proxy = proxy(&setting, address, version).await;
            setting.policyd.change(|config| config.services[0].protocol = protocol).await;
            for client in ["192.0.2.1", "192.0.2.2", "192.0.2.1"] {
                let told = ask(&mut caller(&proxy, client).await, REQUEST).await;
                assert_eq!(told, format!("{client} 12345 127.0.0.1"), "{version:?} {protocol:?}");
            }
        }
    }
}
