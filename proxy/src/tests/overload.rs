//! More callers than there is room for.

use identity::Source;

use super::http1::ingress;
use super::setting::*;
use crate::app::Bound;

async fn narrow(setting: &Setting, connections: usize) -> (Bound, Application) {
    let application = Application::start("shop").await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let proxy = setting
        .proxy_with("shop", application.address, source, |config| config.max_connections = connections)
        .await;
    proxy.readiness.until_ready().await;
    (proxy, application)
}

/// Until a caller of the ingress waits.
async fn until_full(proxy: &Bound) {
    let full = "tidegate_connections_full_total{direction=\"ingress\"} 1\n";
    while !proxy.metrics.render().contains(full) {
        tokio::task::yield_now().await;
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

#[tokio::test]
async fn a_caller_for_whom_there_is_no_room_waits_until_another_leaves() {
    let setting = Setting::new().await;
    let (proxy, _application) = narrow(&setting, 2).await;
    let mut callers = [Wire::open(ingress(&proxy)).await, Wire::open(ingress(&proxy)).await];
    for caller in &mut callers {
        caller.write(GET).await;
        assert_eq!(caller.response(false).await.status, 200);
    }
    let mut late = Wire::open(ingress(&proxy)).await;
    late.write(GET).await;
    // Whatever else arrives, by whichever way, waits as well; and those who are in are served.
    let mut other = Wire::open(proxy.addresses.outbound).await;
    other.write("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").await;
    for caller in &mut callers {
        caller.write(GET).await;
        assert_eq!(caller.response(false).await.status, 200);
    }
    until_full(&proxy).await;
    let open = "tidegate_open_connections{direction=\"ingress\"} 2\n";
    assert!(proxy.metrics.render().contains(open), "{}", proxy.metrics.render());
    let [first, second] = callers;
    drop(first);
    assert_eq!(late.response(false).await.status, 200);
    drop(second);
    assert_eq!(other.response(false).await.status, 404);
}

#[tokio::test]
async fn a_proxy_without_room_stops_all_the_same() {
    let setting = Setting::new().await;
    let (proxy, _application) = narrow(&setting, 1).await;
    let mut caller = Wire::open(ingress(&proxy)).await;
    caller.write(GET).await;
    assert_eq!(caller.response(false).await.status, 200);
    let mut late = Wire::open(ingress(&proxy)).await;
    until_full(&proxy).await;
    assert!(proxy.drain().await);
    assert!(caller.is_closed().await && late.is_closed().await);
}
