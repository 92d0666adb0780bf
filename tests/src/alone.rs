//! A policyd by itself, without a CA, and what its proxies need to speak to it: for measurements.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use api::policy::policy_service_client::PolicyServiceClient;
use daemon::{Clock, Lifecycle};
use identity::grpc::Address;
use identity::{Identity, Source, Svid, TrustBundle, tls};
use model::{SpiffeId, TrustDomain};
use policyd::limits::Store;
use policyd::metrics::Metrics;
use policyd::proxies::Proxies;
use policyd::publish::Publisher;
use policyd::server::Server;
use policyd::snapshot::Current;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tonic::transport::Channel;

/// The trust domain of everything here.
pub const DOMAIN: &str = "shop.example";

/// An authority whose key lies in a folder, so that a process that plays proxies can use it too.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    /// The authority in `folder`, made if there is none.
    ///
    /// # Errors
    /// When it can't be made, written or read.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let (cert, key) = (folder.join("root.pem"), folder.join("root.key"));
        if !cert.exists() {
            let mut params = named(&format!("spiffe://{DOMAIN}"))?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let pair = KeyPair::generate()?;
            std::fs::write(&key, pair.serialize_pem())?;
            std::fs::write(&cert, params.self_signed(&pair)?.pem())?;
        }
        let pem = std::fs::read_to_string(&cert)?;
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).context("the root can't be read")?;
        let pair = KeyPair::from_pem(&std::fs::read_to_string(&key)?)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&pem, pair)?, root })
    }

    /// A certificate for `id`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn source(&self, id: &SpiffeId) -> Result<Source> {
        let mut params = named(id.as_str())?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let svid = Svid::new(vec![leaf.into()], &key)?;
        let bundle = TrustBundle::new(DOMAIN.parse()?, [self.root.clone()])?;
        Ok(Source::fixed(Identity { svid, bundle }))
    }
}

fn named(uri: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

/// A policyd at work.
#[derive(Debug)]
pub struct Alone {
    /// Where it listens, over TCP and on a Unix socket.
    pub addresses: [Address; 2],
    /// The proxies that watch.
    pub proxies: Arc<Proxies>,
    /// The state that decides.
    pub current: Current,
    /// Its life.
    pub lifecycle: Lifecycle,
}

impl Alone {
    /// Starts a policyd with the bundle in `folder/bundle` and the authority in `folder`.
    ///
    /// # Errors
    /// When it can't start.
    pub async fn start(folder: &Path) -> Result<Self> {
        let (clock, lifecycle) = (Clock::system(), Lifecycle::new());
        let source = Authority::in_folder(folder)?.source(&policyd_id()?)?;
        let metrics = Arc::new(Metrics::new(&daemon::Metrics::new()));
        let proxies = Arc::new(Proxies::new(clock.clone(), metrics.clone()));
        let bundle = folder.join("bundle");
        let surroundings = policyd::source::Surroundings {
            metrics: metrics.clone(),
            proxies: proxies.clone(),
            readiness: daemon::Readiness::new(),
            clock: clock.clone(),
        };
        let delivery = policyd::delivery::Delivery::open(policyd::delivery::Config::folder(bundle))?;
        let files = policyd::source::Source::start(delivery, 1, surroundings).await?;
        let current = files.current();
        let server = Server {
            current: current.clone(),
            limits: Mutex::new(Store::default()),
            publisher: Arc::new(Publisher::new(Default::default())),
            proxies: proxies.clone(),
            clock,
            lifecycle: lifecycle.clone(),
            metrics,
        };
        let tcp = identity::grpc::bind(&"127.0.0.1:0".parse()?).await?;
        let unix = identity::grpc::bind(&Address::Unix(folder.join("policyd.sock"))).await?;
        let addresses = [tcp.address().clone(), unix.address().clone()];
        server.serve([tcp, unix], &source);
        lifecycle.spawn(files.run(lifecycle.clone()));
        Ok(Self { addresses, proxies, current, lifecycle })
    }
}

/// A client with the identity of `service`.
///
/// # Errors
/// When it can't have a certificate.
pub fn client(
    authority: &Authority,
    service: &str,
    address: &Address,
) -> Result<PolicyServiceClient<Channel>> {
    let id = DOMAIN.parse::<TrustDomain>()?.workload("default", service)?;
    let source = authority.source(&id)?;
    let config = tls::client_config(&source, Clock::system(), vec![policyd_id()?], tls::H2);
    Ok(PolicyServiceClient::new(identity::grpc::channel(address.clone(), config)))
}

fn policyd_id() -> Result<SpiffeId> {
    Ok(identity::policyd_id(&DOMAIN.parse()?)?)
}

/// What this process has used of its processors so far, in seconds.
///
/// # Errors
/// Where there is no `/proc`.
pub fn processor_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').context("no name in /proc/self/stat")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|place| fields.get(*place)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// What this process has in memory, in bytes.
///
/// # Errors
/// Where there is no `/proc`.
pub fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).context("no pages in /proc/self/statm")?.parse()?;
    Ok(pages * 4096)
}

/// Lets this process have as many files and connections open as the system allows it.
///
/// # Errors
/// When the system refuses.
pub fn raise_open_files() -> Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// The value at `share` of the sorted `values`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers"
)]
pub fn quantile<T: Copy>(values: &[T], share: f64) -> Option<T> {
    values.get(((values.len().saturating_sub(1)) as f64 * share).round() as usize).copied()
}

/// A folder for one measurement, with a mesh of `services` without instances and one policy for each service
/// besides one for all.
///
/// # Errors
/// When it can't be written.
pub fn prepare(folder: &Path, services: usize) -> Result<PathBuf> {
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(&bundle)?;
    let list: String = (0..services)
        .map(|n| {
            let instances: String = (0..10)
                .map(|i| {
                    format!(
                        "{{name: s{n}-{i}, endpoint: '127.0.0.1:1', inbound: '10.0.{}.{}:80'}}, ",
                        n % 250,
                        i + 1
                    )
                })
                .collect();
            format!("  s{n}: {{instances: [{instances}]}}\n")
        })
        .collect();
    std::fs::write(bundle.join("mesh.yaml"), format!("trust_domain: {DOMAIN}\nservices:\n{list}"))?;
    for n in 0..services {
        std::fs::write(bundle.join(format!("s{n}.cedar")), own_policy(n, "GET"))?;
    }
    std::fs::write(bundle.join("all.cedar"), policy_of_all("GET"))?;
    Ok(bundle)
}

/// A policy that concerns the service of this number alone.
pub fn own_policy(service: usize, method: &str) -> String {
    format!(
        "@id(\"s{service}\") permit (principal, action == Action::\"http\", resource == Service::\"s{service}\")\n\
         when {{ context.method == \"{method}\" && context.path like \"/own/*\" }};\n"
    )
}

/// A policy that concerns every service.
pub fn policy_of_all(method: &str) -> String {
    format!(
        "@id(\"all\") permit (principal, action == Action::\"http\", resource)\n\
         when {{ context.method == \"{method}\" && context.path like \"/all/*\" }};\n"
    )
}
