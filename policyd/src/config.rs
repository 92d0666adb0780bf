//! policyd's configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings};
use identity::TrustBundle;
use model::{SpiffeId, TrustDomain};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::publish::Addresses;

/// What policyd needs to start.
#[derive(Debug)]
pub struct Config {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Where proxies connect.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub admin: SocketAddr,
    /// How to get a certificate.
    pub identity: identity::client::Config,
    /// Inbound addresses of instances whose address the bundle leaves open.
    pub addresses: Addresses,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    bundle: PathBuf,
    #[serde(default = "any_port")]
    listen: SocketAddr,
    #[serde(default = "any_port")]
    admin: SocketAddr,
    trust_domain: TrustDomain,
    ca: SocketAddr,
    trust_bundle: Spanned<PathBuf>,
    join_token_file: Spanned<PathBuf>,
    #[serde(default)]
    addresses: Addresses,
}

/// The SPIFFE ID that policyd serves with: `spiffe://<trust domain>/ns/tidegate/sa/policyd`.
///
/// # Errors
/// When the trust domain is so long that its IDs would be too long.
pub fn policyd_id(trust_domain: &TrustDomain) -> Result<SpiffeId, model::spiffe_id::SpiffeIdError> {
    trust_domain.workload("tidegate", "policyd")
}

impl Config {
    /// Reads the file at `path`. Relative file names in it are meant from its folder.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn load(path: &Path) -> Result<Self, Findings> {
        let name = path.display().to_string();
        let source = config_file::read(path, &name)?;
        let raw: RawConfig = config_file::parse(&name, &source)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut findings = Findings::new();
        findings.add_source(name.as_str(), source.as_str());
        let mut wrong = |place: &Spanned<PathBuf>, message: String, help: &str| {
            findings
                .push(Finding::at(name.as_str(), &source, span_of(place, &source), message).with_help(help));
        };
        let bundle = match TrustBundle::load(raw.trust_domain.clone(), &folder.join(&raw.trust_bundle.value))
        {
            Ok(bundle) => Some(bundle),
            Err(error) => {
                let help = "`tidegate ca` writes it to `trust-bundle.pem` in its state folder";
                wrong(&raw.trust_bundle, format!("the trust bundle can't be used: {error}"), help);
                None
            }
        };
        let token = match std::fs::read_to_string(folder.join(&raw.join_token_file.value)) {
            Ok(token) => Some(token.trim().to_owned()),
            Err(error) => {
                wrong(
                    &raw.join_token_file,
                    format!("the token can't be read: {error}"),
                    "make one with `tidegate ca token`",
                );
                None
            }
        };
        match (bundle, token, identity::ca_id(&raw.trust_domain)) {
            (Some(bundle), Some(join_token), Ok(ca_id)) => Ok(Self {
                bundle: folder.join(raw.bundle),
                listen: raw.listen,
                admin: raw.admin,
                identity: identity::client::Config { ca_address: raw.ca, ca_id, bundle, join_token },
                addresses: raw.addresses,
            }),
            _ => Err(findings),
        }
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
