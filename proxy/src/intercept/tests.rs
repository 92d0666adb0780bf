use api::config::{self, Config, Endpoint, Mtls};

use super::*;
use crate::jwt::Jwt;
use crate::report::Reports;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn interception(outbound_to: OutboundTo, ports: &[u16]) -> Interception {
    let config = Intercept { outbound_to, ports: ports.to_vec() };
    let listeners = vec![at("127.0.0.1:15001"), at("[::]:15006")];
    Interception::new(Some(&config), "cart-v1", Duration::from_secs(1), listeners)
}

fn meant_for(address: &str) -> Original {
    Original { address: at(address), is_own: false, outside: OnceLock::new() }
}

/// A mesh with one service, whose instance is at 10.0.0.1:80.
fn mesh() -> Applied {
    let service = config::Service {
        name: "shop".to_owned(),
        spiffe_ids: vec!["spiffe://a/ns/b/sa/shop".parse().unwrap()],
        endpoints: vec![Endpoint {
            instance: "shop-v1".into(),
            version: String::new(),
            address: at("10.0.0.1:80"),
        }],
        timeout: Duration::from_secs(1),
        protocol: config::Protocol::default(),
        mtls: Mtls::Strict,
        idle_timeout: config::IDLE_TIMEOUT,
        external: None,
    };
    let mesh = config::Mesh { services: vec![service] };
    let config = Config { mesh: mesh.into(), ..Config::default() };
    let connect = |_: &config::Service, address: SocketAddr| Pool::in_the_clear(address.to_string());
    Applied::after(&Applied::default(), config, "cart", Reports::default(), Jwt::default(), connect).unwrap()
}

/// Who gets a request for `host` that was meant for `original`.
fn gets(
    interception: &Interception,
    applied: &Applied,
    original: Option<&str>,
) -> Result<String, &'static str> {
    let original = original.map(meant_for);
    let found = interception.elsewhere(original.as_ref(), applied, "nobody");
    found.map(|(name, _)| name.to_owned()).map_err(|refusal| refusal.code())
}

#[tokio::test]
async fn the_address_counts_where_the_host_names_no_service() {
    let (applied, nothing) = (mesh(), Applied::default());
    for (original, registry_only, allow_any) in [
        (None, Err("no_such_service"), Err("no_such_service")),
        (Some("10.0.0.1:80"), Ok("shop"), Ok("shop")),
        (Some("10.0.0.1:81"), Err("no_such_service"), Ok("outside")),
        (Some("[2001:db8::1]:80"), Err("no_such_service"), Ok("outside")),
        (Some("127.0.0.1:15001"), Err("loop"), Err("loop")),
        (Some("127.0.0.1:15006"), Err("loop"), Err("loop")),
    ] {
        for (mode, expected) in [(OutboundTo::RegistryOnly, registry_only), (OutboundTo::AllowAny, allow_any)]
        {
            let interception = interception(mode, &[]);
            let expected = expected.map(str::to_owned);
            assert_eq!(gets(&interception, &applied, original), expected, "{original:?} {mode:?}");
            assert_eq!(gets(&interception, &nothing, original), Err("not_ready"), "{original:?} {mode:?}");
        }
    }
}

#[tokio::test]
async fn what_was_sent_from_here_and_comes_back_is_refused() {
    let (applied, interception) = (mesh(), interception(OutboundTo::AllowAny, &[]));
    let own = Original { is_own: true, ..meant_for("192.0.2.1:80") };
    let refused = interception.elsewhere(Some(&own), &applied, "x").unwrap_err();
    assert_eq!(refused.code(), "loop");

    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = Pool::to_outside(server.local_addr().unwrap(), interception.outgoing.clone());
    let (connection, accepted) = tokio::join!(pool.connect(None), server.accept());
    let from = accepted.unwrap().1.port();
    assert!(interception.outgoing.has(from));
    drop(connection.unwrap());
    assert!(!interception.outgoing.has(from), "it is forgotten with its connection");
}

#[tokio::test]
async fn a_port_of_the_application_is_one_that_is_named() {
    let otherwise =
        Arc::new(Service::application("cart-v1".into(), "127.0.0.1:9080".into(), Duration::from_secs(1)));
    let now = Instant::now();
    let goes = |interception: &Interception, original: Option<&str>| {
        let original = original.map(meant_for);
        let found = interception.application(original.as_ref(), &otherwise);
        found
            .map(|service| service.pick(0, &[], now).unwrap().address.clone())
            .map_err(|refusal| refusal.code())
    };
    let two = interception(OutboundTo::RegistryOnly, &[9080, 9443]);
    let one = interception(OutboundTo::RegistryOnly, &[]);
    for (original, with_ports, without) in [
        (None, Ok("127.0.0.1:9080"), Ok("127.0.0.1:9080")),
        (Some("10.0.0.1:9443"), Ok("127.0.0.1:9443"), Ok("127.0.0.1:9080")),
        (Some("[fd00::1]:9080"), Ok("127.0.0.1:9080"), Ok("127.0.0.1:9080")),
        (Some("10.0.0.1:22"), Err("no_such_port"), Ok("127.0.0.1:9080")),
    ] {
        assert_eq!(goes(&two, original), with_ports.map(str::to_owned), "{original:?}");
        assert_eq!(goes(&one, original), without.map(str::to_owned), "{original:?}");
    }
}

#[test]
fn a_listener_on_all_addresses_has_those_of_this_host() {
    let listeners = [at("127.0.0.1:1"), at("0.0.0.0:2"), at("[::]:3")];
    let is_local = |address: IpAddr| address.to_string() == "10.0.0.1";
    for (address, own) in [
        ("127.0.0.1:1", true),
        ("10.0.0.1:1", false),
        ("10.0.0.1:2", true),
        ("10.0.0.1:3", true),
        ("10.0.0.2:2", false),
        ("10.0.0.1:4", false),
    ] {
        assert_eq!(is_one_of(&listeners, at(address), is_local), own, "{address}");
    }
    assert!(is_of_this_host(at("127.0.0.1:1").ip()));
    assert!(!is_of_this_host(at("192.0.2.1:1").ip()));
}

#[tokio::test]
async fn a_connection_that_came_straight_was_not_redirected() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let interception = interception(OutboundTo::AllowAny, &[]);
    let (stream, caller) = far.unwrap();
    assert!(interception.original(&stream, caller).is_none());
    drop(near);
}
