//! What policyd tells a proxy: the whole state it needs, replaced whole.

use std::net::SocketAddr;
use std::time::Duration;

use model::{AtomSet, FailMode, Limit, Name, Operand, Revision, SpiffeId};

/// The state of the mesh as one proxy needs it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The revision of the policies, and the floor: older decisions are not to be used.
    pub revision: Revision,
    /// Every service of the mesh.
    pub services: Vec<Service>,
    /// Every rate limit of the services that the proxy enforces for.
    pub limits: Vec<Limit>,
    /// The report handlers that `rules` use.
    pub handlers: Vec<ReportHandler>,
    /// The report rules that decisions may name.
    pub rules: Vec<ReportRule>,
}

/// One service of the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name, which callers put into `Host`.
    pub name: String,
    /// The identities a server of this service may have.
    pub spiffe_ids: Vec<SpiffeId>,
    /// Where its sidecars listen.
    pub endpoints: Vec<Endpoint>,
    /// How long a response's head may take.
    pub timeout: Duration,
    /// What happens to a request for which no decision can be had.
    pub fail_mode: FailMode,
    /// Who is told which policy denied a request.
    pub denial_exposure: Exposure,
    /// What decisions and limits do to requests.
    pub enforcement: Enforcement,
    /// The tests that decide; only for services that the proxy enforces for.
    pub atoms: Option<AtomSet>,
    /// How decisions on its requests are logged, if they are; only for services that the proxy enforces for.
    pub decision_log: Option<DecisionLog>,
}

/// How the decisions on a service's requests are logged.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionLog {
    /// The part of the hits that is logged, from 0 to 1. Misses always are.
    pub sample_hits: f64,
    /// The headers, parameters, cookies and claims that are logged: those that policies read.
    pub recorded: Vec<Name>,
    /// What is logged as a digest: the principal, or facts of the request.
    pub masked: Vec<Operand>,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The instance's name.
    pub instance: String,
    /// The service version it runs; may be empty.
    pub version: String,
    /// Where its sidecar's inbound listener is.
    pub address: SocketAddr,
}

/// Who is told which policy denied a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exposure {
    /// Nobody: only the log says it.
    None,
    /// Callers with a verified identity.
    #[default]
    Mesh,
    /// Every caller, browsers included.
    All,
}

/// What decisions and limits do to the requests to a service: the steps in which a mesh is adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// Nothing is decided and nothing charged; every request passes.
    Off,
    /// Requests are decided on and charged, and what would have been refused is told; every request passes.
    Observe,
    /// What is denied or over a limit is refused.
    #[default]
    Enforce,
}

impl Enforcement {
    /// As it is written in a bundle.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// A report adapter, configured.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportHandler {
    /// Its name in the bundle.
    pub name: String,
    /// The adapter's name.
    pub adapter: String,
    /// The adapter's configuration, validated by policyd when the bundle was loaded.
    pub config: serde_json::Value,
}

/// What to report when a decision names this rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRule {
    /// Its name in the bundle.
    pub name: String,
    /// What is sent where.
    pub actions: Vec<ReportAction>,
}

/// One handler, and the instances sent to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportAction {
    /// The handler's name.
    pub handler: String,
    /// What is sent to it.
    pub instances: Vec<ReportInstance>,
}

/// Named fields, read from a request and its response.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportInstance {
    /// Its name in the bundle.
    pub name: String,
    /// The fields' names and where their values come from.
    pub fields: Vec<(String, Operand)>,
}
