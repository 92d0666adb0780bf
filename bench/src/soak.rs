//! Ten minutes of what a mesh goes through in months: policies are edited and certificates replaced under load, and
//! nobody may notice.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::daemons::Daemon;
use crate::load::{Load, Outcome};
use crate::measure::{self, OTHERS};
use crate::processor;
use crate::program::{self, Program};
use crate::row::{Row, SOAK};
use crate::side::{Place, Side};
use crate::tidegate::{self, Ca};

/// Keep a pair of sidecars busy while policies and certificates change
///
/// At 70 % of what they can do, with mutual TLS between them. A policy is edited each second, and certificates live for
/// a minute. Exit code 1 if any request failed, if memory or open files have grown, or if a change did not arrive.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// For how long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    #[command(flatten)]
    program: Program,
}

/// How long certificates live; they are replaced at half of that.
const CERTIFICATE_TTL: Duration = Duration::from_secs(60);
/// How long it is measured what they can do.
const FULL_SECONDS: f64 = 5.0;
/// How much of that is asked of them.
const SHARE: f64 = 0.7;
/// How often a policy is edited, and memory is looked at.
const STEP: Duration = Duration::from_secs(1);
/// How much the last fifth may have more than the second one.
const MORE_KIB: u64 = 1024;
const MORE_FILES: usize = 8;
/// How long the last change may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(5);

/// What a process had at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    kib: u64,
    files: usize,
}

impl Soak {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let binary = self.program.find()?;
        let folder: TempDir = tempfile::Builder::new().prefix("soak-").tempdir_in(program::folder()?)?;
        let ca = Ca::start(&binary, folder.path(), CERTIFICATE_TTL, OTHERS)?;
        let (upstream, _service) = measure::start_upstream(&SOAK, folder.path())?;
        let proxies = &[0];
        let place = Place { folder: folder.path(), upstream, proxies, others: OTHERS };
        let side = ca.start_side(&SOAK, &place)?;
        let load = |rate, seconds| Load { seconds, ..measure::load_of(&SOAK, &side, None, rate, proxies) };
        let full = measure::generate(&load(None, FULL_SECONDS))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
        let rate = (full.per_second() * SHARE) as u32;
        println!("{rate} requests a second for {} min, of {:.0} possible", self.minutes, full.per_second());
        let is_over = AtomicBool::new(false);
        let (outcome, disturbed) = std::thread::scope(|scope| {
            let disturbing = scope.spawn(|| disturb(&SOAK, folder.path(), &side, &is_over));
            #[expect(clippy::cast_precision_loss, reason = "some thousands")]
            let outcome = measure::generate(&load(Some(rate), (self.minutes * 60) as f64));
            is_over.store(true, Ordering::Relaxed);
            (outcome, disturbing.join())
        });
        let disturbed = disturbed.map_err(|_panic| anyhow::anyhow!("the editor of policies failed"))??;
        let faults = report(&outcome?, &side, &disturbed, self.minutes)?;
        faults.iter().for_each(|fault| println!("FAILED: {fault}"));
        Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// What was done to the mesh, and what its proxies had meanwhile.
#[derive(Debug, Default)]
struct Disturbed {
    edits: u64,
    /// Of each proxy, in the order of time.
    samples: Vec<Vec<Sample>>,
}

/// Edits a policy and looks at the proxies, until it `is_over`.
fn disturb(row: &Row, folder: &Path, side: &Side, is_over: &AtomicBool) -> Result<Disturbed> {
    let mut disturbed = Disturbed { edits: 0, samples: vec![Vec::new(); side.processes.len()] };
    while !is_over.load(Ordering::Relaxed) {
        disturbed.edits += 1;
        tidegate::edit(row, folder, disturbed.edits)?;
        for (process, samples) in side.processes.iter().zip(&mut disturbed.samples) {
            samples.push(Sample::of(process.id())?);
        }
        std::thread::sleep(STEP);
    }
    Ok(disturbed)
}

/// Tells what came of it; answers what is wrong.
fn report(outcome: &Outcome, side: &Side, disturbed: &Disturbed, minutes: u64) -> Result<Vec<String>> {
    let mut faults: Vec<String> = outcome.fault().into_iter().collect();
    println!(
        "{} requests, {} failed; p50 {:.0} µs, p99 {:.0} µs, longest {:.1} ms",
        outcome.requests,
        outcome.errors + outcome.not_ok,
        outcome.p50_us,
        outcome.p99_us,
        outcome.max_us / 1000.0
    );
    println!("{} edits of a policy", disturbed.edits);
    let policyd = side.others.first().context("there is no policyd")?;
    let newest = policyd.metric("tidegate_policyd_revision")?;
    let renewed_at_least = minutes * 60 / CERTIFICATE_TTL.as_secs();
    for (process, samples) in side.processes.iter().zip(&disturbed.samples) {
        let renewals = process.metric("tidegate_certificate_renewals_total{outcome=\"ok\"}")?;
        let arrived = arrives(process, newest)?;
        let (before, after) = (most(samples, 1), most(samples, 4));
        println!(
            "proxy {}: {renewals} certificates, revision {arrived} of {newest}, {} to {} KiB, {} to {} open files",
            process.id(),
            before.kib,
            after.kib,
            before.files,
            after.files
        );
        if renewals < renewed_at_least {
            faults.push(format!("only {renewals} certificates, rather than {renewed_at_least}"));
        }
        if arrived != newest {
            faults.push(format!("revision {newest} did not arrive"));
        }
        if after.kib > before.kib + MORE_KIB || after.files > before.files + MORE_FILES {
            faults.push("memory or open files have grown".to_owned());
        }
    }
    Ok(faults)
}

/// The revision at which `process` arrives, which should be `newest`.
fn arrives(process: &Daemon, newest: u64) -> Result<u64> {
    let end = Instant::now() + ARRIVAL;
    loop {
        let now = process.metric("tidegate_config_revision")?;
        if now == newest || Instant::now() > end {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The most that a process had in this fifth of the time.
fn most(samples: &[Sample], fifth: usize) -> Sample {
    let at = |fifth: usize| samples.len() * fifth / 5;
    let range = samples.get(at(fifth)..at(fifth + 1)).unwrap_or_default();
    Sample {
        kib: range.iter().map(|sample| sample.kib).max().unwrap_or_default(),
        files: range.iter().map(|sample| sample.files).max().unwrap_or_default(),
    }
}

impl Sample {
    fn of(process: u32) -> Result<Self> {
        let files = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        Ok(Self { kib: processor::resident_kib(&[process])?, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_of_one_fifth_alone() {
        let samples: Vec<Sample> =
            (0..10).map(|place| Sample { kib: place as u64, files: 10 - place }).collect();
        assert_eq!(most(&samples, 1), Sample { kib: 3, files: 8 });
        assert_eq!(most(&samples, 4), Sample { kib: 9, files: 2 });
        assert_eq!(most(&[], 4), Sample::default());
    }

    #[test]
    fn a_process_has_memory_and_files() {
        let own = Sample::of(std::process::id()).unwrap();
        assert!(own.kib > 1000 && own.files >= 3, "{own:?}");
    }
}
