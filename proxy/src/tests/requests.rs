//! What is decided on, and what is answered.

use std::time::Duration;

use api::config::{Exposure, ReportAction, ReportHandler, ReportInstance, ReportRule};
use api::policy as wire;
use model::operand::ResponseName;
use model::{Atom, AtomSet, FailMode, Limit, Mode, Name, Operand, Principal, Test};

use super::setting::*;
use crate::config::AccessLogDestination;

#[tokio::test]
async fn an_allowed_request_reaches_the_application_and_the_next_is_decided_here() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    for _ in 0..3 {
        let response = get(proxy.addresses.ingress.unwrap(), "shop", "/cart").await;
        assert_eq!((response.status, response.body.as_str()), (200, "shop"));
    }
    assert_eq!(application.count(), 3);
    let checks = setting.policyd.checks.lock().unwrap();
    let [attributes] = checks.as_slice() else { panic!("{} checks", checks.len()) };
    assert_eq!((&attributes.principal, attributes.resource.as_str()), (&Principal::Unauthenticated, "shop"));
    assert_eq!(
        (attributes.method.as_str(), attributes.path.as_str(), attributes.tls),
        ("GET", "/cart", false)
    );
    let metrics = proxy.metrics.render();
    for line in [
        r#"tidegate_decisions_total{verdict="allow",source="miss"} 1"#,
        r#"tidegate_decisions_total{verdict="allow",source="hit"} 2"#,
        r#"tidegate_requests_total{direction="ingress",service="shop",operation="",code="200"} 3"#,
        "tidegate_decision_cache_entries 1",
        "tidegate_policyd_connected 1",
        "tidegate_config_revision 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_denial_names_its_policy_to_those_who_may_know() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    setting.policyd.decide(|_, revision| deny(revision));
    for (exposure, policy) in [(Exposure::Mesh, None), (Exposure::All, Some("acl.cedar#2"))] {
        setting.policyd.change(|config| config.enforced[0].denial_exposure = exposure).await;
        let response = get(ingress, "shop", "/").await;
        assert_eq!((response.status, response.error().as_str()), (403, "denied"));
        assert_eq!(response.header("x-tidegate-policy"), policy);
        assert_eq!(response.body.contains("acl.cedar#2"), policy.is_some());
    }
    assert_eq!(application.count(), 0);
}

#[tokio::test]
async fn a_change_counts_from_its_arrival_on() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    assert_eq!(get(ingress, "shop", "/").await.status, 200);
    for (allowed, status) in [(false, 403), (true, 200), (false, 403)] {
        setting.policyd.decide(move |_, revision| if allowed { allow(revision) } else { deny(revision) });
        let ack = setting.policyd.change(|_| {}).await;
        assert_eq!((ack.error.as_str(), get(ingress, "shop", "/").await.status), ("", status));
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_applied_changes_nothing() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    let handler =
        ReportHandler { name: "broken".into(), adapter: "nonsense".into(), config: serde_json::json!({}) };
    let ack = setting
        .policyd
        .change(|config| {
            config.handlers.push(handler);
            config.services.clear();
        })
        .await;
    assert_eq!(ack.error, "the handler `broken`: there is no adapter `nonsense`");
    assert_eq!(get(proxy.addresses.ingress.unwrap(), "shop", "/").await.status, 200);
    let ack = setting.policyd.change(|config| config.handlers.clear()).await;
    assert_eq!(ack.error, "");
}

#[tokio::test]
async fn without_policyd_the_fail_mode_answers() {
    for (fail_mode, status) in [(FailMode::Closed, 503), (FailMode::Open, 200)] {
        let setting = Setting::new().await;
        let (proxy, _application) = setting.shop().await;
        let ingress = proxy.addresses.ingress.unwrap();
        setting
            .policyd
            .change(|config| {
                config.enforced[0].fail_mode = fail_mode;
                config.enforced[0].atoms = AtomSet::new(vec![Atom::new(Name::Path, Test::Value)], true);
            })
            .await;
        assert_eq!(get(ingress, "shop", "/cached").await.status, 200);
        assert!(setting.policyd.lifecycle.drain(Duration::from_secs(10)).await);
        assert_eq!(get(ingress, "shop", "/cached").await.status, 200, "what was decided counts on");
        let response = get(ingress, "shop", "/new").await;
        assert_eq!(response.status, status);
        if status == 503 {
            assert_eq!(response.error(), "policy_unavailable");
        }
        let metrics = proxy.metrics.render();
        assert!(metrics.contains(r#"source="degraded"} 1"#), "{metrics}");
    }
}

fn limit(name: &str, mode: Mode) -> Limit {
    let key = vec![Operand::Context(Name::Header("user".into()))];
    Limit::of_rate(name, mode, "2/min".parse().unwrap(), key)
}

#[tokio::test]
async fn limits_are_charged_and_told() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    setting.policyd.decide(|_, revision| model::Decision {
        limits: vec!["local".into(), "mesh".into()],
        ..allow(revision)
    });
    setting
        .policyd
        .change(|config| config.limits = vec![limit("local", Mode::Local), limit("mesh", Mode::Exact)])
        .await;
    let balance = |remaining, retry_after_ms| wire::Balance {
        limit: "mesh".into(),
        remaining,
        retry_after_ms,
        reset_ms: 30_000,
    };
    let ask = async |user: &str| {
        send(ingress, format!("GET / HTTP/1.1\r\nHost: shop\r\nuser: {user}\r\n\r\n")).await
    };

    setting.policyd.will_take(wire::TakeResponse { allowed: true, balances: vec![balance(0, 0)] });
    let allowed = ask("a").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("ratelimit-policy"), Some(r#""mesh";q=2;w=60, "local";q=2;w=60"#));
    assert_eq!(allowed.header("ratelimit"), Some(r#""mesh";r=0;t=30, "local";r=1;t=30"#));

    setting.policyd.will_take(wire::TakeResponse { allowed: false, balances: vec![balance(0, 1500)] });
    let over = ask("a").await;
    assert_eq!((over.status, over.error().as_str(), over.header("retry-after")), (429, "limited", Some("2")));
    assert_eq!(over.header("ratelimit"), Some(r#""mesh";r=0;t=2"#));

    // What one limit refuses is charged to none; and what is over a local one, policyd is not asked about.
    setting.policyd.will_take(wire::TakeResponse { allowed: true, balances: vec![balance(0, 0)] });
    assert_eq!(ask("a").await.header("ratelimit"), Some(r#""mesh";r=0;t=30, "local";r=0;t=60"#));
    let over = ask("a").await;
    assert_eq!((over.status, over.header("ratelimit-policy")), (429, Some(r#""local";q=2;w=60"#)));
    assert_eq!(setting.policyd.takes.lock().unwrap().len(), 3);
    let unavailable = ask("b").await;
    assert_eq!((unavailable.status, unavailable.error().as_str()), (503, "limit_unavailable"));
    assert_eq!(application.count(), 2);
    assert_eq!(setting.policyd.takes.lock().unwrap()[0].charges[0].key, "s1:a");
    let metrics = proxy.metrics.render();
    assert!(
        metrics.contains(r#"tidegate_limit_outcomes_total{limit="local",outcome="limited"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_limit_that_is_newer_than_the_configuration_is_waited_for() {
    let setting = Setting::new().await;
    let (proxy, _application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    setting.policyd.decide(|_, revision| model::Decision { limits: vec!["new".into()], ..allow(revision) });
    let request = tokio::spawn(async move { get(ingress, "shop", "/").await });
    let asked = async {
        while setting.policyd.checks.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("a question");
    setting.policyd.change(|config| config.limits = vec![limit("new", Mode::Local)]).await;
    let response = request.await.unwrap();
    assert_eq!((response.status, response.header("ratelimit")), (200, Some(r#""new";r=1;t=30"#)));
}

#[tokio::test]
async fn rules_report_what_came_of_a_request() {
    let setting = Setting::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (log, reports) = (folder.path().join("access.log"), folder.path().join("reports.log"));
    let application = Application::start("shop").await;
    let source = identity::Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let proxy = setting
        .proxy_with("shop", application.address, source, |config| {
            config.access_log = AccessLogDestination::File(log.clone());
        })
        .await;
    proxy.readiness.until_ready().await;
    setting.policyd.decide(|_, revision| model::Decision { rules: vec!["all".into()], ..allow(revision) });
    let field = |name: &str, operand| (name.to_owned(), operand);
    let fields = vec![
        field("path", Operand::Context(Name::Path)),
        field("code", Operand::Response(ResponseName::Code)),
        field("sent", Operand::Response(ResponseName::ResponseBytes)),
        field("verdict", Operand::Response(ResponseName::Verdict)),
    ];
    let handler = ReportHandler {
        name: "file".into(),
        adapter: "file".into(),
        config: serde_json::json!({ "path": reports }),
    };
    let instance = ReportInstance { name: "access".into(), fields };
    let action = ReportAction { handler: "file".into(), instances: vec![instance] };
    let ack = setting
        .policyd
        .change(|config| {
            config.handlers = vec![handler];
            config.rules = vec![ReportRule { name: "all".into(), actions: vec![action] }];
        })
        .await;
    assert_eq!(ack.error, "");
    get(proxy.addresses.ingress.unwrap(), "shop", "/told").await;
    assert!(proxy.drain().await);

    let report = std::fs::read_to_string(&reports).unwrap();
    for part in [r#""path":"/told""#, r#""code":200"#, r#""sent":4"#, r#""verdict":"allow""#] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    let line: serde_json::Value =
        serde_json::from_str(std::fs::read_to_string(&log).unwrap().lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "direction": "ingress", "principal": "unauthenticated", "service": "shop", "method": "GET", "path": "/told",
        "status": 200, "complete": true, "verdict": "allow", "decision_source": "miss", "reasons": ["acl.cedar#0"],
        "revision": "7.2", "upstream_instance": "shop-v1", "upstream_address": application.address.to_string(),
        "request_bytes": 0, "response_bytes": 4,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name}");
    }
    for name in ["ts", "trace_id", "request_id", "duration_us", "decision_us"] {
        assert!(!line[name].is_null(), "{name}");
    }
}

#[tokio::test]
async fn repeated_slashes_are_one_for_policies_and_for_the_application_alike() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let ingress = proxy.addresses.ingress.unwrap();
    for (merges, expected) in [(false, "//a//b/"), (true, "/a/b/"), (false, "//a//b/")] {
        let change = |config: &mut Told| {
            (config.enforced[0].merge_slashes, config.enforced[0].revision) = (merges, config.revision);
        };
        assert_eq!(setting.policyd.change(change).await.error, "");
        assert_eq!(get(ingress, "shop", "//a/.//b/?x=//y").await.status, 200);
        let checked = setting.policyd.checks.lock().unwrap().last().unwrap().clone();
        assert_eq!(checked.path, expected);
        assert_eq!(application.last().line, format!("GET {expected}?x=//y"));
    }
}
