//! `mesh.yaml`: the trust domain, the services and their instances.

mod accepted;
mod external;
mod raw;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use api::config::{Enforcement, Exposure, External, IDLE_TIMEOUT, Mtls, Protocol, STALE_AFTER, TokenIssuer};
use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings};
use model::limit::parse_duration;
use model::{Action, Attributes, FailMode, SpiffeId, TrustDomain};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::decision_log;
pub use super::decision_log::DecisionLog;
use super::files::Files;
use super::jwt;
use super::operations::{self, Actions, ServiceOperations};
pub(crate) use written::{Key, RawMesh};
use written::{RawInstance, RawService};

/// The file's name within a bundle.
pub const FILE: &str = "mesh.yaml";

/// Certificate lifetimes: from five seconds to ninety days.
const CERTIFICATE_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(90 * 86_400));
/// How long a decision may be reused: up to a day.
const DECISION_VALIDITY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(86_400));
/// How long policyd may be silent: up to a day.
const STALE_AFTER_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// How long a response's head may take: up to an hour.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));
/// How long a raw connection or a tunnel may be silent: up to thirty days.
const IDLE_TIMEOUT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
/// The most services and the most instances of one service.
const COUNT_MAX: usize = 10_000;

/// The mesh as its author wrote it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// The authority of all identities.
    pub trust_domain: TrustDomain,
    /// How long a certificate lives.
    pub certificate_ttl: Duration,
    /// How long a proxy may reuse a decision while policyd is silent.
    pub decision_validity: Duration,
    /// How decisions are logged.
    pub decision_log: DecisionLog,
    /// How long a proxy may use decisions again without word from policyd.
    pub stale_after: Duration,
    /// The services by name.
    pub services: BTreeMap<String, Service>,
    /// The files that hold keys of issuers, or roots of servers outside of the mesh.
    pub key_files: BTreeSet<String>,
    /// What `tidegate up` suggests to try.
    pub tries: Vec<Try>,
}

/// A line to try, shown by `tidegate up`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Try {
    /// What will be seen.
    pub about: String,
    /// A command. `{<service>.ingress}`, `{<instance>.inbound}`, `{<instance>.outbound}` and `{<instance>.tcp.<service>}`
    /// stand for addresses.
    pub run: String,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its namespace: part of its identity, and a Cedar entity.
    pub namespace: String,
    /// The identity its servers have.
    pub spiffe_id: SpiffeId,
    /// How long a response's head may take.
    pub timeout: Duration,
    /// How long a raw connection or a tunnel may be silent.
    pub idle_timeout: Duration,
    /// What its applications speak.
    pub protocol: Protocol,
    /// What its sidecars take of others.
    pub mtls: Mtls,
    /// Whether repeated slashes in a path are one.
    pub merge_slashes: bool,
    /// What happens to a request for which no decision can be had.
    pub fail_mode: FailMode,
    /// Who is told which policy denied a request.
    pub denial_exposure: Exposure,
    /// What decisions and limits do to requests.
    pub enforcement: Enforcement,
    /// Whether decisions on it are logged.
    pub decision_log: bool,
    /// Where callers from outside the mesh are let in, if they are; port 0 for any free one.
    pub ingress: Option<SocketAddr>,
    /// What it can be asked to do.
    pub operations: ServiceOperations,
    /// The file that describes more of its operations.
    pub openapi: Option<String>,
    /// Whose tokens it takes.
    pub issuers: Vec<TokenIssuer>,
    /// Where it is, if it is outside of the mesh; then it has no instances.
    pub external: Option<External>,
    /// Its instances, in the file's order.
    pub instances: Vec<Instance>,
}

/// One running copy of a service, with a sidecar in front.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Unique in the mesh; `<service>-<version>` unless the file says otherwise.
    pub name: String,
    /// The service version it runs; may be empty.
    pub version: String,
    /// The program itself.
    pub application: Application,
    /// Where its sidecar's inbound listener is; `tidegate up` chooses when the file doesn't say.
    pub inbound: Option<SocketAddr>,
}

/// The program behind a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Application {
    /// `command:` — `tidegate up` starts it: program and arguments.
    Command(Vec<String>),
    /// `endpoint:` — it runs already, here.
    Endpoint(SocketAddr),
}

impl Mesh {
    /// The operation that a request is for, by its method and its path.
    pub fn operation(&self, request: &Attributes) -> Option<&str> {
        let service = self.services.get(&request.resource).filter(|_| request.action == Action::Http)?;
        service.operations.operations.find(&request.method, &request.path)
    }

    /// The files that are named here: those that describe operations, and those that hold keys.
    pub(super) fn documents(&self) -> BTreeSet<&str> {
        let described = self.services.values().filter_map(|service| service.openapi.as_deref());
        described.chain(self.key_files.iter().map(String::as_str)).collect()
    }

    /// Every operation of every service, and its groups: the actions that policies may name.
    pub fn actions(&self) -> Actions {
        operations::of_all(self.services.values().map(|service| &service.operations))
    }
}

/// Reads `mesh.yaml`, whose text is `source`, and the files that it names. What its author should know of it comes
/// with it.
///
/// # Errors
/// Every mistake in these files.
pub fn parse(source: &str, files: &Files) -> Result<(Mesh, Findings), Findings> {
    let raw: RawMesh = config_file::parse(FILE, source)?;
    let mut reader = Reader { source, files, findings: Findings::new() };
    reader.findings.add_source(FILE, source);
    match reader.mesh(&raw) {
        Some(mesh) => reader.findings.unless_errors(mesh),
        None => Err(reader.findings),
    }
}

/// Turns raw values into checked ones and collects what is wrong with them.
struct Reader<'a> {
    source: &'a str,
    files: &'a Files,
    findings: Findings,
}

impl Reader<'_> {
    fn mesh(&mut self, raw: &RawMesh) -> Option<Mesh> {
        let trust_domain: Option<TrustDomain> = match raw.trust_domain.value.parse() {
            Ok(domain) => Some(domain),
            Err(error) => {
                let help = "use a name such as `bookinfo.example`";
                self.wrong(&raw.trust_domain, format!("this is not a trust domain: {error}"), help);
                None
            }
        };
        let certificate_ttl =
            self.duration(raw.certificate_ttl.as_ref(), Duration::from_secs(3600), CERTIFICATE_TTL);
        let decision_validity =
            self.duration(raw.decision_validity.as_ref(), Duration::from_secs(60), DECISION_VALIDITY);
        let decision_log = decision_log::read(&raw.decision_log, self.source, &mut self.findings);
        let stale_after = self.duration(raw.stale_after.as_ref(), STALE_AFTER, STALE_AFTER_RANGE);
        if raw.services.len() > COUNT_MAX {
            let message = format!("there are more than {COUNT_MAX} services");
            self.wrong(&raw.trust_domain, message, "split the mesh");
        }
        let issuers = jwt::read(&raw.jwt, self.source, self.files, &mut self.findings);
        // The services are checked even if the trust domain is wrong, so that all mistakes are told at once.
        let domain = trust_domain.or_else(|| "invalid".parse().ok())?;
        let mut services = BTreeMap::new();
        for (Key(name), raw) in &raw.services {
            let before = std::mem::take(&mut self.findings);
            if let Some(service) = self.service(&domain, &issuers, name, raw) {
                services.insert(name.value.clone(), service);
            }
            let found = std::mem::replace(&mut self.findings, before);
            self.findings.merge(accepted::rest(found, &raw.allow, self.source));
        }
        self.unique_instances(raw, &services);
        self.unlike_groups(raw, &services);
        let taken = raw.services.values().flat_map(|service| &service.jwt);
        jwt::unused(&raw.jwt, taken, self.source, &mut self.findings);
        Some(Mesh {
            trust_domain: domain,
            certificate_ttl,
            decision_validity,
            decision_log,
            stale_after,
            services,
            key_files: jwt::key_files(&raw.jwt).chain(external::root_files(raw)).collect(),
            tries: raw.tries.clone(),
        })
    }

    fn service(
        &mut self,
        domain: &TrustDomain,
        issuers: &jwt::Declared,
        name: &Spanned<String>,
        raw: &RawService,
    ) -> Option<Service> {
        if !external::is_host_name(&name.value) {
            let help = "a service's name is what callers put into `Host`: use a-z, 0-9, `-` and `.`";
            self.wrong(name, format!("`{}` can't be the name of a service", name.value), help);
        }
        let namespace = raw.namespace.as_ref().map_or("default", |namespace| namespace.value.as_str());
        let account =
            raw.service_account.as_ref().map_or(name.value.as_str(), |account| account.value.as_str());
        let timeout = self.duration(raw.timeout.as_ref(), Duration::from_secs(15), TIMEOUT);
        let idle_timeout = self.duration(raw.idle_timeout.as_ref(), IDLE_TIMEOUT, IDLE_TIMEOUT_RANGE);
        self.raw_service(name, raw);
        let ingress = raw.ingress.as_ref().and_then(|text| self.address(text));
        if raw.instances.len() > COUNT_MAX {
            self.wrong(name, format!("there are more than {COUNT_MAX} instances"), "split the service");
        }
        accepted::warn_of_enforcement(&name.value, raw.enforcement.as_ref(), self.source, &mut self.findings);
        accepted::warn_of_plaintext(&name.value, raw.mtls.as_ref(), self.source, &mut self.findings);
        let external = external::read(name, raw, self.source, self.files, &mut self.findings);
        let instances = raw.instances.iter().filter_map(|raw| self.instance(name, raw)).collect();
        let document = raw.openapi.as_ref();
        let operations =
            operations::read(&raw.operations, document, self.source, self.files, &mut self.findings);
        let issuers = jwt::of_service(&raw.jwt, issuers, self.source, &mut self.findings);
        let spiffe_id = match domain.workload(namespace, account) {
            Ok(id) => id,
            Err(error) => {
                let place = raw.service_account.as_ref().or(raw.namespace.as_ref()).unwrap_or(name);
                let help = "namespace and service account are parts of the SPIFFE ID: use a-z, A-Z, 0-9, `.`, `-`, `_`";
                self.wrong(place, format!("this makes no SPIFFE ID: {error}"), help);
                return None;
            }
        };
        Some(Service {
            namespace: namespace.to_owned(),
            spiffe_id,
            timeout,
            idle_timeout,
            protocol: raw.protocol,
            mtls: raw.mtls.as_ref().map(|written| written.value).unwrap_or_default(),
            merge_slashes: raw.merge_slashes,
            fail_mode: raw.fail_mode,
            denial_exposure: raw.explain_denials,
            enforcement: raw.enforcement.as_ref().map(|written| written.value).unwrap_or_default(),
            decision_log: raw.decision_log.unwrap_or(true),
            ingress,
            operations,
            openapi: document.map(|document| document.value.clone()),
            issuers,
            external,
            instances,
        })
    }

    fn instance(&mut self, service: &Spanned<String>, raw: &RawInstance) -> Option<Instance> {
        let name = match (&raw.name, raw.version.as_str()) {
            (Some(name), _) => name.value.clone(),
            (None, "") => service.value.clone(),
            (None, version) => format!("{}-{version}", service.value),
        };
        let inbound = raw.inbound.as_ref().and_then(|text| self.address(text));
        let application = match (&raw.command, &raw.endpoint) {
            (Some(command), None) if command.value.is_empty() => {
                self.wrong(command, "the command is empty".to_owned(), "write a program and its arguments");
                return None;
            }
            (Some(command), None) => Application::Command(command.value.clone()),
            (None, Some(endpoint)) => Application::Endpoint(self.address(endpoint)?),
            (Some(command), Some(_)) => {
                let help = "`command` is for a program to start, `endpoint` for one that runs: keep one";
                self.wrong(command, format!("`{name}` has both `command` and `endpoint`"), help);
                return None;
            }
            (None, None) => {
                let help = "add `command: [program, argument]` or `endpoint: host:port`";
                self.wrong(
                    service,
                    format!("the instance `{name}` has neither `command` nor `endpoint`"),
                    help,
                );
                return None;
            }
        };
        Some(Instance { name, version: raw.version.clone(), application, inbound })
    }

    fn unique_instances(&mut self, raw: &RawMesh, services: &BTreeMap<String, Service>) {
        let mut seen = BTreeSet::new();
        for (service, instance) in
            services.iter().flat_map(|(name, s)| s.instances.iter().map(move |i| (name, i)))
        {
            if !seen.insert(&instance.name)
                && let Some(place) =
                    raw.services.keys().map(|Key(name)| name).find(|name| name.value == *service)
            {
                let help = "give each instance a `name` or a `version` of its own";
                self.wrong(place, format!("two instances are called `{}`", instance.name), help);
            }
        }
    }

    /// A group that is called as an operation would be the same action, and hold what nobody put there.
    fn unlike_groups(&mut self, raw: &RawMesh, services: &BTreeMap<String, Service>) {
        let actions = operations::of_all(services.values().map(|service| &service.operations));
        for (Key(name), service) in
            raw.services.keys().filter_map(|key| Some((key, services.get(&key.0.value)?)))
        {
            let groups = service.operations.groups.values().flatten();
            for group in groups.filter(|group| actions.contains_key(*group)).collect::<BTreeSet<_>>() {
                let message = format!("`{group}` of `{}` is a group, and an operation too", name.value);
                self.wrong(name, message, "give one of them another name");
            }
        }
    }

    fn duration(
        &mut self,
        text: Option<&Spanned<String>>,
        default: Duration,
        range: (Duration, Duration),
    ) -> Duration {
        let Some(text) = text else { return default };
        match parse_duration(&text.value) {
            Some(duration) if range.0 <= duration && duration <= range.1 => duration,
            Some(_) => {
                let message = format!("`{}` is out of range", text.value);
                self.wrong(text, message, &format!("use {} to {}", shown(range.0), shown(range.1)));
                default
            }
            None => {
                let message = format!("`{}` is not a duration", text.value);
                self.wrong(text, message, "write it as `30s`, `15m` or `1h`");
                default
            }
        }
    }

    fn address(&mut self, text: &Spanned<String>) -> Option<SocketAddr> {
        let parsed = text.value.parse().ok();
        if parsed.is_none() {
            let help = "write an IP address and a port, such as `127.0.0.1:9080`";
            self.wrong(text, format!("`{}` is not an address", text.value), help);
        }
        parsed
    }

    fn wrong<T>(&mut self, place: &Spanned<T>, message: String, help: &str) {
        self.findings.push(self.at(place, message, help));
    }

    fn at<T>(&self, place: &Spanned<T>, message: String, help: &str) -> Finding {
        Finding::at(FILE, self.source, span_of(place, self.source), message).with_help(help)
    }
}

/// A duration as its author would write it.
fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds, duration.subsec_millis()) {
        (0, millis) => format!("{millis}ms"),
        (seconds, 0) if seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        (seconds, 0) if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ => format!("{}s", duration.as_secs_f64()),
    }
}
