//! `tidegate policy diff`

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use policyd::author::diff::{self, Progress, Side};
use policyd::author::replay;
use policyd::bundle::{Bundle, Files};

use super::super::{Format, Outcome, print};
use super::replay::{log, progress};

/// Tell what is different between two bundles: in their texts, and in what they decide
///
/// Policies, limits, rules, services and entities are compared by name. Then both bundles decide on requests at every
/// boundary of their conditions: for each pattern, range and comparison one that fits and one that does not, for every
/// caller that policies may know. What is decided otherwise is told with an example, in the form of a test. With --log,
/// both bundles also decide on the requests of decision logs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy diff policies/bookinfo ./edited
  tidegate policy diff policies/bookinfo ./edited --log decisions.jsonl
  git worktree add ../before main && tidegate policy diff ../before/policies/bookinfo policies/bookinfo
  tidegate policy diff policies/bookinfo ./edited --format json | jq '.decisions.changes[].example'

Exit codes: 0 no difference, 1 a difference, 2 a bundle or a log can't be read.")]
pub(in crate::commands) struct Diff {
    /// The folder of the old bundle
    old: PathBuf,
    /// The folder of the new bundle
    new: PathBuf,
    /// A decision log, on whose requests both bundles decide, too; `-` is standard input
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// How to print the differences
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Diff {
    pub(super) fn run(self) -> Result<Outcome> {
        let (old_files, old) = load(&self.old)?;
        let (new_files, new) = load(&self.new)?;
        let bar = services();
        let sides = [Side { bundle: &old, files: &old_files }, Side { bundle: &new, files: &new_files }];
        let [old_side, new_side] = sides;
        let difference = diff::diff(old_side, new_side, &|progress| match progress {
            Progress::Services(count) => bar.set_length(count as u64),
            Progress::Done => bar.inc(1),
        });
        bar.finish_and_clear();
        let logs: Vec<replay::Log> = self.logs.iter().map(|path| log(path)).collect();
        let replayed = if logs.is_empty() {
            None
        } else {
            let bar = progress(&self.logs);
            let tally = replay::compare(&old, &new, &logs, &|bytes| bar.inc(bytes));
            bar.finish_and_clear();
            Some(tally?)
        };
        print(&match self.format {
            Format::Text => {
                let logged =
                    replayed.as_ref().map(|tally| format!("\nof the logs:\n{}", replay::text(tally, &logs)));
                format!("{}{}", diff::text(&difference), logged.unwrap_or_default())
            }
            Format::Json => {
                let mut json = diff::json(&difference);
                if let (Some(tally), Some(json)) = (&replayed, json.as_object_mut()) {
                    json.insert("logs".to_owned(), replay::json(tally, &logs));
                }
                serde_json::to_string_pretty(&json)?
            }
        });
        let changed = replayed.is_some_and(|tally| tally.changed() > 0);
        Ok(if difference.is_empty() && !changed { Outcome::Clean } else { Outcome::Findings })
    }
}

fn load(folder: &Path) -> Result<(Files, Bundle)> {
    let files = Files::read(folder)?;
    let bundle = Bundle::load(&files)?;
    Ok((files, bundle))
}

/// Of the services. It is seen on a terminal only.
fn services() -> ProgressBar {
    let bar = ProgressBar::no_length();
    match ProgressStyle::with_template("{bar:40} {pos} of {len} services, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
