//! What policyd tells a proxy: the whole state it needs, in parts that are replaced whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{AtomSet, FailMode, Limit, Name, Operand, Principal, Revision, Route, SpiffeId};

/// The state of the mesh as one proxy needs it, in two parts that change by themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The revision of the policies at which this was put together.
    pub revision: Revision,
    /// What every proxy is told.
    pub mesh: Arc<Mesh>,
    /// What this one is told of the services that it enforces for.
    pub policies: Arc<Policies>,
}

/// A part of a configuration, encoded once for all proxies that are told the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The revision since which the content is the same.
    pub since: Revision,
    /// A [`Mesh`] or [`Policies`], as it is sent.
    pub content: Bytes,
}

/// What every proxy is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// Every service of the mesh.
    pub services: Vec<Service>,
}

impl Mesh {
    /// How many instances all services have together.
    pub fn instances(&self) -> usize {
        self.services.iter().map(|service| service.endpoints.len()).sum()
    }
}

/// One service of the mesh, as its callers see it.
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
    /// What its applications speak.
    pub protocol: Protocol,
    /// What its sidecars take of each other.
    pub mtls: Mtls,
    /// How long a raw connection, or a tunnel within HTTP, may be silent.
    pub idle_timeout: Duration,
    /// Where it is, if it is outside of the mesh.
    pub external: Option<External>,
}

/// A server that has no sidecar, known by a public name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct External {
    /// Where it is: a name that each proxy resolves, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name that its certificate has to be for.
    pub name: String,
    /// The roots that it is believed by, in PEM; those of the proxy's system if there are none.
    pub roots: Option<String>,
}

/// The [`Service::idle_timeout`] that holds unless a bundle says otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a proxy is told of the services that it enforces for.
#[derive(Clone, Debug, PartialEq)]
pub struct Policies {
    /// Those services.
    pub services: Vec<Enforced>,
    /// Every rate limit that concerns one of them.
    pub limits: Vec<Limit>,
    /// The report handlers that `rules` use.
    pub handlers: Vec<ReportHandler>,
    /// The report rules that decisions may name.
    pub rules: Vec<ReportRule>,
    /// Without word from policyd for so long, no decision is used again.
    pub stale_after: Duration,
}

/// The [`Policies::stale_after`] that holds unless a bundle says otherwise.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

impl Default for Policies {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            limits: Vec::new(),
            handlers: Vec::new(),
            rules: Vec::new(),
            stale_after: STALE_AFTER,
        }
    }
}

/// How requests to one service are decided on.
#[derive(Clone, Debug, PartialEq)]
pub struct Enforced {
    /// The service.
    pub service: String,
    /// The revision of its decisions, and the floor: older ones are not to be used.
    pub revision: Revision,
    /// What happens to a request for which no decision can be had.
    pub fail_mode: FailMode,
    /// Who is told which policy denied a request.
    pub denial_exposure: Exposure,
    /// What decisions and limits do to requests.
    pub enforcement: Enforcement,
    /// The tests that decide.
    pub atoms: AtomSet,
    /// How decisions on its requests are logged, if they are.
    pub decision_log: Option<DecisionLog>,
    /// What it can be asked to do.
    pub routes: Vec<Route>,
    /// Whose tokens say who the end user is.
    pub issuers: Vec<TokenIssuer>,
    /// Whether repeated slashes in a path are one.
    pub merge_slashes: bool,
}

/// Who signs tokens (JWT), and which of them are taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenIssuer {
    /// Its name in the bundle.
    pub name: String,
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// One of these has to be in the claim `aud`. If there are none, the claim is not looked at.
    pub audiences: Vec<String>,
    /// Its public keys.
    pub keys: KeySource,
    /// Where a request has the token.
    pub place: TokenPlace,
    /// How far its clock and a proxy's may be apart.
    pub clock_skew: Duration,
    /// Whether the application gets the token, too.
    pub forward: bool,
    /// Claims that stand within others: their names, and the way to each.
    pub claims: Vec<(String, Vec<String>)>,
}

/// Where an issuer's public keys, a JWK set (RFC 7517), come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// This is the set.
    Text(String),
    /// It is fetched from here: `https`, or `http` on this host.
    Url(String),
}

/// Where a request has a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenPlace {
    /// In the header with this name, in lower case; in `authorization` after `Bearer`.
    Header(String),
    /// In this cookie.
    Cookie(String),
    /// In this parameter of the query.
    Query(String),
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

/// What an application speaks with its sidecar, in the clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, by prior knowledge: gRPC, and whatever else needs it.
    Http2,
    /// Anything else: the bytes of a TCP connection, passed on as they are.
    Tcp,
}

/// What the sidecars of a service take of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mtls {
    /// Mutual TLS alone.
    #[default]
    Strict,
    /// Mutual TLS, and callers in the clear, who have no identity.
    Permissive,
    /// Callers in the clear alone.
    Disabled,
}

impl Mtls {
    /// As it is written in a bundle.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Disabled => "disabled",
        }
    }
}

/// Who is told which policy denied a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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

impl Exposure {
    /// Whether `caller` is told which policy denied its request.
    pub const fn tells(self, caller: &Principal) -> bool {
        match self {
            Self::None => false,
            Self::Mesh => matches!(caller, Principal::Workload(_)),
            Self::All => true,
        }
    }
}

/// What decisions and limits do to the requests to a service: the steps in which a mesh is adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReportRule {
    /// Its name in the bundle.
    pub name: String,
    /// What is sent where.
    pub actions: Vec<ReportAction>,
}

/// One handler, and the instances sent to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReportAction {
    /// The handler's name.
    pub handler: String,
    /// What is sent to it.
    pub instances: Vec<ReportInstance>,
}

/// Named fields, read from a request and its response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReportInstance {
    /// Its name in the bundle.
    pub name: String,
    /// The fields' names and where their values come from.
    pub fields: Vec<(String, Operand)>,
}
