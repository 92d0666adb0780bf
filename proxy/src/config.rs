//! A proxy's configuration file, read twice: its shape by serde, then its meaning, all mistakes at once.

mod arrivals;
mod probes;

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use daemon::config_file;
use daemon::{Finding, Findings, Rotation};
use identity::{TrustBundle, grpc};
use model::spiffe_id::SpiffeIdError;
use model::{SpiffeId, TrustDomain};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::worker::WORKERS_MAX;

pub use arrivals::LocalAddress;
use arrivals::RawLocalAddress;

pub use crate::access_log::Destination as AccessLogDestination;
pub use crate::decision_log::Destination as DecisionLogDestination;
pub use crate::intercept::{Intercept, OutboundTo};
pub use crate::introduction::Forwarding;
pub use crate::policy_client::Address;
pub use crate::probes::Probes;
pub use crate::proxy_protocol::{ProxyProtocol, Version as ProxyProtocolVersion};

/// What a proxy needs to know before it starts. Everything else it learns from policyd.
#[derive(Clone, Debug)]
pub struct Config {
    /// This instance's name, such as `reviews-v1`: for logs and policyd.
    pub instance: String,
    /// The service that the application provides, by its name in the bundle.
    pub service: String,
    /// For other sidecars.
    pub inbound: SocketAddr,
    /// For the application; it authenticates nobody, so it belongs on a loopback address.
    pub outbound: SocketAddr,
    /// Where the application connects to services of raw connections.
    pub tcp: Vec<LocalAddress>,
    /// For callers from outside the mesh, in the clear.
    pub ingress: Option<SocketAddr>,
    /// Whether callers of `ingress` are load balancers, who say who calls.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What is believed of the hops before the caller.
    pub forwarding: Forwarding,
    /// How the application is told who calls, before anything else on a connection.
    pub greets_application: Option<ProxyProtocolVersion>,
    /// For operators.
    pub admin: SocketAddr,
    /// The application behind this proxy, `host:port`.
    pub application: String,
    /// Whether the kernel redirects connections to `inbound` and `outbound`, and what to do with those.
    pub intercept: Option<Intercept>,
    /// Where policyd is: over TCP, or on a Unix socket of this host.
    pub policyd: Address<grpc::Address>,
    /// Where the CA is.
    pub ca: Address,
    /// The roots trusted at first; later ones come from the CA.
    pub trust_bundle: TrustBundle,
    /// Says who this workload is, to the CA. Good for one use.
    pub join_token: String,
    /// Where the access log goes.
    pub access_log: AccessLogDestination,
    /// Where the decision log goes, if anywhere.
    pub decision_log: Option<DecisionLogDestination>,
    /// How many threads serve connections; 0: those of the runtime that the proxy is built on.
    pub workers: usize,
    /// How many requests may be under way at once, of each way in and worker.
    pub max_requests: usize,
    /// How many connections there may be from all callers together.
    pub max_connections: usize,
    /// What an orchestrator may ask of the application in the clear, and where.
    pub probes: Option<Probes>,
    /// The Unix socket by which the process that comes after takes this one's place, if one may.
    pub hand_over: Option<PathBuf>,
    /// Where relative file names of report handlers start.
    pub base_dir: PathBuf,
}

/// The longest join token, in bytes.
const JOIN_TOKEN_MAX: usize = 4096;
/// After how many MiB a decision log is put aside: what is good, and what is taken.
const ROTATE_MIB: (RangeInclusive<u64>, u64) = (1..=10_240, 64);
/// The threads that serve connections; as many as there are cores, if not said.
const WORKERS: RangeInclusive<u64> = 1..=WORKERS_MAX;
/// The requests that may be under way at once, if not said.
pub const MAX_REQUESTS: usize = 4096;
const MAX_REQUESTS_RANGE: (RangeInclusive<u64>, u64) = (1..=1_000_000, MAX_REQUESTS as u64);
/// The connections that callers may have, if not said and if the limit of open files has room for them.
pub const MAX_CONNECTIONS: usize = 100_000;
const MAX_CONNECTIONS_RANGE: (RangeInclusive<u64>, u64) = (1..=10_000_000, MAX_CONNECTIONS as u64);
/// How many decision logs are kept besides the one that is written.
const KEEP: (RangeInclusive<u64>, u64) = (0..=1000, 8);
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    instance: Spanned<String>,
    service: Spanned<String>,
    inbound: Option<Spanned<String>>,
    outbound: Spanned<String>,
    #[serde(default)]
    tcp: Vec<RawLocalAddress>,
    ingress: Option<Spanned<String>>,
    proxy_protocol_from: Option<Spanned<Vec<String>>>,
    proxy_protocol_to_application: Option<Spanned<String>>,
    trusted_hops: Option<Spanned<u64>>,
    client_cert: Option<Spanned<String>>,
    admin: Option<Spanned<String>>,
    application: Option<Spanned<String>>,
    intercept: Option<Spanned<bool>>,
    outbound_to: Option<Spanned<String>>,
    ports: Option<Spanned<Vec<u16>>>,
    policyd: Spanned<String>,
    ca: Spanned<String>,
    trust_domain: Spanned<String>,
    trust_bundle: Spanned<PathBuf>,
    join_token: Option<Spanned<String>>,
    join_token_file: Option<Spanned<PathBuf>>,
    access_log: Option<String>,
    decision_log: Option<RawDecisionLog>,
    workers: Option<Spanned<u64>>,
    max_requests: Option<Spanned<u64>>,
    max_connections: Option<Spanned<u64>>,
    probes: Option<probes::RawProbes>,
    hand_over: Option<PathBuf>,
    report_files: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDecisionLog {
    file: PathBuf,
    rotate_mib: Option<Spanned<u64>>,
    keep: Option<Spanned<u64>>,
}

/// Turns raw values into what they mean, and notes each that has no meaning.
struct Reader<'a> {
    file: &'a str,
    source: &'a str,
    /// Where relative paths start: the file's folder.
    folder: &'a Path,
    findings: Findings,
}

impl Config {
    /// Reads the YAML file at `path`, and the files that it names.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn load(path: &Path) -> Result<Self, Findings> {
        let file = path.display().to_string();
        let source = config_file::read(path, &file)?;
        let raw: RawConfig = config_file::parse(&file, &source)?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let mut reader = Reader { file: &file, source: &source, folder, findings: Findings::new() };
        reader.findings.add_source(file.clone(), source.as_str());
        match reader.config(raw) {
            Some(config) if reader.findings.is_empty() => Ok(config),
            _ => Err(reader.findings),
        }
    }
}

impl Reader<'_> {
    /// Nothing when some part has no meaning, which was noted then.
    fn config(&mut self, raw: RawConfig) -> Option<Config> {
        let instance = self.name(raw.instance);
        let service = self.name(raw.service);
        let inbound = raw.inbound.map_or(Some(ANY_PORT), |value| self.socket(&value));
        let outbound = self.socket(&raw.outbound);
        let tcp = self.local_addresses(raw.tcp, outbound);
        let ingress = raw.ingress.map(|value| self.socket(&value));
        let proxy_protocol = self.proxy_protocol(raw.proxy_protocol_from, ingress.is_some());
        let greets_application = self.greets_application(raw.proxy_protocol_to_application.as_ref());
        let forwarding =
            self.forwarding(raw.trusted_hops.as_ref(), raw.client_cert.as_ref(), ingress.is_some());
        let admin = raw.admin.map_or(Some(ANY_PORT), |value| self.socket(&value));
        let intercept = self.intercept(raw.intercept, raw.outbound_to, raw.ports);
        let application = self.application(raw.application, intercept.as_ref());
        let domain: Option<TrustDomain> = self.parsed(&raw.trust_domain, "a trust domain");
        let policyd = self.socket_or_path(&raw.policyd);
        let policyd = self.address(&raw.policyd, policyd, domain.as_ref().map(identity::policyd_id));
        let ca = self.socket(&raw.ca);
        let ca = self.address(&raw.ca, ca, domain.as_ref().map(identity::ca_id));
        let trust_bundle = domain.and_then(|domain| self.trust_bundle(domain, &raw.trust_bundle));
        let join_token = self.join_token(raw.join_token, raw.join_token_file);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let workers = self.number(raw.workers.as_ref(), &(WORKERS, cores.min(WORKERS_MAX)));
        let max_requests = self.number(raw.max_requests.as_ref(), &MAX_REQUESTS_RANGE);
        let max_connections = self.number(raw.max_connections.as_ref(), &MAX_CONNECTIONS_RANGE);
        let probes = self.probes(raw.probes);
        let decision_log = raw.decision_log.map(|raw| self.decision_log(&raw));
        Some(Config {
            instance: instance?,
            service: service?,
            inbound: inbound?,
            outbound: outbound?,
            tcp,
            ingress: match ingress {
                Some(address) => Some(address?),
                None => None,
            },
            proxy_protocol: proxy_protocol?,
            forwarding: forwarding?,
            greets_application: greets_application?,
            admin: admin?,
            application: application?,
            intercept: intercept?,
            policyd: policyd?,
            ca: ca?,
            trust_bundle: trust_bundle?,
            join_token: join_token?,
            access_log: match raw.access_log.as_deref() {
                None | Some("stdout") => AccessLogDestination::Stdout,
                Some("off") => AccessLogDestination::Off,
                Some(path) => AccessLogDestination::File(self.folder.join(path)),
            },
            decision_log: match decision_log {
                Some(destination) => Some(destination?),
                None => None,
            },
            workers: usize::try_from(workers?).ok()?,
            max_requests: usize::try_from(max_requests?).ok()?,
            max_connections: usize::try_from(max_connections?).ok()?,
            probes: probes?,
            hand_over: raw.hand_over.map(|path| self.folder.join(path)),
            base_dir: raw.report_files.map_or_else(|| self.folder.to_owned(), |path| self.folder.join(path)),
        })
    }

    fn name(&mut self, value: Spanned<String>) -> Option<String> {
        if value.value.is_empty() {
            return self.wrong(&value, "a name must not be empty");
        }
        Some(value.value)
    }

    fn socket(&mut self, value: &Spanned<String>) -> Option<SocketAddr> {
        match value.value.parse() {
            Ok(address) => Some(address),
            Err(_) => self.wrong(
                value,
                format!("`{}` is not an IP address with a port, such as `127.0.0.1:8080`", value.value),
            ),
        }
    }

    /// The path of a Unix socket is meant from the file's folder.
    fn socket_or_path(&mut self, value: &Spanned<String>) -> Option<grpc::Address> {
        match value.value.parse() {
            Ok(grpc::Address::Unix(path)) => Some(grpc::Address::Unix(self.folder.join(path))),
            Ok(address) => Some(address),
            Err(error) => self.wrong(value, format!("`{}` is no address: {error}", value.value)),
        }
    }

    /// The application's address: as written, or its first port on loopback.
    fn application(
        &mut self,
        value: Option<Spanned<String>>,
        intercept: Option<&Option<Intercept>>,
    ) -> Option<String> {
        let first_port = intercept?.as_ref().and_then(|intercept| intercept.ports.first());
        match (value, first_port) {
            (Some(value), Some(_)) => self.wrong(&value, "`application` and `ports` exclude each other"),
            (Some(value), None) => self.host_and_port(value),
            (None, Some(port)) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).to_string()),
            (None, None) => {
                let finding = Finding::in_file(self.file, "neither `application` nor `ports` is given");
                self.findings.push(finding.with_help("`application` is where the service listens"));
                None
            }
        }
    }

    fn host_and_port(&mut self, value: Spanned<String>) -> Option<String> {
        let port = value
            .value
            .rsplit_once(':')
            .and_then(|(host, port)| (!host.is_empty()).then_some(port)?.parse::<u16>().ok());
        match port {
            Some(1..) => Some(value.value),
            _ => self.wrong(
                &value,
                format!("`{}` is not a host with a port, such as `127.0.0.1:9080`", value.value),
            ),
        }
    }

    /// A daemon of Tidegate: the trust domain says which ID it has, if that is not wrong itself.
    fn address<A>(
        &mut self,
        written: &Spanned<String>,
        address: Option<A>,
        id: Option<Result<SpiffeId, SpiffeIdError>>,
    ) -> Option<Address<A>> {
        let address = address?;
        match id? {
            Ok(id) => Some(Address { address, id }),
            Err(error) => {
                self.wrong(written, format!("the trust domain is too long for its daemons' IDs: {error}"))
            }
        }
    }

    fn trust_bundle(&mut self, domain: TrustDomain, path: &Spanned<PathBuf>) -> Option<TrustBundle> {
        match TrustBundle::load(domain, &self.folder.join(&path.value)) {
            Ok(bundle) => Some(bundle),
            Err(error) => self.wrong(
                path,
                format!("`{}` can't be used: {:#}", path.value.display(), anyhow::Error::from(error)),
            ),
        }
    }

    fn join_token(
        &mut self,
        token: Option<Spanned<String>>,
        file: Option<Spanned<PathBuf>>,
    ) -> Option<String> {
        match (token, file) {
            (Some(token), None) if token.value.is_empty() || token.value.len() > JOIN_TOKEN_MAX => {
                self.wrong(&token, format!("a join token has 1 to {JOIN_TOKEN_MAX} bytes"))
            }
            (Some(token), None) => Some(token.value),
            (None, Some(path)) => {
                let name = path.value.display().to_string();
                match config_file::read(&self.folder.join(&path.value), &name)
                    .map(|text| text.trim().to_owned())
                {
                    Ok(token) if !token.is_empty() && token.len() <= JOIN_TOKEN_MAX => Some(token),
                    Ok(_) => self.wrong(
                        &path,
                        format!("`{name}` does not hold a join token of 1 to {JOIN_TOKEN_MAX} bytes"),
                    ),
                    Err(findings) => {
                        self.findings.merge(findings);
                        None
                    }
                }
            }
            (Some(token), Some(_)) => {
                self.wrong(&token, "`join_token` and `join_token_file` exclude each other")
            }
            (None, None) => {
                let finding =
                    Finding::in_file(self.file, "neither `join_token` nor `join_token_file` is given");
                self.findings.push(finding.with_help("`tidegate ca token` makes one"));
                None
            }
        }
    }

    fn decision_log(&mut self, raw: &RawDecisionLog) -> Option<DecisionLogDestination> {
        let rotate_mib = self.number(raw.rotate_mib.as_ref(), &ROTATE_MIB);
        let keep = self.number(raw.keep.as_ref(), &KEEP).and_then(|keep| u32::try_from(keep).ok());
        let rotation = Rotation { size_max: rotate_mib? * 1024 * 1024, keep: keep? };
        Some(DecisionLogDestination { path: self.folder.join(&raw.file), rotation })
    }

    /// A number within a range; the one that is taken if none is given.
    fn number(
        &mut self,
        value: Option<&Spanned<u64>>,
        (range, otherwise): &(RangeInclusive<u64>, u64),
    ) -> Option<u64> {
        match value {
            None => Some(*otherwise),
            Some(value) if range.contains(&value.value) => Some(value.value),
            Some(value) => {
                let (from, to) = (range.start(), range.end());
                self.wrong(value, format!("`{}` is not from {from} to {to}", value.value))
            }
        }
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, value: &Spanned<String>, what: &str) -> Option<T> {
        match value.value.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => self.wrong(value, format!("`{}` is not {what}: {error}", value.value)),
        }
    }

    fn wrong<T, V>(&mut self, value: &Spanned<V>, message: impl Into<String>) -> Option<T> {
        let span = config_file::span_of(value, self.source);
        self.findings.push(Finding::at(self.file, self.source, span, message));
        None
    }
}

#[cfg(test)]
mod tests;
