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

/// What a table says of one job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Processor time of one request, in microseconds.
    pub ours: Spread,
    pub theirs: Spread,
    /// Of both, by round.
    pub ratio: Spread,
    /// At the fixed rate.
    pub ours_open: Latency,
    pub theirs_open: Latency,
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

impl Summary {
    /// Nothing if a side was not measured, or did not do its job.
    pub(crate) fn of(measured: &Measured) -> Option<Self> {
        if !measured.faults().is_empty() {
            return None;
        }
        let (ours, theirs) = (each(&measured.tidegate), each(&measured.envoy));
        Some(Self {
            ours: Spread::of(ours.iter().copied())?,
            theirs: Spread::of(theirs.iter().copied())?,
            ratio: Spread::of_ratios(&ours, &theirs)?,
            ours_open: Latency::of(&measured.tidegate.open)?,
            theirs_open: Latency::of(&measured.envoy.open)?,
        })
    }
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
            used: Used { nanoseconds: microseconds * 1_000_000, ..Used::default() },
            p50_us: 2.0,
            p99_us: 9.0,
            ..Outcome::default()
        };
        let turns: Vec<Outcome> = microseconds.iter().map(turn).collect();
        Rounds { closed: turns.clone(), open: turns }
    }

    #[test]
    fn a_summary_has_the_ratio_of_rounds() {
        let measured = Measured { tidegate: rounds(&[10, 30, 20]), envoy: rounds(&[40, 60, 80]) };
        let summary = Summary::of(&measured).unwrap();
        assert_eq!((summary.ours.median, summary.theirs.median), (20.0, 60.0));
        assert_eq!(summary.ratio, Spread { median: 0.25, min: 0.25, max: 0.5 });
        assert_eq!(summary.theirs_open, Latency { p50: 2.0, p99: 9.0, each: 60.0 });
    }

    #[test]
    fn a_job_with_an_error_has_no_summary() {
        let mut measured = Measured { tidegate: rounds(&[10]), envoy: rounds(&[40]) };
        measured.envoy.open[0].errors = 1;
        assert_eq!(Summary::of(&measured), None);
        assert!(measured.faults()[0].starts_with("Envoy: 1 errors"));
    }

    #[test]
    fn results_are_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        assert_eq!(Results::load(&path).unwrap(), Results::default());
        let mut results = Results::default();
        let measured = Measured { tidegate: rounds(&[10, 20]), envoy: rounds(&[40, 50]) };
        results.0.insert("a".into(), Entry { measured, ..Entry::default() });
        results.save(&path).unwrap();
        assert_eq!(Results::load(&path).unwrap(), results);
        assert!(fs::read_to_string(&path).unwrap().lines().count() > 8);
    }
}
