//! Reads the ledger and says how rotation goes: who is late, who was late and by how much, which keys were
//! used again, which certificates live longer than allowed, and whether the ledger is whole.
//!
//! Pure but for reading: the same entries and the same `now` give the same report.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::{Entry, Kind, Ledger, LedgerError};

mod examine;
mod rotation;

#[cfg(test)]
mod tests;

/// How strict the audit is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How late a renewal may be, as a share of the certificate's life, before it is overdue. 0.1 unless
    /// told.
    pub tolerance: f64,
}

/// What the audit found.
#[derive(Clone, Debug, Serialize)]
pub struct RotationReport {
    /// The time of the audit.
    pub audited_at: Timestamp,
    /// How many entries the ledger has.
    pub entries: u64,
    /// The hash of the last entry, in hexadecimal: what the CA's log says for the same entry.
    pub head: String,
    /// Roots and issuing authorities, oldest first.
    pub authorities: Vec<AuthorityState>,
    /// Every instance that ever had a certificate, by SPIFFE ID and name.
    pub workloads: Vec<WorkloadRotation>,
    /// The lags of all past rotations of all workloads; none when there was no rotation.
    pub lag: Option<LagSummary>,
    /// What is wrong, the worst first; empty when all is well.
    pub findings: Vec<AuditFinding>,
}

/// A certificate that may sign others.
#[derive(Clone, Debug, Serialize)]
pub struct AuthorityState {
    /// Root or issuing.
    pub kind: Kind,
    /// Its serial number.
    pub serial: String,
    /// When it was first recorded.
    pub issued_at: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
    /// Whether it is the newest of its kind.
    pub is_current: bool,
}

/// How rotation goes for one instance of one identity.
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadRotation {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Which process of that identity.
    pub instance: String,
    /// How it is.
    pub state: RotationState,
    /// The serial number of its current certificate.
    pub serial: String,
    /// When that was signed.
    pub issued_at: Timestamp,
    /// How old that is, in seconds.
    pub age_seconds: f64,
    /// When that is due to be renewed: at half of its life, with the jitter that its serial number decides.
    pub due_at: Timestamp,
    /// When that ends.
    pub not_after: Timestamp,
    /// How long after its due time each past renewal came, oldest first; below zero when it was early.
    pub rotations: Vec<Rotation>,
    /// The lags of those; none when there was no renewal.
    pub lag: Option<LagSummary>,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationState {
    /// Its certificate is not due, or not yet late.
    Current,
    /// Its certificate should have been renewed.
    Overdue,
    /// Its certificate has ended.
    Expired,
}

/// One past renewal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotation {
    /// The serial number of the certificate that was renewed.
    pub serial: String,
    /// When it was due.
    pub due_at: Timestamp,
    /// When it was renewed.
    pub renewed_at: Timestamp,
    /// The time between, in seconds.
    pub lag_seconds: f64,
}

/// Lags, in seconds. Percentiles are lags that occurred (nearest rank).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LagSummary {
    /// Of how many renewals.
    pub count: usize,
    /// Half were at most so late.
    pub p50_seconds: f64,
    /// 99 in 100 were at most so late.
    pub p99_seconds: f64,
    /// None was later.
    pub max_seconds: f64,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// Which rule was broken.
    pub rule: Rule,
    /// How bad it is.
    pub severity: AuditSeverity,
    /// Whom it concerns: `<SPIFFE ID> (<instance>)`, or a part of the CA.
    pub subject: String,
    /// The ledger entry that shows it, if one does.
    pub entry: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
}

/// The rules of the audit, each with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Rule {
    /// An authority nears its end, or has ended.
    #[serde(rename = "A01")]
    AuthorityExpiry,
    /// A certificate should have been renewed.
    #[serde(rename = "A02")]
    OverdueRotation,
    /// An instance let its certificate end.
    #[serde(rename = "A03")]
    SilentWorkload,
    /// A certificate lives longer than allowed, or than its authority.
    #[serde(rename = "A04")]
    TooLongLived,
    /// A certificate was signed by an authority that is not recorded, or had ended.
    #[serde(rename = "A05")]
    BadIssuer,
    /// A key was certified more than once.
    #[serde(rename = "A06")]
    KeyReuse,
    /// A certificate differs from the profile.
    #[serde(rename = "A10")]
    Profile,
    /// The ledger was changed, or has a gap.
    #[serde(rename = "A16")]
    LedgerIntegrity,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditSeverity {
    /// Something broke, or will soon, or is a breach.
    Error,
    /// Something is not as it should be.
    Warning,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The tolerance is out of range.
    #[error("the tolerance is a share of a certificate's life, from 0 to 1, not {0}")]
    Tolerance(f64),
}

/// Audits the ledger at `path`, also while the CA writes it.
///
/// # Errors
/// When the ledger can't be read, or an option is out of range. What is wrong in the ledger is a finding, not
/// an error.
pub fn rotation(path: &Path, now: Timestamp, options: Options) -> Result<RotationReport, AuditError> {
    if !(0.0..=1.0).contains(&options.tolerance) {
        return Err(AuditError::Tolerance(options.tolerance));
    }
    let mut entries = Vec::new();
    Ledger::open_read_only(path)?.for_each(|entry| entries.push(entry))?;
    Ok(report(&entries, now, options))
}

/// Audits these entries, which are all that the ledger has, in order.
pub fn report(entries: &[Entry], now: Timestamp, options: Options) -> RotationReport {
    let authorities = examine::authorities(entries);
    let mut findings = examine::findings(entries, &authorities, now);
    let workloads = rotation::workloads(entries, now, options, &mut findings);
    findings.sort_by(|a, b| (a.severity, a.rule, &a.subject).cmp(&(b.severity, b.rule, &b.subject)));
    let lags = workloads.iter().flat_map(|workload| &workload.rotations);
    RotationReport {
        audited_at: now,
        entries: entries.len() as u64,
        head: entries.last().map(|entry| hex(&entry.hash)).unwrap_or_default(),
        authorities,
        lag: rotation::summary(lags),
        workloads,
        findings,
    }
}

impl RotationReport {
    /// Whether nothing is wrong.
    pub const fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { tolerance: 0.1 }
    }
}

impl Rule {
    /// Its number, such as `A02`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::AuthorityExpiry => "A01",
            Self::OverdueRotation => "A02",
            Self::SilentWorkload => "A03",
            Self::TooLongLived => "A04",
            Self::BadIssuer => "A05",
            Self::KeyReuse => "A06",
            Self::Profile => "A10",
            Self::LedgerIntegrity => "A16",
        }
    }
}

/// Whom an entry concerns, for people.
fn subject(entry: &Entry) -> String {
    let record = &entry.record;
    match record.kind {
        Kind::Root | Kind::Issuing => format!("{} authority {}", record.kind.as_str(), record.serial),
        Kind::Own | Kind::Attest | Kind::Renew => format!("{} ({})", record.spiffe_id, record.instance),
    }
}

/// Bytes as people read them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
