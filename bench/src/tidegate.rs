//! Tidegate: its daemons as a user runs them, each a process of its own with a configuration file.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::daemons::{Daemon, free_addresses};
use crate::envoy::config::RATE;
use crate::pki::{self, DOMAIN};
use crate::row::{CALLER, Hop, Row, SERVICE, Wire};
use crate::side::{Place, Side};

/// A CA at work, for all jobs.
#[derive(Debug)]
pub(crate) struct Ca {
    binary: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    _daemon: Daemon,
}

/// The addresses of one job's daemons.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    policyd: SocketAddr,
    policyd_admin: SocketAddr,
    inbound: SocketAddr,
    caller_inbound: SocketAddr,
    caller_outbound: SocketAddr,
    caller_admin: SocketAddr,
}

/// The program of sidecars, next to the one that has everything.
const SIDECAR: &str = "tidegate-proxy";

impl Ca {
    /// Starts one with its state in `folder`, whose certificates live for `certificate_ttl`.
    pub(crate) fn start(
        binary: &Path,
        folder: &Path,
        certificate_ttl: Duration,
        others: &[usize],
    ) -> Result<Self> {
        let [address, admin] = free_addresses()?;
        let config = folder.join("ca.yaml");
        fs::write(
            &config,
            format!(
                "trust_domain: {DOMAIN}\nstate_dir: state\nlisten: {address}\nadmin: {admin}\n\
                 certificate_ttl: {}s\n",
                certificate_ttl.as_secs()
            ),
        )?;
        let arguments = ["ca", "--config", &config.display().to_string()];
        let mut daemon = Daemon::start(binary, &arguments, others, folder.join("ca.log"))?;
        daemon.until_ready(admin, "/readyz")?;
        Ok(Self { binary: binary.to_owned(), folder: folder.to_owned(), address, _daemon: daemon })
    }

    /// Its keys, its ledger and the roots to trust.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What every daemon is told of the CA; writes the daemon's join token into `folder`.
    fn introduction(&self, folder: &Path, id: &str, instance: &str) -> Result<String> {
        let config = self.folder.join("ca.yaml");
        let output = Command::new(&self.binary)
            .args(["ca", "token", "--config", &config.display().to_string(), "--id", id])
            .args(["--instance", &format!("{instance}-{}", self.address.port())])
            .output()?;
        if !output.status.success() {
            bail!("no join token for `{id}`: {}", String::from_utf8_lossy(&output.stderr));
        }
        fs::write(folder.join(format!("{instance}.token")), output.stdout)?;
        let trust = self.state().join("bundle.pem");
        Ok(format!(
            "ca: {}\ntrust_domain: {DOMAIN}\ntrust_bundle: {}\njoin_token_file: {instance}.token\n",
            self.address,
            trust.display()
        ))
    }

    /// Starts what does `row`'s job.
    pub(crate) fn start_side(&self, row: &Row, place: &Place<'_>) -> Result<Side> {
        let [policyd, policyd_admin, inbound, ingress, outbound, admin, two, three, four] = free_addresses()?;
        let addresses = Addresses {
            policyd,
            policyd_admin,
            inbound,
            caller_inbound: two,
            caller_outbound: three,
            caller_admin: four,
        };
        let policyd = self.start_policyd(row, &addresses, place)?;
        let mut side =
            Side { name: "Tidegate", target: ingress, processes: Vec::new(), others: vec![policyd] };
        let log = |name: &str| if row.access_log { format!("{name}.access.log") } else { "off".to_owned() };
        let server = format!(
            "instance: {SERVICE}-1\nservice: {SERVICE}\ninbound: {inbound}\noutbound: {outbound}\n\
             ingress: {ingress}\nadmin: {admin}\napplication: {}\npolicyd: {}\naccess_log: {}\n{}",
            place.upstream,
            addresses.policyd,
            log(SERVICE),
            self.introduction(place.folder, &pki::id(SERVICE), &format!("{SERVICE}-1"))?,
        );
        side.processes.push(self.start_proxy(SERVICE, &server, admin, place)?);
        match row.hop {
            Hop::Plain => {}
            Hop::Mutual => side.target = inbound,
            Hop::Pair => {
                side.target = addresses.caller_outbound;
                let client = self.caller(&addresses, &log(CALLER), place)?;
                side.processes.push(self.start_proxy(CALLER, &client, addresses.caller_admin, place)?);
            }
        }
        Ok(side)
    }

    fn caller(&self, addresses: &Addresses, log: &str, place: &Place<'_>) -> Result<String> {
        let instance = format!("{CALLER}-1");
        Ok(format!(
            "instance: {instance}\nservice: {CALLER}\ninbound: {}\noutbound: {}\nadmin: {}\n\
             application: {}\npolicyd: {}\naccess_log: {log}\n{}",
            addresses.caller_inbound,
            addresses.caller_outbound,
            addresses.caller_admin,
            place.upstream,
            addresses.policyd,
            self.introduction(place.folder, &pki::id(CALLER), &instance)?,
        ))
    }

    fn start_policyd(&self, row: &Row, addresses: &Addresses, place: &Place<'_>) -> Result<Daemon> {
        let bundle = place.folder.join("bundle");
        write_bundle(row, &bundle, place.upstream, addresses)?;
        let id = format!("spiffe://{DOMAIN}/ns/tidegate/sa/policyd");
        let config = format!(
            "bundle: bundle\nlisten: {}\nadmin: {}\n{}",
            addresses.policyd,
            addresses.policyd_admin,
            self.introduction(place.folder, &id, "policyd")?
        );
        let path = place.folder.join("policyd.yaml");
        fs::write(&path, config)?;
        let arguments = ["policyd", "--config", &path.display().to_string()];
        let mut daemon =
            Daemon::start(&self.binary, &arguments, place.others, place.folder.join("policyd.log"))?;
        daemon.until_ready(addresses.policyd_admin, "/readyz")?;
        Ok(daemon)
    }

    fn start_proxy(&self, name: &str, config: &str, admin: SocketAddr, place: &Place<'_>) -> Result<Daemon> {
        let path = place.folder.join(format!("{name}.yaml"));
        fs::write(&path, config)?;
        let arguments = ["--config", &path.display().to_string()];
        let log = place.folder.join(format!("{name}.log"));
        let sidecar = self.binary.with_file_name(SIDECAR);
        let mut daemon = Daemon::start(&sidecar, &arguments, place.proxies, log)?;
        daemon.until_ready(admin, "/readyz").with_context(|| format!("the proxy of `{name}`"))?;
        Ok(daemon)
    }
}

fn write_bundle(row: &Row, folder: &Path, upstream: SocketAddr, addresses: &Addresses) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("mesh.yaml"), mesh(row, upstream, addresses.inbound, addresses.caller_inbound))?;
    if row.policies > 0 {
        fs::write(folder.join("acl.cedar"), policies(row))?;
    }
    if row.limited {
        fs::write(folder.join("limits.yaml"), limits())?;
    }
    Ok(())
}

/// Replaces the policies of a job at work in `folder` by the same and another one, of this number, for nobody's path.
pub(crate) fn edit(row: &Row, folder: &Path, number: u64) -> Result<()> {
    let more = format!(
        "@id(\"edit-{number}\")\npermit (principal, action == Action::\"http\", resource == Service::\"{SERVICE}\")\n\
         when {{ context.path like \"/edit/{number}/*\" }};\n"
    );
    let new = folder.join("acl.cedar.new");
    fs::write(&new, policies(row) + &more)?;
    fs::rename(new, folder.join("bundle/acl.cedar")).context("the policies can't be replaced")
}

fn mesh(row: &Row, upstream: SocketAddr, inbound: SocketAddr, caller_inbound: SocketAddr) -> String {
    let enforcement = if row.policies > 0 { "enforce" } else { "off" };
    let protocol = match row.wire {
        Wire::Http => "http1",
        Wire::Tcp => "tcp",
        Wire::Grpc { .. } => "http2",
    };
    format!(
        "trust_domain: {DOMAIN}\ncertificate_ttl: 1d\nservices:\n  {SERVICE}:\n    namespace: bench\n    \
         protocol: {protocol}\n    enforcement: {enforcement}\n    instances:\n      - name: {SERVICE}-1\n        endpoint: {upstream}\n        \
         inbound: {inbound}\n  {CALLER}:\n    namespace: bench\n    instances:\n      - name: {CALLER}-1\n        \
         endpoint: {upstream}\n        inbound: {caller_inbound}\n"
    )
}

fn policies(row: &Row) -> String {
    (0..row.policies).fold(String::new(), |mut text, number| {
        let (prefix, caller) = row.policy(number);
        let principal = caller
            .map_or_else(|| "principal".to_owned(), |caller| format!("principal == Workload::\"{}\"", pki::id(&caller)));
        let written = writeln!(
            text,
            "@id(\"p{number:04}\")\npermit ({principal}, action == Action::\"http\", resource == Service::\"{SERVICE}\")\n\
             when {{ context.method == \"GET\" && context.path like \"{prefix}*\" }};"
        );
        debug_assert!(written.is_ok(), "a String takes everything");
        text
    })
}

fn limits() -> String {
    format!(
        "limits:\n  - name: all\n    service: {SERVICE}\n    key: [resource]\n    rate: {RATE}/s\n    mode: local\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> Row {
        Row::called(id).unwrap()
    }

    #[test]
    fn a_bundle_has_the_policies_of_its_job() {
        let plain = policies(&row("acl1000"));
        assert_eq!(plain.matches("permit (principal, ").count(), 1000);
        assert!(plain.contains("like \"/api/v0999/orders/*\""));
        let mutual = policies(&row("mtls"));
        let own = "principal == Workload::\"spiffe://bench.example/ns/bench/sa/caller\"";
        assert_eq!((mutual.matches("permit (").count(), mutual.matches(own).count()), (20, 1));
    }

    #[test]
    fn a_job_of_grpc_is_for_a_service_that_speaks_http2() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let of = |id: &str| mesh(&row(id), at(1), at(2), at(3));
        assert!(of("http1").contains("protocol: http1") && of("grpc-8x16").contains("protocol: http2"));
        assert!(of("tcp").contains("protocol: tcp"));
    }

    #[test]
    fn a_job_without_policies_decides_nothing() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let of = |id: &str| mesh(&row(id), at(1), at(2), at(3));
        assert!(of("http1").contains("enforcement: off") && of("acl20").contains("enforcement: enforce"));
    }
}
