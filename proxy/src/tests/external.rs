//! Services outside of the mesh: found by name, known by public certificates, and decided on by the caller's proxy.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use api::config::{External, Protocol};
use bytes::Bytes;
use http::Response;
use identity::Source;
use model::{Limit, Mode, Operand, Principal};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::clients::output;
use super::http2::{Caller, request};
use super::setting::*;
use crate::app::Bound;
use crate::config::LocalAddress;

/// What the service is called here.
pub(super) const NAME: &str = "api.partner.example";

/// A public authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server with a certificate for `name`, which ends in the year `until`.
    pub(super) fn server(&self, name: &str, until: i32, alpn: &[&[u8]]) -> TlsAcceptor {
        self.server_of(&[&TLS13], name, until, alpn)
    }

    /// The same, which speaks these versions of TLS.
    fn server_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        name: &str,
        until: i32,
        alpn: &[&[u8]],
    ) -> TlsAcceptor {
        let (leaf, key) = self.certificate(name, until);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![leaf.into()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn certificate(&self, name: &str, until: i32) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

/// Answers requests of HTTP/1.1, as often as asked; tells how many connections there were.
async fn serve_http1(acceptor: TlsAcceptor) -> (SocketAddr, tokio::sync::watch::Receiver<usize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                count.send_modify(|count| *count += 1);
                tokio::spawn(async move {
                    while let Some(head) = head(&mut stream).await {
                        assert!(head.to_lowercase().contains(&format!("host: {NAME}\r\n")), "{head}");
                        let sni = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{sni}", sni.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        }
    });
    (address, counted)
}

pub(super) async fn head(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// A proxy of `cart`, in a mesh to which the server at `address` belongs from outside.
pub(super) async fn cart(
    setting: &Setting,
    address: SocketAddr,
    roots: &Authority,
    protocol: Protocol,
) -> Bound {
    let source = Source::fixed(setting.pki.identity(&id("cart"), HOUR));
    let local = LocalAddress { service: NAME.into(), listen: "127.0.0.1:0".parse().unwrap() };
    let nobody = "127.0.0.1:1".parse().unwrap();
    let proxy = setting.proxy_with("cart", nobody, source, |config| config.tcp.push(local)).await;
    proxy.readiness.until_ready().await;
    let external = External {
        host: "localhost".into(),
        port: address.port(),
        name: NAME.into(),
        roots: Some(roots.0.pem()),
    };
    let told = setting.policyd.change(|config| {
        let outside = service(NAME, &[]);
        config.services =
            vec![api::config::Service { spiffe_ids: vec![], protocol, external: Some(external), ..outside }];
        config.enforced = vec![enforced("cart"), enforced(NAME)];
    });
    assert_eq!(told.await.error, "");
    proxy
}

#[tokio::test]
async fn a_call_leaves_by_tls_and_the_caller_is_decided_on() {
    let setting = Setting::new().await;
    let authority = Authority::new();
    let (address, connections) = serve_http1(authority.server(NAME, 2100, &[b"http/1.1"])).await;
    let cart = cart(&setting, address, &authority, Protocol::Http1).await;
    for _ in 0..3 {
        let response = get(cart.addresses.outbound, NAME, "/v1/rates").await;
        assert_eq!((response.status, response.body.as_str()), (200, NAME));
    }
    assert_eq!(*connections.borrow(), 1, "the connection is used again");
    let checks = setting.policyd.checks.lock().unwrap();
    let [asked] = checks.as_slice() else { panic!("{} checks", checks.len()) };
    assert_eq!(
        (&asked.principal, asked.resource.as_str(), asked.path.as_str(), asked.tls),
        (&Principal::Workload(id("cart")), NAME, "/v1/rates", true)
    );
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_is_not_spoken_to() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (case, acceptor) in [
        ("wrong name", authority.server("other.example", 2100, &[])),
        ("expired", authority.server(NAME, 2020, &[])),
        ("unknown root", stranger.server(NAME, 2100, &[])),
    ] {
        let setting = Setting::new().await;
        let (address, connections) = serve_http1(acceptor).await;
        let cart = cart(&setting, address, &authority, Protocol::Http1).await;
        let response = get(cart.addresses.outbound, NAME, "/").await;
        assert_eq!((response.status, response.error().as_str()), (503, "no_healthy_upstream"), "{case}");
        assert_eq!(*connections.borrow(), 0, "{case}");
    }
}

#[tokio::test]
async fn what_policies_and_limits_refuse_does_not_leave() {
    let setting = Setting::new().await;
    let authority = Authority::new();
    let (address, connections) = serve_http1(authority.server(NAME, 2100, &[])).await;
    let cart = cart(&setting, address, &authority, Protocol::Http1).await;
    setting.policyd.decide(|_, revision| deny(revision));
    let response = get(cart.addresses.outbound, NAME, "/").await;
    assert_eq!((response.status, response.header("x-tidegate-policy")), (403, Some("acl.cedar#2")));
    assert_eq!(*connections.borrow(), 0);

    let rate = "1/min".parse().unwrap();
    let limit = Limit::of_rate("partner", Mode::Local, rate, vec![Operand::Principal]);
    setting
        .policyd
        .decide(|_, revision| model::Decision { limits: vec!["partner".into()], ..allow(revision) });
    assert_eq!(setting.policyd.change(|config| config.limits = vec![limit]).await.error, "");
    let outbound = cart.addresses.outbound;
    let first = get(outbound, NAME, "/").await;
    assert_eq!((first.status, first.header("ratelimit")), (200, Some(r#""partner";r=0;t=60"#)));
    assert_eq!(get(outbound, NAME, "/").await.status, 429);

    // Without its policies nothing passes.
    setting.policyd.change(|config| config.enforced.truncate(1)).await;
    let response = get(outbound, NAME, "/").await;
    assert_eq!((response.status, response.error().as_str()), (503, "policy_unavailable"));
}

#[tokio::test]
async fn http2_is_spoken_where_the_service_does() {
    let setting = Setting::new().await;
    let authority = Authority::new();
    let acceptor = authority.server(NAME, 2100, &[b"h2"]);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cart = cart(&setting, socket.local_addr().unwrap(), &authority, Protocol::Http2).await;
    tokio::spawn(async move {
        let stream = acceptor.accept(socket.accept().await.unwrap().0).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().to_string(), format!("https://{NAME}/a"));
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"two"), true).unwrap();
        }
    });
    // Whatever the application speaks.
    assert_eq!(get(cart.addresses.outbound, NAME, "/a").await.status, 200);
    let mut caller = Caller::connect(cart.addresses.outbound).await;
    let response = caller.send(request("GET", &format!("http://{NAME}/a"))).await;
    assert_eq!((response.status, response.body.as_str()), (200, "two"));
}

#[tokio::test]
async fn a_change_of_its_policies_counts_at_once() {
    let setting = Setting::new().await;
    let authority = Authority::new();
    let (address, _) = serve_http1(authority.server(NAME, 2100, &[])).await;
    let cart = cart(&setting, address, &authority, Protocol::Http1).await;
    for (allowed, status) in [(true, 200), (false, 403), (true, 200)] {
        setting.policyd.decide(move |_, revision| if allowed { allow(revision) } else { deny(revision) });
        assert_eq!(setting.policyd.change(|_| {}).await.error, "");
        assert_eq!(get(cart.addresses.outbound, NAME, "/").await.status, status);
    }
}

#[tokio::test]
async fn an_older_server_is_spoken_to_by_tls_12() {
    let setting = Setting::new().await;
    let authority = Authority::new();
    let (address, connections) = serve_http1(authority.server_of(&[&TLS12], NAME, 2100, &[])).await;
    let cart = cart(&setting, address, &authority, Protocol::Http1).await;
    for _ in 0..2 {
        let response = get(cart.addresses.outbound, NAME, "/").await;
        assert_eq!((response.status, response.body.as_str()), (200, NAME));
    }
    assert_eq!(*connections.borrow(), 1);
}

/// A server of openssl, which tells how it is spoken to, and where it is.
async fn openssl(authority: &Authority, arguments: &[&str]) -> (Child, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (leaf, key) = authority.certificate(NAME, 2100);
    std::fs::write(folder.path().join("leaf.pem"), leaf.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-accept", "127.0.0.1:0", "-cert", "leaf.pem", "-key", "key.pem", "-www"]);
    server.args(arguments).current_dir(folder.path()).kill_on_drop(true);
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("where it listens");
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            return (server, address.parse().unwrap(), folder);
        }
    }
}

#[tokio::test]
async fn openssl_is_spoken_to_by_tls_12_and_by_nothing_older() {
    const TEST: &str = "openssl_is_spoken_to_by_tls_12_and_by_nothing_older";
    if output(TEST, "openssl", &["version"]).await.is_none() {
        return;
    }
    let anything = ["-cipher", "DEFAULT:@SECLEVEL=0"];
    for (version, status) in [("-tls1_3", 200), ("-tls1_2", 200), ("-tls1_1", 503)] {
        let setting = Setting::new().await;
        let authority = Authority::new();
        let (_server, address, _folder) =
            openssl(&authority, &[[version].as_slice(), &anything].concat()).await;
        let cart = cart(&setting, address, &authority, Protocol::Http1).await;
        let mut wire = Wire::open(cart.addresses.outbound).await;
        wire.write(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")).await;
        let mut response = Vec::new();
        wire.read_to_end(&mut response).await;
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{version}: {response}");
        if status == 200 {
            let spoken = version.replace("-tls1_", "Protocol  : TLSv1.");
            assert!(response.contains(&spoken), "{version}: {response}");
        } else {
            // There is such a server.
            let host = address.to_string();
            let s_client = ["s_client", "-connect", host.as_str(), version];
            let told = output(TEST, "openssl", &[s_client.as_slice(), &anything].concat()).await.unwrap();
            assert!(told.contains("Protocol  : TLSv1.1"), "{told}");
        }
    }
}
