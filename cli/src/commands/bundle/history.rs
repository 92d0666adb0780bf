//! `tidegate bundle history`, `rollback` and `release`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use comfy_table::presets;
use daemon::Clock;
use policyd::delivery::history::{self, Entry, History as Entries};
use policyd::delivery::standing::{Pin, Standing};
use policyd::delivery::store::Store;
use policyd::delivery::{Digest, in_use};
use serde_json::json;

use super::{Format, Outcome, print};
use crate::overview::{table, unpadded};

/// Which bundles were in force, and how does it stand?
///
/// Reads policyd's state folder, also while policyd runs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate bundle history state/policyd
  tidegate bundle history state/policyd --format json | jq '.in_force'

Exit codes: 0 what the source has is in force, 1 it is refused or another bundle serves, 2 the folder can't be read.")]
pub(in crate::commands) struct History {
    /// policyd's `state_dir`
    state_dir: PathBuf,
    /// How many of the last entries to show
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    last: usize,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Put an older bundle in force, and hold it there
///
/// The one that came before what is in force, unless `--to` names another. It is in force at once if policyd runs, else
/// when it starts, and stays so whatever the source does, until `tidegate bundle release`: a broken source must not come
/// back by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate bundle rollback state/policyd              one further back each time
  tidegate bundle rollback state/policyd --to 12      a number of `tidegate bundle history`
  tidegate bundle rollback state/policyd --to 3f9a12ab

Exit codes: 0 it is in force, or will be when policyd starts, 2 it could not be done.")]
pub(in crate::commands) struct Rollback {
    /// policyd's `state_dir`
    state_dir: PathBuf,
    /// A number of the history, or at least eight digits of a bundle's digest
    #[arg(long, value_name = "NUMBER|DIGEST")]
    to: Option<String>,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Follow the source again, after a rollback
///
/// What the source has comes into force at once, if it is good. If it is refused, the bundle that was pinned stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tidegate bundle release state/policyd

Exit codes: 0 released, 1 released, but what the source has is refused, 2 it could not be done.")]
pub(in crate::commands) struct Release {
    /// policyd's `state_dir`
    state_dir: PathBuf,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl History {
    pub(super) fn run(self) -> Result<Outcome> {
        let state = State::read(&self.state_dir)?;
        let skipped = state.entries.len().saturating_sub(self.last);
        let entries = state.entries.get(skipped..).unwrap_or_default();
        let last = state.entries.last().map(|entry| entry.number);
        print(&match self.format {
            Format::Text => format!("{}\n\n{}", state.table(entries, last), state.text()),
            Format::Json => {
                let kept = |entry: &Entry| {
                    let mut value = json!(entry);
                    if let Some(fields) = value.as_object_mut() {
                        fields.insert("kept".to_owned(), state.store.has(entry.digest).into());
                    }
                    value
                };
                let mut value = state.value();
                if let Some(fields) = value.as_object_mut() {
                    fields.insert("entries".to_owned(), entries.iter().map(kept).collect());
                }
                serde_json::to_string_pretty(&value)?
            }
        });
        Ok(state.outcome())
    }
}

impl Rollback {
    pub(super) fn run(self) -> Result<Outcome> {
        let state = State::read(&self.state_dir)?;
        let entry = state.target(self.to.as_deref())?;
        let digest = entry.digest;
        ensure!(
            state.store.has(digest),
            "bundle {} of entry {} is kept no longer: see `bundles_kept` in policyd's configuration",
            digest.short(),
            entry.number
        );
        let at = Clock::system().now();
        Pin { digest, at }.write(&self.state_dir).context("it can't be pinned")?;
        let state = state.until(|standing| {
            standing.pinned == Some(digest)
                && (standing.in_force == Some(digest) || standing.pin_refused.is_some())
                || standing.pin_refused.is_some() && standing.at >= at
        })?;
        if let Some(why) = state.running().and_then(|standing| standing.pin_refused.as_ref()) {
            bail!("policyd refuses bundle {}; what was in force stays so\n{why}", digest.short());
        }
        self.format.say(&state)?;
        Ok(Outcome::Clean)
    }
}

impl Release {
    pub(super) fn run(self) -> Result<Outcome> {
        let state = State::read(&self.state_dir)?;
        ensure!(state.pin.is_some(), "nothing is pinned in `{}`", self.state_dir.display());
        Pin::remove(&self.state_dir).context("it can't be released")?;
        let state = state.until(|standing| standing.pinned.is_none())?;
        self.format.say(&state)?;
        Ok(state.outcome())
    }
}

impl Format {
    fn say(self, state: &State) -> Result<()> {
        print(&match self {
            Self::Text => state.text(),
            Self::Json => serde_json::to_string_pretty(&state.value())?,
        });
        Ok(())
    }
}

/// All that a state folder tells.
struct State {
    folder: PathBuf,
    entries: Vec<Entry>,
    store: Store,
    standing: Option<Standing>,
    pin: Option<Pin>,
    runs: bool,
}

impl State {
    fn read(folder: &Path) -> Result<Self> {
        let shown = folder.display();
        ensure!(
            folder.join("history.jsonl").is_file(),
            "`{shown}` is no state folder of a policyd: it has no history"
        );
        let unreadable = || format!("`{shown}` can't be read");
        Ok(Self {
            folder: folder.to_owned(),
            entries: Entries::read(folder)?,
            store: Store::at(folder),
            standing: Standing::read(folder).with_context(unreadable)?,
            // A damaged one is policyd's to tell of; a rollback replaces it.
            pin: Pin::read(folder).unwrap_or_default(),
            runs: in_use(folder)?,
        })
    }

    /// Waits until policyd says so, if it runs.
    fn until(self, says: impl Fn(&Standing) -> bool) -> Result<Self> {
        let mut state = self;
        for _ in 0..ASKED_MAX {
            state = Self::read(&state.folder)?;
            if !state.runs || state.standing.as_ref().is_some_and(&says) {
                return Ok(state);
            }
            std::thread::sleep(ASK_AGAIN);
        }
        bail!(
            "policyd runs, but has not followed within {} s: see its log",
            (ASK_AGAIN * ASKED_MAX).as_secs()
        )
    }

    /// The entry that `to` names.
    fn target(&self, to: Option<&str>) -> Result<&Entry> {
        let Some(to) = to else {
            let in_force = self.in_force().context("nothing was in force yet")?;
            let before = history::before(&self.entries, in_force);
            return before.with_context(|| format!("no bundle came before {}", in_force.short()));
        };
        let mut newest_first = self.entries.iter().rev();
        let found = match to.parse::<u64>() {
            Ok(number) if to.len() < PREFIX_MIN => newest_first.find(|entry| entry.number == number),
            _ => {
                let named = |entry: &&Entry| entry.digest.to_string().starts_with(to);
                let digits = to.len() >= PREFIX_MIN && to.bytes().all(|byte| byte.is_ascii_hexdigit());
                ensure!(
                    digits,
                    "`{to}` is no number of the history and no digest of at least {PREFIX_MIN} digits"
                );
                let first = newest_first.find(named);
                let other =
                    newest_first.filter(named).find(|other| Some(other.digest) != first.map(|e| e.digest));
                ensure!(other.is_none(), "several digests start with `{to}`: give more digits");
                first
            }
        };
        found.with_context(|| format!("the history has no `{to}`: see `tidegate bundle history`"))
    }

    /// How it stands at the policyd that runs.
    fn running(&self) -> Option<&Standing> {
        self.standing.as_ref().filter(|_| self.runs)
    }

    /// The bundle in force, or the one that was when policyd ended.
    fn in_force(&self) -> Option<Digest> {
        let told = self.running().and_then(|standing| standing.in_force);
        told.or_else(|| self.entries.last().map(|entry| entry.digest))
    }

    fn outcome(&self) -> Outcome {
        let good =
            |standing: &Standing| standing.source_refused.is_none() && standing.why == history::Why::Source;
        let clean = self.pin.is_none() && self.standing.as_ref().is_none_or(good);
        if clean { Outcome::Clean } else { Outcome::Findings }
    }

    fn table(&self, entries: &[Entry], last: Option<u64>) -> String {
        let mut rows = table(
            presets::NOTHING,
            ["#", "since", "bundle", "why", "serial", "signed by", "revision", "what changed", ""],
        );
        for entry in entries {
            let note = match self.store.has(entry.digest) {
                _ if Some(entry.number) == last && self.in_force() == Some(entry.digest) => "in force",
                true => "",
                false => "kept no longer",
            };
            rows.add_row([
                entry.number.to_string(),
                format!("{:.0}", entry.at),
                entry.digest.short(),
                entry.why.as_str().replace('_', " "),
                entry.serial.map(|serial| serial.to_string()).unwrap_or_default(),
                entry.signed_by.map(|key| key.short()).unwrap_or_default(),
                entry.revision.clone(),
                entry.changes.clone(),
                note.to_owned(),
            ]);
        }
        unpadded(&rows)
    }

    fn text(&self) -> String {
        let short =
            |digest: Option<Digest>| digest.map_or_else(|| "none".to_owned(), |digest| digest.short());
        let mut text = match self.running() {
            Some(standing) => {
                format!("in force  {}, revision {}\n", short(self.in_force()), standing.revision)
            }
            None => format!("in force  none, policyd does not run; {} was\n", short(self.in_force())),
        };
        if let Some(pin) = self.pin {
            let since = format!("since {:.0}, until `tidegate bundle release`", pin.at);
            text.push_str(&format!("pinned    {} {since}\n", pin.digest.short()));
        }
        if let Some(standing) = &self.standing {
            let refused = standing.source_refused.as_ref().and_then(|findings| findings.as_array());
            let how = match refused {
                None if standing.why == history::Why::Source => "in force".to_owned(),
                None => "good, but not in force".to_owned(),
                Some(findings) => {
                    let first = findings.first().and_then(|finding| finding.get("message"));
                    format!("refused: {}", first.and_then(|message| message.as_str()).unwrap_or_default())
                }
            };
            text.push_str(&format!("source    {}: {how}\n", standing.source));
        }
        text
    }

    fn value(&self) -> serde_json::Value {
        json!({
            "running": self.runs,
            "in_force": self.in_force(),
            "pinned": self.pin.map(|pin| pin.digest),
            "status": self.standing,
        })
    }
}

/// The fewest digits that name a digest; a shorter number is one of the history.
const PREFIX_MIN: usize = 8;
/// How long policyd is given to follow: reading a large bundle takes seconds.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ASKED_MAX: u32 = 1500;
