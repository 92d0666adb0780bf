//! What a proxy makes of a policyd that is silent.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::setting::*;
use crate::app::Bound;

async fn until_shown(proxy: &Bound, line: &str) {
    let shown = async {
        while !proxy.metrics.render().contains(line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the metric");
}

#[tokio::test]
async fn a_silent_policyd_is_asked_for_each_request_until_it_speaks_again() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    for _ in 0..2 {
        assert_eq!(get(ingress, "shop", "/").await.status, 200);
    }
    assert_eq!(setting.policyd.checks.lock().unwrap().len(), 1);
    assert!(proxy.metrics.render().contains("tidegate_policy_stale 0"));

    // The stream stays open, but no Ping is answered any more.
    setting.policyd.answers_pings.store(false, SeqCst);
    setting.clock.advance(Duration::from_secs(11));
    until_shown(&proxy, "tidegate_policy_stale 1").await;
    setting.policyd.pings.subscribe().wait_for(|number| *number > 0).await.unwrap();
    for asked in 2..4 {
        assert_eq!(get(ingress, "shop", "/").await.status, 200);
        assert_eq!(setting.policyd.checks.lock().unwrap().len(), asked);
    }
    // Other words of policyd don't say when they were said.
    setting.policyd.change(|config| config.services.clear()).await;
    assert!(proxy.metrics.render().contains("tidegate_policy_stale 1"));

    setting.policyd.answer_last_ping();
    until_shown(&proxy, "tidegate_policy_stale 0").await;
}

#[tokio::test]
async fn a_reconnecting_proxy_says_what_it_has() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    let has = |place: usize| {
        let hellos = setting.policyd.hellos.lock().unwrap();
        hellos.get(place).map(|hello| (hello.mesh.map(Into::into), hello.policies.map(Into::into)))
    };
    assert_eq!(has(0), Some((None, None)));
    // A new certificate is a new connection.
    proxy.source.replace(setting.pki.identity(&id("shop"), HOUR));
    let again = async {
        while has(1).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("a second Hello");
    assert_eq!(has(1), Some((Some(REVISION), Some(REVISION))));
}
