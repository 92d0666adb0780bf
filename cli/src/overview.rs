//! What `tidegate up` shows once everything runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::config::Enforcement;
use comfy_table::{Table, TableStyle, presets};
use jiff::{SignedDuration, Timestamp};
use policyd::snapshot::Snapshot;
use serde::Serialize;

use crate::mesh::{Mesh, Sidecar};

/// A mesh as its user sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The services, one row for each instance.
    pub services: Vec<Row>,
    /// The daemons' admin addresses.
    pub admin: Admin,
    /// Where callers from outside come in, by service.
    pub ingress: Vec<Ingress>,
    /// What to try.
    pub tries: Vec<Try>,
    /// The folder of the decision logs, one file for each instance.
    pub decision_logs: Option<PathBuf>,
}

/// One instance.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The service's name.
    pub service: String,
    /// The instance's name.
    pub instance: String,
    /// The service version.
    pub version: String,
    /// Its identity.
    pub spiffe_id: String,
    /// When its certificate ends.
    pub certificate_expires: Timestamp,
    /// Where other sidecars reach it.
    pub inbound: String,
    /// Where the service sends its calls.
    pub outbound: String,
    /// Its sidecar's metrics and health.
    pub admin: String,
    /// Where the service connects to services of raw connections, by their names.
    pub tcp: BTreeMap<String, String>,
    /// Whether sidecar and service both answer.
    pub healthy: bool,
    /// What decisions and limits do to its requests.
    pub enforcement: Enforcement,
}

/// Where metrics and health are.
#[derive(Clone, Debug, Serialize)]
pub struct Admin {
    /// The CA's.
    pub ca: String,
    /// policyd's.
    pub policyd: String,
}

/// Where callers from outside the mesh come in.
#[derive(Clone, Debug, Serialize)]
pub struct Ingress {
    /// The service.
    pub service: String,
    /// The URL.
    pub url: String,
}

/// A line to try.
#[derive(Clone, Debug, Serialize)]
pub struct Try {
    /// What will be seen.
    pub about: String,
    /// The command.
    pub run: String,
}

impl Overview {
    /// Looks at a running mesh.
    pub async fn of(mesh: &Mesh) -> Self {
        // As it is now: the bundle may have changed since the mesh was started.
        let policies = mesh.policyd.current.get();
        let mut services = Vec::new();
        for sidecar in &mesh.sidecars {
            services.push(row(sidecar, &policies).await);
        }
        let ingress = mesh.sidecars.iter().filter_map(|sidecar| {
            let address = sidecar.proxy.addresses.ingress?;
            Some(Ingress { service: sidecar.service.clone(), url: format!("http://{address}/") })
        });
        let tries = mesh.bundle.mesh.tries.iter();
        let tries =
            tries.map(|line| Try { about: line.about.clone(), run: filled(&line.run, &mesh.sidecars) });
        Self {
            services,
            admin: Admin { ca: mesh.ca.admin_address.to_string(), policyd: mesh.policyd.admin.to_string() },
            ingress: ingress.collect(),
            tries: tries.collect(),
            decision_logs: mesh.decision_logs.clone(),
        }
    }

    /// The overview for people.
    pub fn text(&self, now: Timestamp) -> String {
        let mut table = table(
            presets::NOTHING,
            ["service", "version", "SPIFFE ID", "certificate", "inbound", "outbound", "health"],
        );
        for row in &self.services {
            let left = row.certificate_expires.duration_since(now);
            table.add_row([
                row.service.clone(),
                row.version.clone(),
                row.spiffe_id.clone(),
                format!("ends in {}", shown(left)),
                row.inbound.clone(),
                row.outbound.clone(),
                health(row),
            ]);
        }
        let mut text = format!("{}\n\n", unpadded(&table));
        for ingress in &self.ingress {
            text.push_str(&format!("{:<12} {}\n", ingress.service, ingress.url));
        }
        for row in &self.services {
            for (service, address) in &row.tcp {
                text.push_str(&format!("{:<12} {address} leads from {} to {service}\n", "tcp", row.instance));
            }
        }
        text.push_str(&format!(
            "{:<12} http://{}/metrics (CA), http://{}/metrics (policyd)\n",
            "admin", self.admin.ca, self.admin.policyd
        ));
        if !self.tries.is_empty() {
            text.push_str("\nTry:\n");
        }
        for line in &self.tries {
            text.push_str(&format!("  # {}\n  {}\n", line.about, line.run));
        }
        text
    }
}

/// A protected service needs no word; one that lets everything pass is not to be mistaken for it.
fn health(row: &Row) -> String {
    let health = if row.healthy { "ok" } else { "not ready" };
    match row.enforcement {
        Enforcement::Enforce => health.to_owned(),
        mode => format!("{health} ({})", mode.as_str()),
    }
}

async fn row(sidecar: &Sidecar, policies: &Snapshot) -> Row {
    let declared = policies.bundle.mesh.services.get(&sidecar.service);
    let addresses = &sidecar.proxy.addresses;
    Row {
        service: sidecar.service.clone(),
        instance: sidecar.instance.name.clone(),
        version: sidecar.instance.version.clone(),
        spiffe_id: sidecar.spiffe_id.to_string(),
        certificate_expires: sidecar.proxy.source.current().svid.not_after,
        inbound: addresses.inbound.to_string(),
        outbound: addresses.outbound.to_string(),
        admin: addresses.admin.to_string(),
        tcp: sidecar.proxy.tcp.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
        healthy: sidecar.is_healthy().await,
        enforcement: declared.map(|service| service.enforcement).unwrap_or_default(),
    }
}

/// Puts addresses in the place of `{<service>.ingress}`, `{<instance>.inbound}`, `{<instance>.outbound}` and
/// `{<instance>.tcp.<service>}`.
fn filled(text: &str, sidecars: &[Sidecar]) -> String {
    let mut filled = text.to_owned();
    for sidecar in sidecars {
        let addresses = &sidecar.proxy.addresses;
        let name = &sidecar.instance.name;
        filled = filled.replace(&format!("{{{name}.inbound}}"), &addresses.inbound.to_string());
        filled = filled.replace(&format!("{{{name}.outbound}}"), &addresses.outbound.to_string());
        for (service, address) in &sidecar.proxy.tcp {
            filled = filled.replace(&format!("{{{name}.tcp.{service}}}"), &address.to_string());
        }
        if let Some(ingress) = addresses.ingress {
            filled = filled.replace(&format!("{{{}.ingress}}", sidecar.service), &ingress.to_string());
        }
    }
    filled
}

/// A table that is as wide as its content: a terminal may wrap it, but a log must not.
pub(crate) fn table<const COLUMNS: usize>(style: TableStyle, header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(style).set_header(header);
    table
}

/// The table's text without the blanks at the ends of lines.
pub(crate) fn unpadded(table: &Table) -> String {
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A time span without more detail than anyone reads.
pub(crate) fn shown(span: SignedDuration) -> String {
    match span.as_secs() {
        seconds @ ..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
