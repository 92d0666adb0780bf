use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use adapters::{CheckError, CheckHandler};
use async_trait::async_trait;
use model::{Action, Revision};

use super::*;
use crate::bundle::{Bundle, Files};
use crate::handlers::Handlers;
use crate::snapshot::Current;

const MESH: &str = "\
trust_domain: shop.example
decision_validity: 30s
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";
const ALL: &str = "@id(\"all\") permit (principal, action, resource);";
const LIMITS: &str = "limits: [{name: l, rate: 1/s}]\n";
const CALLER: &str = "spiffe://shop.example/ns/shop/sa/caller";

fn bundle(folder: &Path, adapters: &str, acl: &str) -> Arc<Bundle> {
    let texts =
        [("mesh.yaml", MESH), ("acl.cedar", acl), ("limits.yaml", LIMITS), ("adapters.yaml", adapters)];
    let texts: BTreeMap<String, String> =
        texts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let files = Files { folder: folder.to_owned(), texts };
    Arc::new(Bundle::load(&files).unwrap_or_else(|findings| panic!("{}", findings.render(false))))
}

fn request(path: &str) -> Attributes {
    Attributes {
        principal: CALLER.parse().unwrap(),
        action: Action::Http,
        resource: "orders".into(),
        method: "GET".into(),
        path: path.into(),
        host: "orders".into(),
        headers: BTreeMap::new(),
        query: BTreeMap::new(),
        source_ip: "10.0.0.1".parse().unwrap(),
        tls: true,
        time: "2026-01-01T00:00:00Z".parse().unwrap(),
        ..Attributes::default()
    }
}

async fn decided(bundle: Arc<Bundle>, path: &str) -> Decision {
    let handlers = Handlers::start(&bundle).await.unwrap();
    check(&Current::new(bundle, Arc::new(handlers), 7).get(), &request(path)).await
}

fn summary(decision: &Decision) -> (Verdict, Vec<&str>, u64, bool) {
    let reasons = decision.reasons.iter().map(String::as_str).collect();
    (decision.verdict, reasons, decision.valid_for.as_secs(), decision.degraded)
}

#[tokio::test]
async fn deny_wins_and_the_shortest_validity_holds() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("callers.txt"), CALLER).unwrap();
    let adapters = "
handlers:
  - {name: closed, adapter: denier, config: {message: closed, valid_for: 5s}}
  - {name: known, adapter: list, config: {mode: allow, match: exact, file: callers.txt, valid_for: 10s}}
  - {name: paths, adapter: list, config: {mode: deny, match: glob, entries: ['/bad*'], valid_for: 20s}}
instances:
  - {name: caller, fields: {value: principal}}
  - {name: path, fields: {value: 'if context.tls then context.path else \"/bad\"'}}
rules:
  - {name: maintenance, match: 'context.path like \"/closed*\"', actions: [{handler: closed}]}
  - {name: callers, actions: [{handler: known, instances: [caller]}]}
  - {name: places, actions: [{handler: paths, instances: [path]}]}
";
    let bundle = bundle(folder.path(), adapters, ALL);
    let fine = decided(bundle.clone(), "/").await;
    assert_eq!(summary(&fine), (Verdict::Allow, vec!["all"], 10, false));
    assert_eq!(fine.limits, ["l"]);
    assert_eq!(fine.revision, Revision { epoch: 7, number: 1 });
    let closed = decided(bundle.clone(), "/closed").await;
    assert_eq!(summary(&closed), (Verdict::Deny, vec!["adapter/maintenance"], 5, false));
    assert_eq!(closed.message, "closed");
    assert!(closed.limits.is_empty() && closed.rules.is_empty());
    // The expression was evaluated, and what it gave is on the list.
    let bad = decided(bundle.clone(), "/bad/one").await;
    assert_eq!(summary(&bad), (Verdict::Deny, vec!["adapter/places"], 10, false));
    std::fs::write(folder.path().join("callers.txt"), "someone").unwrap();
    let stranger = decided(bundle, "/").await;
    assert_eq!(summary(&stranger), (Verdict::Deny, vec!["adapter/callers"], 10, false));
}

#[tokio::test]
async fn adapters_are_not_asked_where_the_policies_deny() {
    let adapters =
        "handlers: [{name: closed, adapter: denier}]\nrules: [{name: r, actions: [{handler: closed}]}]\n";
    let denied = decided(bundle(Path::new("."), adapters, ""), "/").await;
    assert_eq!(summary(&denied), (Verdict::Deny, vec![], 30, false));
}

/// Answers with what it was made with.
#[derive(Debug)]
struct Stub(Result<Opinion, CheckError>);

#[async_trait]
impl CheckHandler for Stub {
    async fn check(&self, _instance: &Instance) -> Result<Opinion, CheckError> {
        self.0.clone()
    }
}

/// Never answers.
#[derive(Debug)]
struct Stuck;

#[async_trait]
impl CheckHandler for Stuck {
    async fn check(&self, _instance: &Instance) -> Result<Opinion, CheckError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_hangs_or_is_gone_denies_degraded() {
    let adapters = "handlers: [{name: h, adapter: denier}]\nrules: [{name: r, actions: [{handler: h}]}]\n";
    let bundle = bundle(Path::new("."), adapters, ALL);
    let doubtful = Opinion { degraded: true, ..Opinion::indifferent() };
    let table: [(Handlers, &str, Vec<&str>); 4] = [
        (
            Handlers::of([("h", Arc::new(Stub(Err(CheckError::Unavailable("no answer".into())))))]),
            "the handler `h` has no answer: the handler can't decide: no answer",
            vec!["adapter/r"],
        ),
        (Handlers::of([("h", Arc::new(Stuck))]), "the check adapters took too long", vec![]),
        (Handlers::of([]), "the handler `h` is not running", vec![]),
        (Handlers::of([("h", Arc::new(Stub(Ok(doubtful))))]), "", vec!["all"]),
    ];
    for (handlers, message, reasons) in table {
        let snapshot = Current::new(bundle.clone(), Arc::new(handlers), 1).get();
        let decision = check(&snapshot, &request("/")).await;
        assert_eq!(summary(&decision), (Verdict::Deny, reasons, 0, true), "{message}");
        assert_eq!(decision.message, message);
        assert!(decision.limits.is_empty());
    }
}

#[tokio::test]
async fn an_input_that_fails_denies_even_if_a_missing_value_would_pass() {
    let adapters = "
handlers: [{name: paths, adapter: list, config: {mode: deny, match: exact, entries: [x], missing: allow}}]
instances:
  - {name: sum, fields: {value: 'if 9223372036854775807 + (if context.tls then 1 else 0) > 0 then context.path else \"x\"'}}
rules: [{name: r, actions: [{handler: paths, instances: [sum]}]}]
";
    let decision = decided(bundle(Path::new("."), adapters, ALL), "/").await;
    assert_eq!(summary(&decision), (Verdict::Deny, vec!["adapter/r"], 0, true));
    assert!(decision.message.contains("overflow"), "{}", decision.message);
}

#[tokio::test]
async fn attributes_that_make_no_request_are_denied_degraded() {
    let bundle = bundle(Path::new("."), "handlers: []\n", ALL);
    let snapshot = Current::new(bundle, Arc::default(), 1).get();
    let mapped = Attributes { source_ip: "::ffff:10.0.0.1".parse().unwrap(), ..request("/") };
    let decision = check(&snapshot, &mapped).await;
    assert_eq!(summary(&decision), (Verdict::Deny, vec![], 0, true));
}

#[tokio::test]
async fn what_shadow_policies_would_do_is_told_and_not_done() {
    let adapters = "
handlers: [{name: paths, adapter: list, config: {mode: deny, match: glob, entries: ['/blocked*']}}]
instances: [{name: path, fields: {value: context.path}}]
rules: [{name: r, actions: [{handler: paths, instances: [path]}]}]
";
    let acl = r#"
@id("all") permit (principal, action == Action::"http", resource) unless { context.path like "/new*" };
@id("old") @shadow("true") forbid (principal, action == Action::"http", resource) when { context.path like "/old*" };
@id("new") @shadow("true") permit (principal, action == Action::"http", resource) when { context.path like "/new*" };
@id("sum") @shadow("true") forbid (principal, action == Action::"http", resource)
when { context.path like "/sum*" && 9223372036854775807 + (if context.tls then 1 else 0) > 0 };
"#;
    let bundle = bundle(Path::new("."), adapters, acl);
    let table = [
        ("/", Verdict::Allow, Verdict::Allow, vec!["all"], false),
        ("/old", Verdict::Allow, Verdict::Deny, vec!["old"], false),
        ("/new", Verdict::Deny, Verdict::Allow, vec!["new"], false),
        ("/blocked", Verdict::Deny, Verdict::Deny, vec!["adapter/r"], false),
        ("/sum", Verdict::Allow, Verdict::Deny, vec![], true),
    ];
    for (path, verdict, would_be, reasons, degraded) in table {
        let decision = decided(bundle.clone(), path).await;
        assert_eq!((decision.verdict, decision.degraded), (verdict, false), "{path}");
        assert!(!decision.valid_for.is_zero(), "{path}");
        let reasons = reasons.into_iter().map(str::to_owned).collect();
        let expected = model::Shadow { name: "shadow".into(), verdict: would_be, reasons, degraded };
        assert_eq!(decision.shadows, [expected], "{path}");
    }
}

#[tokio::test]
async fn what_a_candidate_would_do_is_told_and_not_done() {
    let live = bundle(Path::new("."), "handlers: []\n", ALL);
    let permit = "@id(\"next\") permit (principal, action == Action::\"http\", resource)";
    let reads = format!("{permit} when {{ context.headers has \"x\" && context.headers[\"x\"] == \"1\" }};");
    let fails = format!("{permit} when {{ 9223372036854775807 + (if context.tls then 1 else 0) > 0 }};");
    let dear = format!("{permit} when {{ context.time <= context.time }};");
    let domain = MESH.replace("shop.example", "other.example");
    let service = MESH.replace("orders", "others");
    let table = [
        (MESH, reads.as_str(), Some((vec![], false))),
        (MESH, &fails, Some((vec![], true))),
        (MESH, &dear, None),
        (&domain, &reads, Some((vec!["another trust domain"], false))),
        (&service, &reads, Some((vec!["no such service"], false))),
    ];
    for (mesh, acl, expected) in table {
        let texts = [("mesh.yaml", mesh), ("acl.cedar", acl)];
        let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let tried = Arc::new(Bundle::load(&Files { folder: ".".into(), texts }).unwrap());
        let concerns = Arc::new(crate::concern::Concerns::of(&tried));
        let candidate = crate::candidate::Candidate { name: "next".into(), bundle: tried, concerns };
        let current = Current::new(live.clone(), Arc::default(), 1);
        let before = current.get();
        let snapshot = current.trying(Arc::new(vec![candidate]));
        assert!(snapshot.decisions_since("orders").number > before.decisions_since("orders").number, "{acl}");
        // What it reads is part of the key, if it is evaluated at all; and nobody pays for it otherwise.
        let atoms = snapshot.atoms("orders").unwrap();
        assert!(atoms.is_cacheable());
        let reads_header = atoms.atoms().iter().any(|atom| atom.name.field().is_some());
        assert_eq!(reads_header, mesh == MESH && acl == reads, "{mesh}{acl}");
        let decision = check(&snapshot, &request("/")).await;
        assert_eq!(summary(&decision), (Verdict::Allow, vec!["all"], 30, false));
        let expected = expected.map(|(reasons, degraded)| model::Shadow {
            name: "next".into(),
            verdict: Verdict::Deny,
            reasons: reasons.into_iter().map(str::to_owned).collect(),
            degraded,
        });
        assert_eq!(decision.shadows, Vec::from_iter(expected), "{mesh}{acl}");
    }
}
