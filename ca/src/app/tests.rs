use std::sync::mpsc;

use identity::client::{self, ClientError, Event};
use identity::succession::{self, Successor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::audit::{self, Options};
use crate::ledger::Kind;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const ID: &str = "spiffe://a.example/ns/n/sa/x";
/// Only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A CA with its folder and clock, and workloads that join it.
struct Mesh {
    folder: tempfile::TempDir,
    clock: Clock,
    /// Of the workloads.
    lifecycle: Lifecycle,
    ca: Bound,
    config: Config,
}

impl Mesh {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new("a.example".parse().unwrap(), folder.path().join("state"));
        change(&mut config);
        let clock = Clock::system();
        let ca = build(config.clone(), clock.clone()).await.unwrap();
        config.listen = ca.address;
        Self { folder, clock, lifecycle: Lifecycle::new(), ca, config }
    }

    fn token(&self, instance: &str) -> String {
        self.ca.join_token(&ID.parse().unwrap(), instance, HOUR).unwrap()
    }

    /// A workload, and what the CA told it when it said no or nothing.
    async fn join(&self, token: &str) -> Result<(Source, mpsc::Receiver<String>), ClientError> {
        let config = client::Config {
            ca_address: self.ca.address,
            ca_id: self.ca.ca_id.clone(),
            bundle: self.ca.trust_bundle.clone(),
            join_token: token.to_owned(),
        };
        let (tell, failures) = mpsc::channel();
        let on_event = move |event: Event<'_>| {
            if let Event::Failed { error, .. } = event {
                drop(tell.send(error.to_string()));
            }
        };
        let source = client::start(config, self.clock.clone(), &self.lifecycle, on_event).await?;
        Ok((source, failures))
    }

    /// Stops the CA; time passes; it starts again, on the same port.
    async fn outage(mut self, length: Duration) -> Self {
        assert!(self.ca.drain(PATIENCE).await);
        drop(self.ca);
        self.clock.advance(length);
        self.ca = build(self.config.clone(), self.clock.clone()).await.unwrap();
        self
    }
}

async fn next(source: &Source, old: &Svid) -> Arc<Identity> {
    let mut changes = source.subscribe();
    let renewed = changes.wait_for(|identity| identity.svid.serial != old.serial);
    let renewed = tokio::time::timeout(PATIENCE, renewed).await.expect("a renewal").unwrap();
    Arc::clone(&renewed)
}

#[tokio::test]
async fn a_workload_joins_and_renews_with_a_new_key_at_half_life() {
    let mesh = Mesh::start().await;
    let (source, _) = mesh.join(&mesh.token("x-1")).await.unwrap();
    let first = source.current().svid.clone();
    assert_eq!((first.id.as_str(), first.chain.len()), (ID, 2));
    mesh.clock.advance(34 * MINUTE);
    let second = next(&source, &first).await.svid.clone();
    mesh.clock.advance(34 * MINUTE);
    let third = next(&source, &second).await.svid.clone();
    let keys = [first, second, third].map(|svid| svid.certified_key.key.public_key().unwrap().to_vec());
    assert!(keys[0] != keys[1] && keys[1] != keys[2]);

    let report = audit::rotation(&mesh.config.ledger_path(), mesh.clock.now(), Options::default()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    let x = report.workloads.iter().find(|workload| workload.instance == "x-1").unwrap();
    assert_eq!((x.spiffe_id.as_str(), x.rotations.len()), (ID, 2));
}

#[tokio::test]
async fn a_process_gets_the_certificate_of_the_one_whose_place_it_takes() {
    let mesh = Mesh::start().await;
    let (source, _) = mesh.join(&mesh.token("x-1")).await.unwrap();
    let first = source.current().svid.clone();
    let held = source.hold().await;
    let ca = client::Ca { address: mesh.ca.address, id: mesh.ca.ca_id.clone() };
    let grant = async || {
        let successor = Successor::new().unwrap();
        let csr = successor.csr().to_vec();
        (successor, succession::grant(&ca, &mesh.clock, &source, csr).await)
    };
    let succeed = |successor, granted| {
        let config = client::Config {
            ca_address: mesh.ca.address,
            ca_id: mesh.ca.ca_id.clone(),
            bundle: mesh.ca.trust_bundle.clone(),
            join_token: "was used before".to_owned(),
        };
        let clock = mesh.clock.clone();
        client::start_as_successor(config, (successor, granted), clock, &mesh.lifecycle, |_| {})
    };
    // One that dies before it takes over costs nothing.
    let (died, granted) = grant().await;
    let (successor, granted) = (grant().await, granted.unwrap());
    assert!(matches!(succeed(successor.0, &granted), Err(ClientError::Svid(_))), "another's certificate");
    drop(died);
    let (successor, granted) = grant().await;
    let next_source = succeed(successor, &granted.unwrap()).unwrap();
    let second = next_source.current().svid.clone();
    assert_eq!(second.id, first.id);
    let key = |svid: &Svid| svid.certified_key.key.public_key().unwrap().to_vec();
    assert_ne!(key(&second), key(&first));
    mesh.clock.advance(34 * MINUTE);
    next(&next_source, &second).await;
    let (_, refused) = grant().await;
    assert!(refused.unwrap_err().to_string().contains("refused"), "its successor is in office");
    drop(held);
    let report = audit::rotation(&mesh.config.ledger_path(), mesh.clock.now(), Options::default()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_token_used_or_unknown_is_refused_for_good() {
    let mesh = Mesh::start().await;
    let token = mesh.token("x-1");
    mesh.join(&token).await.unwrap();
    let (long, too_large) = ("x".repeat(300), "x".repeat(70_000));
    let table = [
        (&*token, "used before"),
        ("guess", "not known"),
        (&long, "too long"),
        (&too_large, "length too large"),
    ];
    for (token, expected) in table {
        let error = mesh.join(token).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)) && error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn renewal_recovers_after_an_outage_also_beyond_the_end_of_the_certificate() {
    for length in [34 * MINUTE, 2 * HOUR, 24 * HOUR] {
        let mesh = Mesh::start().await;
        let (source, failures) = mesh.join(&mesh.token("x-1")).await.unwrap();
        let first = source.current().svid.clone();
        let mesh = mesh.outage(length).await;
        let second = next(&source, &first).await;
        assert_eq!(second.svid.id, first.id, "{length:?}");
        assert!(second.svid.not_after > mesh.clock.now());
        drop(failures);
    }
}

#[tokio::test]
async fn an_outage_beyond_the_grace_needs_a_new_token() {
    let mesh = Mesh::start().await;
    let (source, failures) = mesh.join(&mesh.token("x-1")).await.unwrap();
    let first = source.current().svid.clone();
    let mesh = mesh.outage(26 * HOUR).await;
    let says_why = tokio::task::spawn_blocking(move || {
        // Tries while the CA was down come first.
        failures.iter().find(|error| error.to_lowercase().contains("certificateexpired"))
    });
    assert!(tokio::time::timeout(PATIENCE, says_why).await.unwrap().unwrap().is_some());
    assert_eq!(source.current().svid.serial, first.serial);
    mesh.join(&mesh.token("x-1")).await.unwrap();
}

#[tokio::test]
async fn a_workload_waits_for_a_ca_that_is_not_there_yet() {
    let mesh = Mesh::start().await;
    let token = mesh.token("x-1");
    let joins = {
        let config = client::Config {
            ca_address: mesh.ca.address,
            ca_id: mesh.ca.ca_id.clone(),
            bundle: mesh.ca.trust_bundle.clone(),
            join_token: token,
        };
        assert!(mesh.ca.drain(PATIENCE).await);
        let (tell, mut failed) = tokio::sync::mpsc::unbounded_channel();
        let on_event = move |event: Event<'_>| {
            if let Event::Failed { error, .. } = event {
                drop(tell.send(error.to_string()));
            }
        };
        let (clock, lifecycle) = (mesh.clock.clone(), mesh.lifecycle.clone());
        let joins = tokio::spawn(async move { client::start(config, clock, &lifecycle, on_event).await });
        assert!(failed.recv().await.unwrap().contains("unavailable"));
        joins
    };
    let mesh = mesh.outage(MINUTE).await;
    let source = tokio::time::timeout(PATIENCE, joins).await.unwrap().unwrap().unwrap();
    assert_eq!(source.current().svid.id.as_str(), ID);
    drop(mesh);
}

#[tokio::test]
async fn a_ca_with_another_root_or_id_is_not_talked_to() {
    let (mesh, stranger) = (Mesh::start().await, Mesh::start().await);
    let try_join = |bundle: TrustBundle, ca_id: SpiffeId| {
        let config =
            client::Config { ca_address: mesh.ca.address, ca_id, bundle, join_token: mesh.token("x-1") };
        let (clock, lifecycle) = (mesh.clock.clone(), Lifecycle::new());
        async move {
            let (tell, mut failed) = tokio::sync::mpsc::unbounded_channel();
            let stop = lifecycle.clone();
            let on_event = move |event: Event<'_>| {
                if let Event::Failed { error, .. } = event {
                    drop(tell.send(error.to_string()));
                    stop.stop();
                }
            };
            let result = client::start(config, clock, &lifecycle, on_event).await;
            assert!(matches!(result, Err(ClientError::Stopped)));
            failed.recv().await.unwrap()
        }
    };
    let error = try_join(stranger.ca.trust_bundle.clone(), mesh.ca.ca_id.clone()).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    let error = try_join(mesh.ca.trust_bundle.clone(), ID.parse().unwrap()).await;
    assert!(error.contains("not among the allowed"), "{error}");
}

#[tokio::test]
async fn the_issuing_authority_is_replaced_and_workloads_follow() {
    let change = |config: &mut Config| config.issuing_ca_ttl = 2 * HOUR;
    let mesh = Mesh::start_with(change).await;
    let (source, _) = mesh.join(&mesh.token("x-1")).await.unwrap();
    let first = source.current().svid.clone();
    mesh.clock.advance(34 * MINUTE);
    let second = next(&source, &first).await.svid.clone();
    assert_eq!(first.chain[1], second.chain[1]);
    mesh.clock.advance(34 * MINUTE);
    let mut last = next(&source, &second).await.svid.clone();
    if last.chain[1] == second.chain[1] {
        // The workload was faster than the CA this time.
        mesh.clock.advance(34 * MINUTE);
        last = next(&source, &last).await.svid.clone();
    }
    assert_ne!(last.chain[1], second.chain[1]);
    let report = audit::rotation(&mesh.config.ledger_path(), mesh.clock.now(), Options::default()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    let kinds: Vec<_> = report.authorities.iter().map(|a| (a.kind, a.is_current)).collect();
    assert_eq!(kinds[..2], [(Kind::Root, true), (Kind::Issuing, false)]);
}

#[tokio::test]
async fn a_restart_keeps_the_root_and_goes_on_with_the_ledger() {
    let mesh = Mesh::start().await;
    mesh.join(&mesh.token("x-1")).await.unwrap();
    let root = mesh.ca.trust_bundle.to_pem();
    let mesh = mesh.outage(Duration::ZERO).await;
    assert_eq!(mesh.ca.trust_bundle.to_pem(), root);
    let on_disk = TrustBundle::load(mesh.config.trust_domain.clone(), &mesh.config.bundle_path()).unwrap();
    assert_eq!(on_disk.to_pem(), root);
    mesh.join(&mesh.token("x-2")).await.unwrap();
    let report = audit::rotation(&mesh.config.ledger_path(), mesh.clock.now(), Options::default()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    // Root, issuing authority, two of the CA's own, two workloads.
    assert_eq!((report.entries, report.authorities.len(), report.workloads.len()), (6, 2, 3));
}

#[tokio::test]
async fn a_state_folder_has_one_ca() {
    let mesh = Mesh::start().await;
    let second = Config { listen: "127.0.0.1:0".parse().unwrap(), ..mesh.config.clone() };
    let error = build(second, mesh.clock.clone()).await.unwrap_err().to_string();
    assert!(error.contains("another CA uses"), "{error}");
    drop(mesh.folder);
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let mesh = Mesh::start().await;
    mesh.join(&mesh.token("x-1")).await.unwrap();
    mesh.join("guess").await.unwrap_err();
    mesh.token("x-2");
    let mut admin = TcpStream::connect(mesh.ca.admin_address).await.unwrap();
    admin.write_all(b"GET /metrics HTTP/1.1\r\nhost: ca\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    admin.read_to_string(&mut text).await.unwrap();
    for line in [
        "tidegate_ca_certificates_issued_total{kind=\"attest\"} 1",
        "tidegate_ca_requests_refused_total{reason=\"token_unknown\"} 1",
        "tidegate_ca_issue_duration_seconds_count 2",
        "tidegate_ca_join_tokens_outstanding 1",
        "tidegate_ca_authority_expiry_timestamp_seconds{kind=\"root\"}",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}
