//! What each enforcement makes of what is decided.

use std::time::Duration;

use api::config::Enforcement::{self, Enforce, Observe, Off};
use model::{Decision, Limit, Mode};

use super::setting::*;
use crate::app::Bound;
use crate::config::AccessLogDestination;

/// What comes of a request under `enforce`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    Allowed,
    Denied,
    Limited,
    /// A mesh-wide limit can't be asked.
    LimitAway,
    /// policyd has died.
    Away,
}

/// What was seen of a request.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    verdict: Option<String>,
    source: String,
    message: String,
}

/// A proxy of `shop` that writes its access log into `folder`.
async fn logged(setting: &Setting, folder: &std::path::Path) -> (Bound, Application) {
    let application = Application::start("shop").await;
    let source = identity::Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let log = AccessLogDestination::File(folder.join("access.log"));
    let proxy = setting
        .proxy_with("shop", application.address, source, |config| {
            config.access_log = log;
        })
        .await;
    proxy.readiness.until_ready().await;
    (proxy, application)
}

fn last_line(folder: &std::path::Path) -> serde_json::Value {
    let log = std::fs::read_to_string(folder.join("access.log")).unwrap();
    serde_json::from_str(log.lines().last().unwrap()).unwrap()
}

fn limit(mode: Mode) -> Limit {
    Limit::of_rate("l", mode, "1/h".parse().unwrap(), vec![])
}

/// Brings about `case` under `enforcement`; returns what was seen, and the metrics.
async fn seen(case: Case, enforcement: Enforcement) -> (Seen, String) {
    let setting = Setting::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (proxy, application) = logged(&setting, folder.path()).await;
    let ingress = proxy.addresses.ingress.unwrap();
    setting.policyd.decide(move |_, revision| match case {
        Case::Allowed | Case::Away => allow(revision),
        Case::Denied => deny(revision),
        Case::Limited | Case::LimitAway => Decision { limits: vec!["l".into()], ..allow(revision) },
    });
    let mode = if case == Case::LimitAway { Mode::Exact } else { Mode::Local };
    setting
        .policyd
        .change(|config| {
            config.enforced[0].enforcement = enforcement;
            config.limits = vec![limit(mode)];
        })
        .await;
    match case {
        Case::Limited => assert_eq!(get(ingress, "shop", "/").await.status, 200),
        Case::Away => assert!(setting.policyd.lifecycle.drain(Duration::from_secs(10)).await),
        _ => {}
    }
    let before = application.count();
    let response = get(ingress, "shop", "/").await;
    assert_eq!(application.count() - before, usize::from(response.status == 200), "{case:?} {enforcement:?}");
    if enforcement != Enforce {
        for header in ["x-tidegate-policy", "ratelimit", "ratelimit-policy", "retry-after"] {
            assert_eq!(response.header(header), None, "{case:?} {enforcement:?}");
        }
    }
    let asked = case != Case::Away && enforcement != Off;
    assert_eq!(setting.policyd.checks.lock().unwrap().len(), usize::from(asked), "{case:?} {enforcement:?}");
    assert!(proxy.drain().await);
    let line = last_line(folder.path());
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let seen = Seen {
        status: response.status,
        verdict: line["verdict"].as_str().map(str::to_owned),
        source: text("decision_source"),
        message: text("message"),
    };
    if case == Case::Denied && enforcement != Off {
        assert_eq!(line["reasons"][0], "acl.cedar#2");
    }
    (seen, proxy.metrics.render())
}

/// What is expected of a case, under `enforce` and under `observe`; `off` is the same for all.
struct Row {
    case: Case,
    source: &'static str,
    enforced: (u16, &'static str),
    observed: &'static str,
    /// Under `observe`: the start of the words in the log.
    message: &'static str,
    /// The samples of the metrics.
    samples: [&'static str; 2],
}

const TABLE: [Row; 5] = [
    Row {
        case: Case::Allowed,
        source: "miss",
        enforced: (200, "allow"),
        observed: "allow",
        message: "",
        samples: [r#"{verdict="allow",source="miss"} 1"#; 2],
    },
    Row {
        case: Case::Denied,
        source: "miss",
        enforced: (403, "deny"),
        observed: "would_deny",
        message: "a policy forbids this request",
        samples: [r#"{verdict="deny",source="miss"} 1"#, r#"{verdict="would_deny",source="miss"} 1"#],
    },
    Row {
        case: Case::Limited,
        source: "hit",
        enforced: (429, "limited"),
        observed: "would_limit",
        message: "over the limit `l`: 1 per 3600s",
        samples: [r#"{limit="l",outcome="limited"} 1"#, r#"{limit="l",outcome="would_limit"} 1"#],
    },
    Row {
        case: Case::LimitAway,
        source: "miss",
        enforced: (503, "allow"),
        observed: "would_limit",
        message: "the limit `l` can't be checked: ",
        samples: [r#"{limit="l",outcome="unavailable"} 1"#; 2],
    },
    Row {
        case: Case::Away,
        source: "degraded",
        enforced: (503, "deny"),
        observed: "would_deny",
        message: "no policy decision can be had: ",
        samples: [r#"{verdict="deny",source="degraded"} 1"#, r#"{verdict="would_deny",source="degraded"} 1"#],
    },
];

#[tokio::test]
async fn observe_lets_pass_and_tells_what_enforce_refuses() {
    for Row { case, source, enforced, observed, message, samples } in TABLE {
        let [refused, told] = samples;
        for (enforcement, (status, verdict), message, sample) in
            [(Enforce, enforced, "", refused), (Observe, (200, observed), message, told)]
        {
            let (seen, metrics) = seen(case, enforcement).await;
            assert_eq!(
                (seen.status, seen.verdict.as_deref(), seen.source.as_str()),
                (status, Some(verdict), source),
                "{case:?} {enforcement:?} {seen:?}"
            );
            assert!(seen.message.starts_with(message), "{case:?} {enforcement:?} {seen:?}");
            assert!(metrics.contains(sample), "{case:?} {enforcement:?}: {sample} is not in\n{metrics}");
        }
    }
}

#[tokio::test]
async fn off_asks_nobody_and_charges_nothing() {
    for case in TABLE.map(|row| row.case) {
        let (seen, metrics) = seen(case, Off).await;
        let expected = Seen { status: 200, verdict: None, source: "off".to_owned(), message: String::new() };
        assert_eq!(seen, expected, "{case:?}");
        for absent in ["tidegate_decisions_total{", "tidegate_limit_outcomes_total{"] {
            assert!(!metrics.contains(absent), "{case:?}: {absent} is in\n{metrics}");
        }
        let answered =
            r#"tidegate_requests_total{direction="ingress",service="shop",operation="",code="200"}"#;
        assert!(metrics.contains(answered), "{case:?}: {answered} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_change_of_the_mode_counts_from_its_arrival_on() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    setting.policyd.decide(|_, revision| deny(revision));
    let mut wire = Wire::open(proxy.addresses.ingress.unwrap()).await;
    for (enforcement, status) in [(Observe, 200), (Enforce, 403), (Off, 200), (Enforce, 403), (Observe, 200)]
    {
        setting.policyd.change(|config| config.enforced[0].enforcement = enforcement).await;
        wire.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        assert_eq!(wire.response(false).await.status, status, "{enforcement:?}");
    }
    assert_eq!(application.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_waits_for_its_decision_meets_the_mode_that_comes_meanwhile() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let released = std::sync::Mutex::new(released);
    setting.policyd.decide(move |_, revision| {
        asked.send(()).unwrap();
        // Until the other end is dropped.
        released.lock().unwrap().recv().unwrap_err();
        deny(revision)
    });
    setting.policyd.change(|config| config.enforced[0].enforcement = Observe).await;
    let request = tokio::spawn(async move { get(ingress, "shop", "/").await });
    was_asked.recv().await.unwrap();
    setting.policyd.change(|config| config.enforced[0].enforcement = Enforce).await;
    drop(release);
    assert_eq!(request.await.unwrap().status, 403);
    assert_eq!(application.count(), 0);
}

#[tokio::test]
async fn malformed_requests_and_strangers_are_refused_in_every_mode() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    for enforcement in [Enforce, Observe, Off] {
        setting.policyd.change(|config| config.enforced[0].enforcement = enforcement).await;
        for head in ["GET /%zz HTTP/1.1\r\nHost: shop", "GET / HTTP/1.1\r\nHost: shop\r\nContent-Length: x"] {
            let response = send(ingress, format!("{head}\r\n\r\n")).await;
            assert_eq!(
                (response.status, response.error().as_str()),
                (400, "bad_request"),
                "{enforcement:?} {head}"
            );
        }
        let mut stranger = Wire::open(proxy.addresses.inbound).await;
        stranger.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let mut bytes = [0; 4096];
        let read = stranger.read(&mut bytes).await;
        assert!(!bytes[..read].starts_with(b"HTTP"), "{enforcement:?}");
    }
    assert_eq!(application.count(), 0);
}

#[tokio::test]
async fn who_calls_is_verified_and_told_to_the_application_in_every_mode() {
    let setting = Setting::new().await;
    let (shop, application) = setting.shop().await;
    let cart = setting.proxy("cart", "127.0.0.1:1".parse().unwrap()).await;
    setting.policyd.decide(|_, revision| deny(revision));
    for (enforcement, passes) in [(Observe, true), (Off, true), (Enforce, false)] {
        let endpoints = [("shop-v1", shop.addresses.inbound)];
        let change = |config: &mut Told| {
            config.services = vec![service("shop", &endpoints)];
            config.enforced[0].enforcement = enforcement;
        };
        let ack = setting.policyd.change(change).await;
        let revision = ack.revision.unwrap().into();
        for proxy in [&shop, &cart] {
            let applied = proxy.current().when(|applied| applied.config.revision == revision).await;
            assert_eq!(applied.config.revision, revision);
        }
        let before = application.count();
        get(cart.addresses.outbound, "shop", "/").await;
        assert_eq!(application.count() - before, usize::from(passes), "{enforcement:?}");
        if passes {
            let told = &application.last().headers["x-forwarded-client-cert"];
            assert_eq!(told, &format!("By={};URI={}", id("shop"), id("cart")), "{enforcement:?}");
        }
    }
}

#[tokio::test]
async fn before_its_policies_have_arrived_a_service_is_closed() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    setting.policyd.change(|config| config.enforced.clear()).await;
    let response = get(proxy.addresses.ingress.unwrap(), "shop", "/").await;
    assert_eq!((response.status, response.error().as_str()), (503, "policy_unavailable"));
    assert_eq!(application.count(), 0);
}
