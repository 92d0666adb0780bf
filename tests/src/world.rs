//! A mesh for one test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use daemon::Clock;
use identity::{Identity, Source};
use model::Revision;
use policyd::candidate::Location;
use proxy::config::AccessLogDestination;
use tempfile::TempDir;
use tidegate::mesh::{Mesh, Options};
use tokio::sync::watch;

use crate::client::{Answer, Client};
use crate::launch::InProcess;

/// A running mesh with a copy of its bundle that the test may edit.
#[derive(Debug)]
pub struct World {
    /// The mesh.
    pub mesh: Mesh,
    /// The time, for all daemons.
    pub clock: Clock,
    /// For requests.
    pub client: Client,
    folder: TempDir,
}

impl World {
    /// Starts Bookinfo, after `edit` has changed its bundle.
    ///
    /// # Errors
    /// When the mesh doesn't start.
    pub async fn bookinfo(edit: impl FnOnce(&Path)) -> Result<Self> {
        Self::trying(Vec::new(), edit).await
    }

    /// The same, and tries `candidates` beside its bundle.
    ///
    /// # Errors
    /// When the mesh doesn't start.
    pub async fn trying(candidates: Vec<Location>, edit: impl FnOnce(&Path)) -> Result<Self> {
        Self::start("bookinfo", candidates, edit).await
    }

    /// Starts the CA and policyd of the example behind Envoy, which has no sidecars, after `edit` has changed its bundle.
    ///
    /// # Errors
    /// When they don't start.
    pub async fn behind_envoy(edit: impl FnOnce(&Path)) -> Result<Self> {
        Self::start("envoy", Vec::new(), edit).await
    }

    async fn start(example: &str, candidates: Vec<Location>, edit: impl FnOnce(&Path)) -> Result<Self> {
        let folder = TempDir::new()?;
        let bundle = folder.path().join("bundle");
        copy(&examples().join(example), &bundle)?;
        edit(&bundle);
        let decisions = folder.path().join("decisions");
        std::fs::create_dir(&decisions)?;
        let clock = Clock::system();
        let options = Options {
            bundle,
            state: folder.path().join("state"),
            clock: clock.clone(),
            candidates,
            decision_logs: Some(decisions),
            access_log: AccessLogDestination::File(folder.path().join("access.jsonl")),
        };
        let mesh = Mesh::start(options, &InProcess).await?;
        Ok(Self { mesh, clock, client: Client::default(), folder })
    }

    /// Starts policyd again at its address, as its supervisor would, and waits until every sidecar has heard from it.
    ///
    /// # Errors
    /// When it doesn't start.
    pub async fn restart_policyd(&mut self) -> Result<()> {
        self.mesh.policyd.drain().await;
        let trust_domain = &self.mesh.bundle.mesh.trust_domain;
        let id = identity::policyd_id(trust_domain)?;
        let instances = self.mesh.sidecars.iter();
        let config = policyd::config::Config {
            delivery: policyd::delivery::Config::folder(self.bundle()),
            listen: self.mesh.policyd.address,
            socket: None,
            admin: ([127, 0, 0, 1], 0).into(),
            identity: identity::client::Config {
                ca_address: self.mesh.ca.address,
                ca_id: identity::ca_id(trust_domain)?,
                bundle: self.mesh.ca.trust_bundle.clone(),
                join_token: self.mesh.ca.join_token(&id, "policyd", Duration::from_secs(60))?,
            },
            addresses: instances.map(|s| (s.instance.name.clone(), s.proxy.addresses.inbound)).collect(),
            candidates: Vec::new(),
            envoy: None,
        };
        self.mesh.policyd = policyd::app::build(config, self.clock.clone()).await?;
        self.until_applied(self.mesh.policyd.current.get().revision).await;
        Ok(())
    }

    /// Starts the CA again at its address, with its state.
    ///
    /// # Errors
    /// When it doesn't start.
    pub async fn restart_ca(&mut self) -> Result<()> {
        self.mesh.ca.drain(Duration::from_secs(5)).await;
        let mesh = &self.mesh.bundle.mesh;
        let mut config = ca::config::Config::new(mesh.trust_domain.clone(), self.folder.path().join("state"));
        config.listen = self.mesh.ca.address;
        config.certificate_ttl = mesh.certificate_ttl;
        self.mesh.ca = ca::app::build(config, self.clock.clone()).await?;
        Ok(())
    }

    /// The bundle's folder.
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    /// The CA's ledger.
    pub fn ledger(&self) -> PathBuf {
        self.folder.path().join("state/ledger.sqlite")
    }

    /// The access log of all sidecars.
    pub fn access_log(&self) -> PathBuf {
        self.folder.path().join("access.jsonl")
    }

    /// The decision log of the sidecar of `instance`.
    pub fn decision_log(&self, instance: &str) -> PathBuf {
        self.folder.path().join(format!("decisions/{instance}.jsonl"))
    }

    /// Where a browser reaches the product page.
    ///
    /// # Errors
    /// When there is no ingress.
    pub fn ingress(&self) -> Result<SocketAddr> {
        self.mesh
            .sidecar("productpage-v1")
            .and_then(|sidecar| sidecar.proxy.addresses.ingress)
            .context("no ingress")
    }

    /// `GET path` of the product page, as a browser would.
    ///
    /// # Errors
    /// When no whole response comes.
    pub async fn browse(&self, path: &str) -> Result<Answer> {
        let address = self.ingress()?;
        self.client.get(address, &address.to_string(), path).await
    }

    /// `GET path` of `service`, sent through the sidecar of the instance `from`, as its application would.
    ///
    /// # Errors
    /// When no whole response comes.
    pub async fn call(&self, from: &str, service: &str, path: &str) -> Result<Answer> {
        let sidecar = self.mesh.sidecar(from).with_context(|| format!("no instance `{from}`"))?;
        self.client.get(sidecar.proxy.addresses.outbound, service, path).await
    }

    /// Replaces a file of the bundle whole, as an editor does, and waits until every sidecar uses the revision it makes.
    ///
    /// # Errors
    /// When the file can't be written.
    pub async fn write(&self, file: &str, text: &str) -> Result<Revision> {
        let mut snapshots = self.mesh.policyd.current.subscribe();
        snapshots.mark_unchanged();
        let temporary = self.folder.path().join("written");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, self.bundle().join(file))?;
        snapshots.changed().await.context("policyd has ended")?;
        let revision = snapshots.borrow().revision;
        self.until_applied(revision).await;
        Ok(revision)
    }

    /// The text of a file of the bundle.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.bundle().join(file))?)
    }

    /// The certificates of all sidecars and of policyd, each renewal of which is news.
    pub fn certificates(&self) -> Vec<watch::Receiver<Arc<Identity>>> {
        let sidecars = self.mesh.sidecars.iter().map(|sidecar| &sidecar.proxy.source);
        sidecars.chain([&self.mesh.policyd.identity]).map(Source::subscribe).collect()
    }

    /// Waits until every sidecar uses whatever concerns it up to `revision`.
    pub async fn until_applied(&self, revision: Revision) {
        let instances: Vec<String> =
            self.mesh.sidecars.iter().map(|sidecar| sidecar.instance.name.clone()).collect();
        self.mesh.policyd.proxies.until_in_step(&instances, revision).await;
    }
}

/// The example bundles.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
