//! `list` denies what is on a list, or what is not.
//!
//! The entries stand in the configuration, in a file (one a line; `#` starts a comment), or in both. The file is
//! looked at again every `refresh`. A file that is broken or gone changes nothing: the last good list stays.
//!
//! A value that is missing, or that can't be compared with the entries, is denied whatever the mode: otherwise
//! leaving out a header would be the way around a list. `missing: allow` lifts that for missing values.

mod entries;
mod source;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::Verdict;
use model::decision::Opinion;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::ConfigReader;
use crate::contract::{
    Adapter, BuildError, CheckError, CheckHandler, ConfigError, Environment, Handler, Instance, Kind,
    Validated,
};
use crate::fields::{Field, FieldType, Fields};
use crate::file::PATH_LENGTH_MAX;
use entries::{ENTRIES_MAX, ENTRY_LENGTH_MAX, Entries, Match};
use source::Source;

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct List;

#[derive(Debug)]
struct Config {
    mode: Mode,
    how: Match,
    missing: Verdict,
    inline: Vec<String>,
    file: Option<PathBuf>,
    refresh: Duration,
    valid_for: Duration,
}

/// What the list is a list of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Those who are denied.
    Deny,
    /// Those who are allowed.
    Allow,
}

#[derive(Debug)]
struct ListHandler {
    mode: Mode,
    missing: Verdict,
    valid_for: Duration,
    list: Arc<Current>,
    /// Cancelled when the handler is closed or dropped.
    closing: CancellationToken,
    _closes: DropGuard,
}

/// The list of the moment.
#[derive(Debug)]
struct Current {
    entries: watch::Sender<Arc<Entries>>,
    changed: watch::Sender<u64>,
}

impl Adapter for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn kind(&self) -> Kind {
        Kind::Check
    }

    fn about(&self) -> &'static str {
        "denies what is on a list, or what is not"
    }

    fn fields(&self) -> Fields {
        let value = Field {
            name: "value".into(),
            types: &[FieldType::Text, FieldType::Ip],
            required: true,
            about: "what is looked up: a text, or an address for `match: cidr`",
        };
        Fields { known: vec![value], open: false }
    }

    fn example(&self) -> serde_json::Value {
        serde_json::json!({
            "mode": "deny",
            "match": "cidr",
            "entries": ["192.0.2.0/24", "2001:db8::/32"],
        })
    }

    fn validate(
        &self,
        config: &serde_json::Value,
        base_dir: &Path,
    ) -> Result<Box<dyn Validated>, Vec<ConfigError>> {
        let mut config = ConfigReader::new(config);
        config.require("mode");
        config.require("match");
        let mode = config.choice("mode", &[("deny", Mode::Deny), ("allow", Mode::Allow)]);
        let hows = [("exact", Match::Exact), ("glob", Match::Glob), ("cidr", Match::Cidr)];
        let how = config.choice("match", &hows);
        let missing = config.choice("missing", &[("deny", Verdict::Deny), ("allow", Verdict::Allow)]);
        let inline = config.texts("entries", ENTRIES_MAX, ENTRY_LENGTH_MAX);
        if let Some(how) = how {
            reject_bad_entries(&mut config, how, &inline);
        }
        let file = config.text("file", PATH_LENGTH_MAX).map(|file| base_dir.join(file));
        if !config.has("entries") && !config.has("file") {
            let help = "an empty list is written `entries: []`".to_owned();
            config.fail(String::new(), "there is neither `entries` nor `file`", Some(help));
        }
        let refresh = config.duration("refresh", &REFRESH_RANGE).unwrap_or(REFRESH);
        let valid_for = config.duration("valid_for", &VALID_FOR_RANGE).unwrap_or(VALID_FOR);
        config.finish()?;
        Ok(Box::new(Config {
            // Never used without a value: a required key that is absent or wrong is an error above.
            mode: mode.unwrap_or(Mode::Allow),
            how: how.unwrap_or(Match::Exact),
            missing: missing.unwrap_or(Verdict::Deny),
            inline: inline.into_iter().map(|(_, entry)| entry.to_owned()).collect(),
            file,
            refresh,
            valid_for,
        }))
    }
}

fn reject_bad_entries(config: &mut ConfigReader<'_>, how: Match, inline: &[(String, &str)]) {
    // One by one, to find them all.
    for (pointer, entry) in inline {
        if let Err(error) = Entries::new(how, std::iter::once(*entry)) {
            config.fail(pointer.clone(), error.reason, None);
        }
    }
}

#[async_trait]
impl Validated for Config {
    fn fields(&self) -> Fields {
        List.fields()
    }

    async fn build(self: Box<Self>, _environment: Environment) -> Result<Handler, BuildError> {
        let Self { mode, how, missing, inline, file, refresh, valid_for } = *self;
        let (source, entries) = Source::open(how, inline, file).await?;
        let entries = watch::Sender::new(Arc::new(entries));
        let list = Arc::new(Current { entries, changed: watch::Sender::new(0) });
        let closing = CancellationToken::new();
        if source.may_change() {
            tokio::spawn(keep_fresh(source, Arc::clone(&list), refresh, closing.clone()));
        }
        let closes = closing.clone().drop_guard();
        Ok(Handler::Check(Arc::new(ListHandler { mode, missing, valid_for, list, closing, _closes: closes })))
    }
}

async fn keep_fresh(mut source: Source, list: Arc<Current>, refresh: Duration, closing: CancellationToken) {
    loop {
        let look = async {
            tokio::time::sleep(refresh).await;
            source.poll().await
        };
        tokio::select! {
            // In this order, so that a look under way at a close changes nothing any more.
            biased;
            () = closing.cancelled() => return,
            entries = look => entries.into_iter().for_each(|entries| list.replace(entries)),
        }
    }
}

impl Current {
    fn replace(&self, entries: Entries) {
        self.entries.send_replace(Arc::new(entries));
        // After the entries: whoever hears of the change must see them.
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
    }
}

#[async_trait]
impl CheckHandler for ListHandler {
    async fn check(&self, instance: &Instance) -> Result<Opinion, CheckError> {
        let value = instance.get("value");
        let on_list = value.map(|value| self.list.entries.borrow().contain(value));
        let (verdict, message) = match (on_list, self.mode) {
            (None, _) => (self.missing, "the value to look up is missing"),
            (Some(None), _) => (Verdict::Deny, "the value can't be compared with the list"),
            (Some(Some(true)), Mode::Deny) => (Verdict::Deny, "on the deny list"),
            (Some(Some(false)), Mode::Allow) => (Verdict::Deny, "not on the allow list"),
            (Some(Some(true)), Mode::Allow) | (Some(Some(false)), Mode::Deny) => (Verdict::Allow, ""),
        };
        let message = if verdict == Verdict::Allow { String::new() } else { message.to_owned() };
        Ok(Opinion { verdict, message, valid_for: self.valid_for, ..Opinion::indifferent() })
    }

    fn changed(&self) -> Option<watch::Receiver<u64>> {
        Some(self.list.changed.subscribe())
    }

    async fn close(&self) {
        self.closing.cancel();
    }
}

const REFRESH: Duration = Duration::from_secs(1);
const REFRESH_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const VALID_FOR: Duration = Duration::from_secs(60);
const VALID_FOR_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

#[cfg(test)]
mod tests;
