//! An ingress behind a load balancer that speaks the PROXY protocol.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use identity::Source;

use super::setting::*;
use crate::config::ProxyProtocol;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

#[tokio::test]
async fn policies_and_the_application_see_who_really_calls() {
    let setting = Setting::new().await;
    let application = Application::start("shop").await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let from = vec!["127.0.0.0/8".parse().unwrap()];
    let proxy = setting
        .proxy_with("shop", application.address, source, |config| {
            config.proxy_protocol = Some(ProxyProtocol { from });
        })
        .await;
    proxy.readiness.until_ready().await;
    let ingress = proxy.addresses.ingress.unwrap();

    let mut wire = Wire::open(ingress).await;
    wire.write(format!("PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n{REQUEST}")).await;
    assert_eq!(wire.response(false).await.status, 200);
    wire.write(REQUEST).await;
    assert_eq!(wire.response(false).await.status, 200, "one header is for all requests of a connection");
    let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
    assert_eq!(checked.source_ip.to_string(), "192.0.2.1");
    assert_eq!(application.last().headers["x-forwarded-for"], "192.0.2.1");

    let count = application.count();
    let mut plain = TcpStream::connect(ingress).await.unwrap();
    plain.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // It may be reset, for what it sent is not read.
    drop(plain.read_to_end(&mut answer).await);
    assert_eq!((answer.len(), application.count()), (0, count), "nothing is served without a header");
    assert_eq!(
        get(proxy.addresses.outbound, "shop", "/").await.status,
        503,
        "the outbound listener expects none"
    );
}
