//! Per instance: its current certificate, when that is due, and how late the renewals before were.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::schedule;
use jiff::Timestamp;

use super::{
    AuditFinding, AuditSeverity, LagSummary, Options, Rotation, RotationState, Rule, WorkloadRotation,
    subject,
};
use crate::ledger::Entry;

/// The share of its life after which a certificate that was not renewed is an error, no longer a warning.
const SHARE_ERROR: f64 = 0.8;

/// All instances, and findings on those that are late.
pub(super) fn workloads(
    entries: &[Entry],
    now: Timestamp,
    options: Options,
    findings: &mut Vec<AuditFinding>,
) -> Vec<WorkloadRotation> {
    let mut by_instance: BTreeMap<(&str, &str), Vec<&Entry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.record.kind.is_authority()) {
        let name = (entry.record.spiffe_id.as_str(), entry.record.instance.as_str());
        by_instance.entry(name).or_default().push(entry);
    }
    let mut workloads = Vec::new();
    for history in by_instance.values() {
        let Some(current) = history.last() else { continue };
        let state = state(current, now, options);
        findings.extend(late(current, state, now));
        workloads.push(workload(current, history, state, now));
    }
    workloads
}

/// None when there are no rotations.
pub(super) fn summary<'a>(rotations: impl IntoIterator<Item = &'a Rotation>) -> Option<LagSummary> {
    let mut lags: Vec<f64> = rotations.into_iter().map(|rotation| rotation.lag_seconds).collect();
    lags.sort_by(f64::total_cmp);
    let rank = |percent: usize| lags.get((lags.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Some(LagSummary {
        count: lags.len(),
        p50_seconds: rank(50)?,
        p99_seconds: rank(99)?,
        max_seconds: lags.last().copied()?,
    })
}

fn workload(current: &Entry, history: &[&Entry], state: RotationState, now: Timestamp) -> WorkloadRotation {
    let record = &current.record;
    let rotations = rotations(history);
    WorkloadRotation {
        spiffe_id: record.spiffe_id.clone(),
        instance: record.instance.clone(),
        state,
        serial: record.serial.clone(),
        issued_at: record.issued_at,
        age_seconds: now.duration_since(record.issued_at).as_secs_f64(),
        due_at: due(current),
        not_after: record.not_after,
        lag: summary(&rotations),
        rotations,
    }
}

/// The renewals of an instance. One that joined anew did not renew: it was started again.
fn rotations(history: &[&Entry]) -> Vec<Rotation> {
    let by_serial: BTreeMap<&str, &Entry> =
        history.iter().map(|entry| (entry.record.serial.as_str(), *entry)).collect();
    let rotation = |entry: &&Entry| {
        let renewed = by_serial.get(entry.record.renews.as_deref()?)?;
        let (due_at, renewed_at) = (due(renewed), entry.record.issued_at);
        let lag_seconds = renewed_at.duration_since(due_at).as_secs_f64();
        Some(Rotation { serial: renewed.record.serial.clone(), due_at, renewed_at, lag_seconds })
    };
    history.iter().filter_map(rotation).collect()
}

fn state(entry: &Entry, now: Timestamp, options: Options) -> RotationState {
    let tolerated = life(entry).mul_f64(options.tolerance);
    let overdue_at = due(entry).checked_add(tolerated).unwrap_or(Timestamp::MAX);
    if now > entry.record.not_after {
        RotationState::Expired
    } else if now > overdue_at {
        RotationState::Overdue
    } else {
        RotationState::Current
    }
}

fn late(entry: &Entry, state: RotationState, now: Timestamp) -> Option<AuditFinding> {
    let record = &entry.record;
    let (rule, severity, message) = match state {
        RotationState::Current => return None,
        RotationState::Expired => {
            let message = format!("its certificate ended at {} and was not renewed", record.not_after);
            (Rule::SilentWorkload, AuditSeverity::Error, message)
        }
        RotationState::Overdue => {
            let late = now.duration_since(due(entry)).as_secs_f64();
            let age = now.duration_since(record.issued_at).as_secs_f64();
            let is_error = age > SHARE_ERROR * life(entry).as_secs_f64();
            let severity = if is_error { AuditSeverity::Error } else { AuditSeverity::Warning };
            let message = format!(
                "its certificate was due to be renewed at {}, {late:.1} s ago, and ends at {}",
                due(entry),
                record.not_after
            );
            (Rule::OverdueRotation, severity, message)
        }
    };
    Some(AuditFinding {
        rule,
        severity,
        subject: subject(entry),
        entry: Some(entry.seq),
        message,
        remedy: "see in the workload's log why it does not renew; if it was stopped for good, nothing",
    })
}

fn due(entry: &Entry) -> Timestamp {
    schedule::due(entry.record.issued_at, entry.record.not_after, &entry.record.serial)
}

fn life(entry: &Entry) -> Duration {
    schedule::life(entry.record.issued_at, entry.record.not_after)
}
