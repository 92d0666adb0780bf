//! Envoy itself, and certificates for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use api::certificate::AttestRequest;
use api::certificate::certificate_service_client::CertificateServiceClient;
use identity::{TrustBundle, grpc, tls};
use model::SpiffeId;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::World;
use crate::client::Client;

/// An Envoy that runs; it ends with this.
#[derive(Debug)]
pub struct Running {
    process: Child,
    /// Where its admin port is.
    pub admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Running {
    /// Starts `binary` with the text of a configuration, which is written into `folder`; returns once it serves.
    ///
    /// # Errors
    /// When it ends before that.
    pub async fn start(binary: &Path, config: &str, folder: &Path) -> Result<Self> {
        let (file, admin) = (folder.join("envoy.yaml"), folder.join("admin"));
        std::fs::write(&file, config)?;
        let mut process = Command::new(binary)
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("no standard error")?).lines();
        let mut told = Vec::new();
        loop {
            let line = lines.next_line().await?.with_context(|| format!("Envoy has ended: {told:#?}"))?;
            if line.contains("starting workers") {
                break;
            }
            told.push(line);
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let admin: SocketAddr = std::fs::read_to_string(&admin)?.parse()?;
        let page = Client::default().get(admin, "admin", "/listeners?format=json").await?;
        let page: Value = serde_json::from_str(&page.body)?;
        let listener = |status: &Value| {
            let address = status.pointer("/local_address/socket_address")?;
            let port = address.get("port_value")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
            let ip = address.get("address")?.as_str()?.parse().ok()?;
            Some((status.get("name")?.as_str()?.to_owned(), SocketAddr::new(ip, port)))
        };
        let statuses = page.get("listener_statuses").and_then(Value::as_array).context("no listeners")?;
        Ok(Self { process, admin, listeners: statuses.iter().filter_map(listener).collect() })
    }

    /// Where the listener called `name` is.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.get(name).copied()
    }

    /// Has it end by itself, and waits for that: its logs are written then.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn quit(&mut self, client: &Client) -> Result<()> {
        let body = bytes::Bytes::new();
        client.send(self.admin, "admin", "/quitquitquit", http::Method::POST, &[], body).await?;
        self.process.wait().await?;
        Ok(())
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// Gets a certificate for `id` as any workload does: by a join token and a CSR. `chain.pem`, `key.pem` and `roots.pem` are put
/// into `folder`.
///
/// # Errors
/// When the CA refuses.
pub async fn attest(world: &World, id: &SpiffeId, folder: &Path) -> Result<()> {
    let ca = &world.mesh.ca;
    let join_token =
        ca.join_token(id, &format!("{}-envoy", id.path().replace('/', "-")), Duration::from_secs(60))?;
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec().into();
    let domain = ca.trust_bundle.trust_domain().clone();
    let allowed = vec![identity::ca_id(&domain)?];
    let config = tls::anonymous_client_config(ca.trust_bundle.clone(), world.clock.clone(), allowed, tls::H2);
    let mut client = CertificateServiceClient::new(grpc::channel(ca.address, config));
    let answer = client.attest(AttestRequest { join_token, csr }).await?.into_inner();
    let chain = answer.chain.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec())));
    let roots = answer.roots.iter().map(|der| CertificateDer::from(der.to_vec()));
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("chain.pem"), chain.collect::<String>())?;
    std::fs::write(folder.join("roots.pem"), TrustBundle::new(domain, roots)?.to_pem())?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(())
}
