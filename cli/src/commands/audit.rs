//! `tidegate audit`

use std::path::PathBuf;

use anyhow::Result;
use ca::audit::{LagSummary, Options, RotationReport, RotationState, WorkloadRotation};
use clap::{Args, Subcommand};
use comfy_table::presets;
use daemon::Clock;

use super::{Format, Outcome, print};
use crate::overview::{shown, table, unpadded};

/// Look at what was issued
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    Rotation(Rotation),
}

/// Are certificates renewed in time, with fresh keys, for no longer than allowed?
///
/// Reads the CA's ledger, also while the CA runs, and checks that it is whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate audit rotation --ledger state/ca/ledger.sqlite
  tidegate audit rotation --ledger FILE --format json | jq '.findings[] | {rule, subject}'

Exit codes: 0 clean, 1 findings, 2 the ledger can't be read.")]
pub(super) struct Rotation {
    /// The CA's ledger: ledger.sqlite in its state folder
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// How late a renewal may be before it is overdue, as a share of the certificate's life
    #[arg(long, value_name = "SHARE", default_value_t = Options::default().tolerance)]
    tolerance: f64,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Audit {
    pub(super) fn run(self) -> Result<Outcome> {
        match self {
            Self::Rotation(rotation) => rotation.run(),
        }
    }
}

impl Rotation {
    fn run(self) -> Result<Outcome> {
        let options = Options { tolerance: self.tolerance };
        let report = ca::audit::rotation(&self.ledger, Clock::system().now(), options)?;
        print(&match self.format {
            Format::Text => text(&report),
            Format::Json => serde_json::to_string_pretty(&report)?,
        });
        Ok(if report.is_clean() { Outcome::Clean } else { Outcome::Findings })
    }
}

fn text(report: &RotationReport) -> String {
    let mut rows = table(
        presets::NOTHING,
        ["workload", "SPIFFE ID", "state", "age", "due", "ends", "rotations", "lag p50 / p99 / max"],
    );
    for workload in &report.workloads {
        rows.add_row(row(workload, report));
    }
    let mut text =
        format!("{}\n\n{} entries in the ledger, head {}\n", unpadded(&rows), report.entries, report.head);
    if let Some(lag) = &report.lag {
        text.push_str(&format!("{} rotations, lag p50 / p99 / max {}\n", lag.count, lags(lag)));
    }
    for finding in &report.findings {
        let entry = finding.entry.map(|entry| format!(" (entry {entry})")).unwrap_or_default();
        text.push_str(&format!(
            "\n{} {}: {}{entry}\n    {}\n",
            finding.rule.id(),
            finding.subject,
            finding.message,
            finding.remedy
        ));
    }
    match report.findings.len() {
        0 => text.push_str("no findings\n"),
        1 => text.push_str("\n1 finding\n"),
        count => text.push_str(&format!("\n{count} findings\n")),
    }
    text
}

fn row(workload: &WorkloadRotation, report: &RotationReport) -> Vec<String> {
    let state = match workload.state {
        RotationState::Current => "current",
        RotationState::Overdue => "overdue",
        RotationState::Expired => "expired",
    };
    let from_now = |time: jiff::Timestamp| {
        let span = time.duration_since(report.audited_at);
        if span.is_negative() { format!("{} ago", shown(span.abs())) } else { format!("in {}", shown(span)) }
    };
    vec![
        workload.instance.clone(),
        workload.spiffe_id.clone(),
        state.to_owned(),
        shown(report.audited_at.duration_since(workload.issued_at)),
        from_now(workload.due_at),
        from_now(workload.not_after),
        workload.rotations.len().to_string(),
        workload.lag.as_ref().map(lags).unwrap_or_default(),
    ]
}

fn lags(lag: &LagSummary) -> String {
    format!("{:.1} / {:.1} / {:.1} s", lag.p50_seconds, lag.p99_seconds, lag.max_seconds)
}
