//! The command: which jobs, how long, and what is told of them.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use daemon::Clock;
use indicatif::{ProgressBar, ProgressStyle};

use crate::envoy;
use crate::machine::Machine;
use crate::measure::{self, Measured, OTHERS, Options};
use crate::plot;
use crate::program::{self, Program};
use crate::report;
use crate::results::{self, Entry, Figures, Results};
use crate::row::{ROWS, Row};
use crate::stats::Spread;
use crate::tidegate::Ca;

/// What is measured, and how long.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Measure these jobs alone
    #[arg(long, value_name = "JOB", value_delimiter = ',')]
    only: Vec<String>,
    /// How often both sides have their turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long a turn takes, after a warm-up
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Leave Envoy out, tell the process ids of the proxies, and write nothing
    #[arg(long)]
    tidegate_only: bool,
    #[command(flatten)]
    program: Program,
    /// Leave docs/benchmarks.md and its figures as they are
    #[arg(long)]
    dry_run: bool,
    /// Tell which jobs there are
    #[arg(long)]
    list: bool,
}

/// No certificate is replaced during a job.
const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Before each turn.
const WARM_UP_SECONDS: f64 = 0.3;

impl Run {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if self.list {
            ROWS.iter().for_each(|row| println!("{:<12} {}", row.id, row.title));
            return Ok(ExitCode::SUCCESS);
        }
        let rows = self.rows()?;
        let (root, target) = (program::root()?, program::folder()?);
        let binary = self.program.find()?;
        let envoy = if self.tidegate_only { None } else { Some(envoy::install(&target)?) };
        let machine =
            Machine::this(self.program.built().map(|profile| (root, profile)), &binary, envoy.as_deref())?;
        let options = Options {
            rounds: self.rounds.into(),
            seconds: self.seconds,
            warm_up_seconds: WARM_UP_SECONDS,
            envoy,
        };
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&target)?;
        let ca = Ca::start(&binary, folder.path(), CERTIFICATE_TTL, OTHERS)?;
        let mut is_clean = true;
        for row in rows {
            let measured = run_one(&row, &ca, &options, folder.path())?;
            is_clean &= measured.faults().is_empty();
            if !self.tidegate_only && !self.dry_run {
                self.keep(root, &row, measured, &machine)?;
            }
        }
        Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    /// Writes what was measured, job by job: a run that is stopped keeps what it has.
    fn keep(&self, root: &Path, row: &Row, measured: Measured, machine: &Machine) -> Result<()> {
        let path = root.join("docs/benchmarks/dataplane.json");
        let mut results = Results::load(&path)?;
        let measured_at = Clock::system().now().strftime("%-d %b %Y").to_string();
        let entry = Entry { measured_at, machine: machine.clone(), seconds: self.seconds, measured };
        results.0.insert(row.id.to_owned(), entry);
        results.save(&path)?;
        std::fs::write(root.join("docs/benchmarks/dataplane.svg"), plot::svg(&results))?;
        report::write(&root.join("docs/benchmarks.md"), &results)
    }

    fn rows(&self) -> Result<Vec<Row>> {
        if self.only.is_empty() {
            return Ok(ROWS.to_vec());
        }
        let known =
            |id: &String| Row::called(id).with_context(|| format!("there is no job `{id}`; see `--list`"));
        self.only.iter().map(known).collect()
    }
}

fn run_one(row: &Row, ca: &Ca, options: &Options, folder: &Path) -> Result<Measured> {
    let folder = folder.join(row.id);
    std::fs::create_dir(&folder)?;
    let progress = progress();
    let measured = measure::measure(row, ca, options, &folder, &|step| {
        progress.set_message(format!("{}: {step}", row.id));
    });
    progress.finish_and_clear();
    let measured = measured.with_context(|| format!("the job `{}`", row.id))?;
    std::fs::remove_dir_all(&folder)?;
    tell(row, &measured);
    Ok(measured)
}

fn tell(row: &Row, measured: &Measured) {
    let (ours, theirs) = (Figures::of(&measured.tidegate), Figures::of(&measured.envoy));
    let spread = |spread: Option<Spread>| {
        spread.map_or_else(|| "-".to_owned(), |s| format!("{:.2} ({:.2}-{:.2})", s.median, s.min, s.max))
    };
    let line = if let Some(missing) = row.missing {
        format!("not yet: {missing}; Envoy {} µs", spread(theirs.each))
    } else if row.is_for_memory() {
        let mib = |figures: &Figures| {
            format!(
                "{:.0} MiB idle, {:.0} MiB loaded",
                figures.idle_mib,
                figures.loaded_mib.unwrap_or_default()
            )
        };
        format!("Tidegate {}, Envoy {}", mib(&ours), mib(&theirs))
    } else {
        let ratio = spread(results::ratio(measured));
        format!("Tidegate {} µs, Envoy {} µs, ratio {ratio}", spread(ours.each), spread(theirs.each))
    };
    println!("{:<12} {line}", row.id);
    for fault in measured.faults() {
        println!("{:<12} FAILED: {fault}", row.id);
    }
}

fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    let bar = ProgressBar::new_spinner()
        .with_style(style.unwrap_or_else(|_error| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn seconds(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => bail!("a turn takes 0.1 to 3600 seconds"),
    }
}
