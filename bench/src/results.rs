//! All that was measured, as kept in a file: a run of one job leaves those of the others in place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::load::Outcome;
use crate::machine::Machine;
use crate::measure::{Measured, Rounds};
use crate::stats::Spread;

/// The jobs measured, by id.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results(pub BTreeMap<String, Entry>);

/// A job's outcome, with when and on what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub measured_at: String,
    pub machine: Machine,
    pub seconds: f64,
    pub measured: Measured,
}

/// What tables say of one side in a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Processor time of one request, as fast as it goes, in microseconds.
    pub each: Option<Spread>,
    /// Requests answered in a second then.
    pub per_second: Option<Spread>,
    /// At the fixed rate.
    pub latency: Option<Latency>,
    /// In memory: before there was a connection, and with all of them.
    pub idle_mib: f64,
    pub loaded_mib: Option<f64>,
}

/// Medians over the rounds, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latency {
    pub p50: f64,
    pub p99: f64,
    /// Processor time of one request.
    pub each: f64,
}

impl Results {
    /// Those in the file at `path`; none if there is no such file.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("`{}`", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("`{}`", path.display())),
        }
    }

    /// Writes them, one line for each turn, so that differences can be read.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)?;
        let text = text.replace("{\"requests\":", "\n{\"requests\":").replace("]}}", "\n]}}");
        fs::write(path, text + "\n").with_context(|| format!("`{}` can't be written", path.display()))
    }
}

impl Figures {
    /// Of one side; empty where it was not measured.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn of(rounds: &Rounds) -> Self {
        let kib = rounds.open.iter().map(|turn| turn.resident_kib as f64 / 1024.0);
        Self {
            each: Spread::of(each(rounds)),
            per_second: Spread::of(rounds.closed.iter().map(Outcome::per_second)),
            latency: Latency::of(&rounds.open),
            idle_mib: rounds.idle_kib as f64 / 1024.0,
            loaded_mib: Spread::of(kib).map(|spread| spread.median),
        }
    }
}

/// Tidegate's processor time by Envoy's, round by round; nothing if one was not measured or did not do its job.
pub(crate) fn ratio(measured: &Measured) -> Option<Spread> {
    if measured.missing.is_some() || !measured.faults().is_empty() {
        return None;
    }
    Spread::of_ratios(&each(&measured.tidegate), &each(&measured.envoy))
}

impl Latency {
    fn of(turns: &[Outcome]) -> Option<Self> {
        let median = |value: fn(&Outcome) -> f64| Some(Spread::of(turns.iter().map(value))?.median);
        Some(Self {
            p50: median(|turn| turn.p50_us)?,
            p99: median(|turn| turn.p99_us)?,
            each: median(Outcome::microseconds_each)?,
        })
    }
}

/// Processor time of one request in each round, as fast as it goes.
pub(crate) fn each(rounds: &Rounds) -> Vec<f64> {
    rounds.closed.iter().map(Outcome::microseconds_each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::Used;

    fn rounds(microseconds: &[u64]) -> Rounds {
        let turn = |microseconds: &u64| Outcome {
            requests: 1000,
            seconds: 2.0,
            used: Used { nanoseconds: microseconds * 1_000_000, ..Used::default() },
            p50_us: 2.0,
            p99_us: 9.0,
            resident_kib: 2048,
            ..Outcome::default()
        };
        let turns: Vec<Outcome> = microseconds.iter().map(turn).collect();
        Rounds { idle_kib: 1024, closed: turns.clone(), open: turns }
    }

    fn measured() -> Measured {
        Measured { tidegate: rounds(&[10, 30, 20]), envoy: rounds(&[40, 60, 80]), missing: None }
    }

    #[test]
    fn ratios_are_those_of_rounds() {
        assert_eq!(ratio(&measured()), Some(Spread { median: 0.25, min: 0.25, max: 0.5 }));
    }

    #[test]
    fn figures_are_medians() {
        let figures = Figures::of(&measured().envoy);
        assert_eq!(figures.each.unwrap().median, 60.0);
        assert_eq!(figures.per_second.unwrap().median, 500.0);
        assert_eq!(figures.latency, Some(Latency { p50: 2.0, p99: 9.0, each: 60.0 }));
        assert_eq!((figures.idle_mib, figures.loaded_mib), (1.0, Some(2.0)));
        assert_eq!(Figures::of(&Rounds::default()).each, None);
    }

    #[test]
    fn a_job_with_an_error_has_no_ratio() {
        let mut failed = measured();
        failed.envoy.open[0].errors = 1;
        assert_eq!(ratio(&failed), None);
        assert!(failed.faults()[0].starts_with("Envoy: 1 errors"));
        assert_eq!(ratio(&Measured { missing: Some("HTTP/2".to_owned()), ..measured() }), None);
    }

    #[test]
    fn results_are_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        assert_eq!(Results::load(&path).unwrap(), Results::default());
        let mut results = Results::default();
        results.0.insert("a".into(), Entry { measured: measured(), ..Entry::default() });
        results.save(&path).unwrap();
        assert_eq!(Results::load(&path).unwrap(), results);
        assert!(fs::read_to_string(&path).unwrap().lines().count() > 8);
    }
}
