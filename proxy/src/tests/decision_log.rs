//! What stands in the decision log.

use std::path::Path;

use api::config::{DecisionLog, Enforcement};
use daemon::Rotation;
use identity::Source;
use model::decision::Source::{Degraded, Hit, Miss};
use model::{DecisionLine, Name, Operand, Verdict};

use super::setting::*;
use crate::config::DecisionLogDestination;

fn settings(sample_hits: f64) -> Option<DecisionLog> {
    let recorded = vec![Name::Header("x-user".into()), Name::Query("q".into())];
    Some(DecisionLog { sample_hits, recorded, masked: vec![Operand::Context(Name::Query("q".into()))] })
}

fn lines(folder: &Path) -> Vec<DecisionLine> {
    let text = std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn misses_and_a_part_of_the_hits_are_logged_with_what_they_were_decided_on() {
    let setting = Setting::new().await;
    let folder = tempfile::tempdir().unwrap();
    let application = Application::start("shop").await;
    let source = Source::fixed(setting.pki.identity(&id("shop"), HOUR));
    let rotation = Rotation { size_max: 1 << 20, keep: 1 };
    let destination = DecisionLogDestination { path: folder.path().join("decisions.jsonl"), rotation };
    let change = |config: &mut crate::Config| config.decision_log = Some(destination);
    let proxy = setting.proxy_with("shop", application.address, source, change).await;
    proxy.readiness.until_ready().await;
    let ingress = proxy.addresses.ingress.unwrap();
    let ask = async |path: &str| {
        let mut wire = Wire::open(ingress).await;
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: shop\r\nX-User: jason\r\nX-Request-Id: {path}\r\n\r\n");
        wire.write(&head).await;
        wire.response(false).await.status
    };
    // The bundle says nothing of a log: nothing is logged.
    assert_eq!(ask("/quiet").await, 200);
    setting.policyd.change(|config| config.enforced[0].decision_log = settings(0.5)).await;
    for path in ["/miss?q=secret", "/hit-1", "/hit-2", "/hit-3", "/hit-4"] {
        assert_eq!(ask(path).await, 200);
    }
    setting.policyd.decide(|_, revision| deny(revision));
    setting
        .policyd
        .change(|config| {
            config.enforced[0].decision_log = settings(0.0);
            config.enforced[0].enforcement = Enforcement::Observe;
        })
        .await;
    assert_eq!((ask("/observed").await, ask("/hit-5").await), (200, 200));
    setting.policyd.change(|config| config.enforced[0].enforcement = Enforcement::Enforce).await;
    setting.policyd.lifecycle.drain(HOUR).await;
    assert_eq!(ask("/away").await, 503);
    assert!(proxy.drain().await);

    let lines = lines(folder.path());
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.input.path.plain().unwrap(), line.source, line.verdict, line.enforced))
        .collect();
    assert_eq!(
        seen,
        [
            ("/miss", Miss, Verdict::Allow, true),
            ("/hit-2", Hit, Verdict::Allow, true),
            ("/hit-4", Hit, Verdict::Allow, true),
            ("/observed", Miss, Verdict::Deny, false),
            ("/away", Degraded, Verdict::Deny, true),
        ]
    );
    let miss = &lines[0];
    assert_eq!((miss.instance.as_str(), miss.request_id.as_str()), ("shop-v1", "/miss?q=secret"));
    assert_eq!(miss.reasons, ["acl.cedar#0"]);
    assert_eq!(miss.input.headers["x-user"].as_ref().unwrap().plain(), Some("jason"));
    assert_eq!(miss.input.headers.len(), 1);
    assert_eq!(miss.input.query["q"].as_ref().unwrap().plain(), None);
    assert_eq!(lines[1].input.query["q"], None);
    assert_eq!(lines[3].revision, format!("7.{}", REVISION.number + 2));
    let dropped = r#"tidegate_dropped_log_lines_total{log="decisions"} 0"#;
    assert!(proxy.metrics.render().contains(dropped), "{}", proxy.metrics.render());
}
