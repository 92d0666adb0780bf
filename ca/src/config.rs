//! What the CA is told: a YAML file, read as [`RawConfig`], checked whole, and made a [`Config`].

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config_file::{self, span_of};
use daemon::{Finding, Findings};
use model::TrustDomain;
use model::limit::parse_duration;
use serde::Deserialize;
use serde_saphyr::Spanned;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long workloads' certificates may live.
pub const CERTIFICATE_TTL: RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(90 * 86_400);
/// How long an issuing authority may live.
pub const ISSUING_CA_TTL: RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(366 * 86_400);
/// For how long after its end a certificate may be renewed.
pub const EXPIRED_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// For example `bookinfo.example`.
    pub trust_domain: Spanned<String>,
    /// Where keys, certificates and the ledger are kept.
    pub state_dir: PathBuf,
    /// Where Attest and Renew are served.
    pub listen: Option<Spanned<String>>,
    /// Where metrics and health are served.
    pub admin: Option<Spanned<String>>,
    /// See [`Config::certificate_ttl`].
    pub certificate_ttl: Option<Spanned<String>>,
    /// See [`Config::expired_grace`].
    pub expired_grace: Option<Spanned<String>>,
    /// See [`Config::issuing_ca_ttl`].
    pub issuing_ca_ttl: Option<Spanned<String>>,
}

/// What the CA is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Where Attest and Renew are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where metrics and health are served; port 0 takes a free one.
    pub admin: SocketAddr,
    /// Where keys, certificates and the ledger are kept. Made when it is missing.
    pub state_dir: PathBuf,
    /// How long workloads' certificates live; within [`CERTIFICATE_TTL`].
    pub certificate_ttl: Duration,
    /// For how long after its end a certificate may still be renewed; within [`EXPIRED_GRACE`]. Without this
    /// a CA that was down for longer than certificates live would leave a mesh that needs a new join token
    /// for each workload.
    pub expired_grace: Duration,
    /// How long an issuing authority lives; within [`ISSUING_CA_TTL`], and at least twice `certificate_ttl`.
    /// It is replaced at half of its life, so each certificate can have its whole life under it.
    pub issuing_ca_ttl: Duration,
}

impl Config {
    /// The defaults: loopback, free ports, certificates for an hour, a day of grace, issuing authorities for
    /// a week.
    pub fn new(trust_domain: TrustDomain, state_dir: impl Into<PathBuf>) -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            trust_domain,
            listen: loopback,
            admin: loopback,
            state_dir: state_dir.into(),
            certificate_ttl: HOUR,
            expired_grace: DAY,
            issuing_ca_ttl: 7 * DAY,
        }
    }

    /// Reads the YAML file at `path`.
    ///
    /// # Errors
    /// All mistakes of the file at once.
    pub fn load(path: &Path) -> Result<Self, Findings> {
        let name = path.display().to_string();
        let mut config = Self::parse(&name, &config_file::read(path, &name)?)?;
        // As in every other file of Tidegate: a relative name starts from the folder of the file it stands in.
        config.state_dir = path.parent().unwrap_or_else(|| Path::new("")).join(config.state_dir);
        Ok(config)
    }

    /// Reads YAML text of the file called `file`.
    ///
    /// # Errors
    /// All mistakes of the text at once.
    pub fn parse(file: &str, source: &str) -> Result<Self, Findings> {
        let raw: RawConfig = config_file::parse(file, source)?;
        Reader { file, source, findings: known(file, source) }.resolve(&raw)
    }

    /// The SQLite file that holds ledger and join tokens.
    pub fn ledger_path(&self) -> PathBuf {
        self.state_dir.join(LEDGER_FILE)
    }

    /// The PEM file that holds the roots, for those who start a daemon that has to trust this CA.
    pub fn bundle_path(&self) -> PathBuf {
        self.state_dir.join(BUNDLE_FILE)
    }
}

const LEDGER_FILE: &str = "ledger.sqlite";
const BUNDLE_FILE: &str = "bundle.pem";

fn known(file: &str, source: &str) -> Findings {
    let mut findings = Findings::new();
    findings.add_source(file, source);
    findings
}

/// Reads values, and collects what is wrong with them.
struct Reader<'a> {
    file: &'a str,
    source: &'a str,
    findings: Findings,
}

impl Reader<'_> {
    fn resolve(mut self, raw: &RawConfig) -> Result<Config, Findings> {
        let trust_domain = raw.trust_domain.value.parse::<TrustDomain>();
        if let Err(error) = &trust_domain {
            self.wrong(
                &raw.trust_domain,
                format!("`{}` is not a trust domain: {error}", raw.trust_domain.value),
            );
        }
        let trust_domain = trust_domain.ok();
        let listen = self.address(raw.listen.as_ref());
        let admin = self.address(raw.admin.as_ref());
        let certificate_ttl = self.duration(raw.certificate_ttl.as_ref(), HOUR, &CERTIFICATE_TTL);
        let expired_grace = self.duration(raw.expired_grace.as_ref(), DAY, &EXPIRED_GRACE);
        let issuing_ca_ttl = self.duration(raw.issuing_ca_ttl.as_ref(), 7 * DAY, &ISSUING_CA_TTL);
        if let Some(place) = raw.issuing_ca_ttl.as_ref().or(raw.certificate_ttl.as_ref())
            && issuing_ca_ttl < certificate_ttl.saturating_mul(2)
        {
            self.wrong(place, "issuing_ca_ttl is shorter than twice certificate_ttl".to_owned());
        }
        match trust_domain {
            Some(trust_domain) if !self.findings.has_errors() => Ok(Config {
                trust_domain,
                listen,
                admin,
                state_dir: raw.state_dir.clone(),
                certificate_ttl,
                expired_grace,
                issuing_ca_ttl,
            }),
            _ => Err(self.findings),
        }
    }

    fn address(&mut self, raw: Option<&Spanned<String>>) -> SocketAddr {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let Some(raw) = raw else { return default };
        raw.value.parse().unwrap_or_else(|_error| {
            self.wrong(raw, format!("`{}` is not an address such as `127.0.0.1:7300`", raw.value));
            default
        })
    }

    fn duration(
        &mut self,
        raw: Option<&Spanned<String>>,
        default: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        let Some(raw) = raw else { return default };
        match parse_duration(&raw.value) {
            Some(duration) if range.contains(&duration) => duration,
            Some(_) => {
                let (from, to) = (range.start().as_secs(), range.end().as_secs() / DAY.as_secs());
                self.wrong(raw, format!("`{}` is not between {from} seconds and {to} days", raw.value));
                default
            }
            None => {
                self.wrong(raw, format!("`{}` is not a duration such as `30s`, `1h` or `7d`", raw.value));
                default
            }
        }
    }

    fn wrong<T>(&mut self, place: &Spanned<T>, message: String) {
        self.findings.push(Finding::at(self.file, self.source, span_of(place, self.source), message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_short_file_gets_the_defaults() {
        let config = Config::parse("ca.yaml", "trust_domain: a.example\nstate_dir: /tmp/x\n").unwrap();
        assert_eq!(config, Config::new("a.example".parse().unwrap(), "/tmp/x"));
    }

    #[test]
    fn every_field_can_be_set() {
        let text = "trust_domain: a.example\nstate_dir: state\nlisten: 127.0.0.1:1\nadmin: '[::1]:2'\n\
                    certificate_ttl: 5s\nexpired_grace: 0s\nissuing_ca_ttl: 10s\n";
        let config = Config::parse("ca.yaml", text).unwrap();
        assert_eq!((config.certificate_ttl, config.issuing_ca_ttl), (5 * SECOND, 10 * SECOND));
        assert_eq!((config.listen.port(), config.admin.port(), config.expired_grace), (1, 2, Duration::ZERO));
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_lines() {
        let text = "trust_domain: A!\nstate_dir: x\nlisten: here\nadmin: there\ncertificate_ttl: 4s\n\
                    expired_grace: never\nissuing_ca_ttl: 2y\n";
        let findings = Config::parse("ca.yaml", text).unwrap_err();
        let lines: Vec<_> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7], "{}", findings.render(false));
    }

    #[test]
    fn an_issuing_authority_must_outlive_what_it_issues() {
        let text = "trust_domain: a\nstate_dir: x\ncertificate_ttl: 4d\n";
        let findings = Config::parse("ca.yaml", text).unwrap_err();
        assert!(findings.render(false).contains("shorter than twice"), "{}", findings.render(false));
        assert!(Config::parse("ca.yaml", "trust_domain: a\nstate_dir: x\ncolour: red\n").is_err());
    }
}
