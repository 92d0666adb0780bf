use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::row::{Hop, ROWS};

fn certificates(folder: &Path) -> Files {
    pki::make_authority(folder);
    pki::issue(folder, SERVICE, folder).unwrap()
}

/// The configurations of all jobs.
fn configurations(files: &Files) -> Vec<(String, Value)> {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let server = |row: &Row| {
        let server = Server {
            admin: at(1),
            listen: at(2),
            upstream: at(3),
            row,
            tls: (row.hop != Hop::Plain).then_some(files),
            authz: row.envoy_asks.then(|| at(4)),
            access_log: row.access_log.then(|| PathBuf::from("/dev/null")),
        };
        (format!("{}-server", row.id), server.json())
    };
    let client = |row: &Row| {
        let access_log = row.access_log.then(|| PathBuf::from("/dev/null"));
        let client = Client { admin: at(1), listen: at(2), sidecar: at(3), tls: files, access_log };
        (format!("{}-client", row.id), client.json())
    };
    let pairs = ROWS.iter().filter(|row| row.hop == Hop::Pair);
    ROWS.iter().map(server).chain(pairs.map(client)).collect()
}

#[test]
fn envoy_takes_every_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let Some(envoy) = crate::envoy::installed(&root.join("target/bench")) else {
        println!("SKIPPED: Envoy is not there; `cargo run --release -p tidegate-bench` installs it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in configurations(&certificates(folder.path())) {
        let path = folder.path().join("envoy.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let output = Command::new(&envoy).args(["--mode", "validate", "-c"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn envoy_has_what_the_job_says() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<(String, String)> = configurations(&certificates(folder.path()))
        .into_iter()
        .map(|(name, config)| (name, config.to_string()))
        .collect();
    let of = |name: &str| texts.iter().find(|(found, _)| found == name).unwrap().1.as_str();
    let policies = |text: &str| text.matches("\"permissions\"").count();
    assert_eq!([policies(of("http1-server")), policies(of("acl1000-server"))], [0, 1000]);
    assert!(
        of("acl20-server").contains("local_ratelimit") && !of("http1-server").contains("local_ratelimit")
    );
    assert!(
        of("http1-log-server").contains("FileAccessLog") && !of("http1-server").contains("FileAccessLog")
    );
    assert!(of("ext-authz-server").contains("ext_authz") && policies(of("ext-authz-server")) == 0);
    assert!(of("mtls-server").contains("require_client_certificate"));
    assert!(
        of("tcp-server").contains("TcpProxy") && of("grpc-32x1-server").contains("http2_protocol_options")
    );
    assert!(of("pair-client").contains("UpstreamTlsContext"));
}
