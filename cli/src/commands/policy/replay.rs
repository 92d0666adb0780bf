//! `tidegate policy replay`

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::ProgressBar;
use policyd::author::replay::{self, Log};
use policyd::bundle::{Bundle, Files};

use super::super::{Format, Outcome, print};
use crate::progress::styled;

/// Make recorded decisions again by a bundle: what would change
///
/// Reads decision logs, plain or compressed by gzip, and decides on each request by the bundle. What would be decided
/// otherwise is told by verdict, policies, caller and service, with counts and an example. What can't be decided again
/// is counted, with the reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy replay ./edited --log decisions.jsonl
  tidegate policy replay ./edited --log decisions.jsonl.1.gz --log decisions.jsonl
  zstdcat decisions.zst | tidegate policy replay ./edited --log -
  tidegate policy replay ./edited --log decisions.jsonl --format json | jq '.groups[0]'

Exit codes: 0 nothing would change, 1 something would, 2 the bundle or a log can't be read,
or not one line can be decided again.")]
pub(in crate::commands) struct Replay {
    /// The folder of the bundle to decide by
    bundle: PathBuf,
    /// A decision log; `-` is standard input
    #[arg(long = "log", value_name = "FILE", required = true)]
    logs: Vec<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Replay {
    pub(super) fn run(self) -> Result<Outcome> {
        let bundle = Bundle::load(&Files::read(&self.bundle)?)?;
        let logs: Vec<Log> = self.logs.iter().map(|path| log(path)).collect();
        let bar = progress(&self.logs);
        let tally = replay::replay(&bundle, &logs, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let tally = tally?;
        print(&match self.format {
            Format::Text => replay::text(&tally, &logs),
            Format::Json => serde_json::to_string_pretty(&replay::json(&tally, &logs))?,
        });
        // A log of something else must not pass for one in which nothing changes.
        ensure!(tally.replayed > 0, "no line could be decided again");
        Ok(if tally.changed() == 0 { Outcome::Clean } else { Outcome::Findings })
    }
}

pub(super) fn log(path: &Path) -> Log {
    if path == Path::new("-") { Log::Stdin } else { Log::File(path.to_owned()) }
}

/// Of the bytes on the disk. It is seen on a terminal only.
pub(super) fn progress(logs: &[PathBuf]) -> ProgressBar {
    let sizes: Option<Vec<u64>> = logs
        .iter()
        .map(|path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|file| file.len()))
        .collect();
    let (bar, form) = match sizes {
        Some(sizes) => (
            ProgressBar::new(sizes.iter().sum()),
            "{bar:40} {percent:>3} % of {binary_total_bytes}, {eta} left",
        ),
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes} read"),
    };
    styled(bar, form)
}
