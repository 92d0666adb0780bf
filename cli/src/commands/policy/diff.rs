//! `tidegate policy diff`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use policyd::author::diff::symbolic::{self, Solver, Symbolic};
use policyd::author::diff::{self, Progress, Side};
use policyd::author::replay;
use policyd::bundle::{Bundle, Files};

use super::super::{Format, Outcome, print};
use super::replay::{log, progress};
use crate::progress::counted;

/// Tell what is different between two bundles: in their texts, and in what they decide
///
/// Policies, limits, rules, services and entities are compared by name. Then both bundles decide on requests at every
/// boundary of their conditions: for each pattern, range and comparison one that fits and one that does not, for every
/// caller that policies may know. What is decided otherwise is told with an example, in the form of a test. Where the
/// solver cvc5 is installed, it proves for each kind of request that both bundles allow the same ones, or finds one that
/// only one of them allows. With --log, both bundles also decide on the requests of decision logs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy diff policies/bookinfo ./edited
  tidegate policy diff policies/bookinfo ./edited --log decisions.jsonl
  git worktree add ../before main && tidegate policy diff ../before/policies/bookinfo policies/bookinfo
  tidegate policy diff policies/bookinfo ./edited --format json | jq '.decisions.changes[].example'
  tidegate policy diff policies/bookinfo ./edited --format json | jq .symbolic.result

Exit codes: 0 no difference is known, 1 a difference, 2 a bundle or a log can't be read.")]
pub(in crate::commands) struct Diff {
    /// The folder of the old bundle
    old: PathBuf,
    /// The folder of the new bundle
    new: PathBuf,
    /// A decision log, on whose requests both bundles decide, too; `-` is standard input
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// The solver, cvc5: a path, or a name that is looked for in PATH
    #[arg(long, value_name = "FILE", env = "CVC5", default_value = "cvc5")]
    solver: PathBuf,
    /// How long the solver may take for each question, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    solver_timeout: u32,
    /// How to print the differences
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The stack of the thread that makes formulas, in bytes; memory is taken as it is needed.
const STACK: usize = 256 << 20;

impl Diff {
    pub(super) fn run(self) -> Result<Outcome> {
        let (old_files, old) = load(&self.old)?;
        let (new_files, new) = load(&self.new)?;
        let sides = [Side { bundle: &old, files: &old_files }, Side { bundle: &new, files: &new_files }];
        let [old_side, new_side] = sides;
        let bar = counted("services");
        let difference = diff::diff(old_side, new_side, &|progress| match progress {
            Progress::Services(count) => bar.set_length(count as u64),
            Progress::Done => bar.inc(1),
        });
        bar.finish_and_clear();
        let proven = self.symbolic(sides)?;
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
                let logged = logged.unwrap_or_default();
                format!("{}{}{logged}", diff::text(&difference), symbolic::text(&proven))
            }
            Format::Json => {
                let mut json = diff::json(&difference);
                if let Some(json) = json.as_object_mut() {
                    json.insert("symbolic".to_owned(), symbolic::json(&proven));
                    let logged = replayed.as_ref().map(|tally| replay::json(tally, &logs));
                    json.extend(logged.map(|logged| ("logs".to_owned(), logged)));
                }
                serde_json::to_string_pretty(&json)?
            }
        });
        let changed = replayed.is_some_and(|tally| tally.changed() > 0);
        let same = difference.is_empty() && !proven.differs() && !changed;
        Ok(if same { Outcome::Clean } else { Outcome::Findings })
    }

    /// What a solver finds.
    fn symbolic(&self, [old, new]: [Side<'_>; 2]) -> Result<Symbolic> {
        let solver =
            Solver { program: self.solver.clone(), timeout: Duration::from_secs(self.solver_timeout.into()) };
        let bar = counted("kinds of requests");
        let compare = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let progress = |progress: symbolic::Progress| match progress {
                symbolic::Progress::Environments(count) => bar.set_length(count as u64),
                symbolic::Progress::Done => bar.inc(1),
            };
            anyhow::Ok(runtime.block_on(symbolic::compare(old, new, &solver, &progress)))
        };
        // A formula is walked recursively, and nests as deep as there are policies.
        let found = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, compare)?;
            thread.join().map_err(|_panic| anyhow!("the comparison by the solver failed"))?
        })?;
        bar.finish_and_clear();
        Ok(found)
    }
}

fn load(folder: &Path) -> Result<(Files, Bundle)> {
    let files = Files::read(folder)?;
    let bundle = Bundle::load(&files)?;
    Ok((files, bundle))
}
