//! Which bundles came into force, and when: one JSON object a line, added and never changed.
//!
//! A line counts once it is on disk with its line feed; what a crash left of one is cut off at the next start.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use daemon::state_dir;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::signature::KeyId;

/// A bundle that came into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts the entries, from 1; none is given twice.
    pub number: u64,
    /// When it came into force.
    pub at: Timestamp,
    /// Which bundle.
    pub digest: Digest,
    /// Why it did.
    pub why: Why,
    /// Under which revision, as logs show it.
    pub revision: String,
    /// What people call the bundle.
    pub name: String,
    /// Its archive's serial, if it came as one.
    pub serial: Option<u64>,
    /// The key that signed it, if it came as an archive.
    pub signed_by: Option<KeyId>,
    /// How its files differ from those that were in force before, in short.
    pub changes: String,
}

/// Why a bundle is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is what the source has.
    #[default]
    Source,
    /// The source could not be used at the start, and it was the last that was in force.
    LastGood,
    /// An operator has put it in force, and holds it there.
    Pinned,
}

impl Why {
    /// As it is written in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::LastGood => "last_good",
            Self::Pinned => "pinned",
        }
    }
}

/// Why a history can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It can't be read or written.
    #[error("the history `{}` can't be used: {error}", path.display())]
    File {
        /// Its file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A line is damaged.
    #[error("line {line} of the history `{}` is damaged: {error}; move the file away to start a new one", path.display())]
    Line {
        /// Its file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// The history of one state folder, oldest first, to be added to.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl History {
    /// Opens the history in `folder` to add to it; an empty one if there is none.
    ///
    /// # Errors
    /// When it can't be read or written, or is damaged elsewhere than at its end.
    pub fn open(folder: &Path) -> Result<Self, HistoryError> {
        let (path, text) = (folder.join(FILE), read_text(folder)?);
        let mut entries = parse(&path, &text)?;
        let whole = entries.len() == text.lines().count() && (text.is_empty() || text.ends_with('\n'));
        let long = entries.len() > LINES_MAX;
        if long {
            let newest = newest_archive(&entries).map(|entry| entry.number);
            let first = entries.len() - LINES_MAX / 2;
            let mut index = 0;
            entries.retain(|entry| {
                index += 1;
                index > first || Some(entry.number) == newest
            });
        }
        if long || !whole {
            let lines: String = entries.iter().map(line).collect();
            state_dir::write_whole(&path, lines.as_bytes())
                .map_err(|error| HistoryError::File { path: path.clone(), error })?;
        }
        Ok(Self { path, entries })
    }

    /// Reads the history in `folder`, also while policyd adds to it.
    ///
    /// # Errors
    /// When it can't be read, or is damaged elsewhere than at its end.
    pub fn read(folder: &Path) -> Result<Vec<Entry>, HistoryError> {
        parse(&folder.join(FILE), &read_text(folder)?)
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds an entry, whose number it sets. Returns once it is on disk.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add(&mut self, mut entry: Entry) -> io::Result<()> {
        entry.number = self.entries.last().map_or(0, |last| last.number) + 1;
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        file.write_all(line(&entry).as_bytes())?;
        file.sync_all()?;
        if self.entries.is_empty() {
            self.path.parent().map_or(Ok(()), state_dir::sync)?;
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// The archive with the largest serial that was ever taken: none that is older may follow.
pub fn newest_archive(entries: &[Entry]) -> Option<&Entry> {
    entries
        .iter()
        .filter(|entry| entry.why == Why::Source)
        .max_by_key(|entry| entry.serial)
        .filter(|entry| entry.serial.is_some())
}

/// The bundles of `entries` without doubles, in the order in which they last came from the source, newest first.
pub fn arrivals(entries: &[Entry]) -> Vec<&Entry> {
    let mut seen = BTreeSet::new();
    let from_source = entries.iter().rev().filter(|entry| entry.why == Why::Source);
    from_source.filter(|entry| seen.insert(entry.digest)).collect()
}

/// The bundle that was in force before `digest`: the one to roll back to, again and again, until none is older.
pub fn before(entries: &[Entry], digest: Digest) -> Option<&Entry> {
    let arrivals = arrivals(entries);
    let at = arrivals.iter().position(|entry| entry.digest == digest);
    arrivals.get(at.map_or(0, |at| at + 1)).copied()
}

const FILE: &str = "history.jsonl";
/// A longer history is cut to half of this at a start: some years of changes.
const LINES_MAX: usize = 10_000;

fn line(entry: &Entry) -> String {
    // Nothing in it can fail to be written.
    let mut line = serde_json::to_string(entry).unwrap_or_default();
    line.push('\n');
    line
}

fn read_text(folder: &Path) -> Result<String, HistoryError> {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(HistoryError::File { path, error }),
    }
}

/// The whole lines of `text`. What stands after the last line feed was never finished.
fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, HistoryError> {
    let whole = text.rfind('\n').and_then(|end| text.get(..=end)).unwrap_or_default();
    let entry = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| HistoryError::Line {
            path: path.to_owned(),
            line: index + 1,
            error,
        })
    };
    whole.lines().enumerate().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bundle: &str, why: Why, serial: Option<u64>) -> Entry {
        Entry {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            digest: Digest::of(bundle.as_bytes()),
            why,
            revision: "1.1".to_owned(),
            name: "shop".to_owned(),
            serial,
            signed_by: None,
            changes: "acl.cedar changed".to_owned(),
        }
    }

    fn history(folder: &Path, bundles: &[&str]) -> History {
        let mut history = History::open(folder).unwrap();
        bundles.iter().for_each(|bundle| history.add(entry(bundle, Why::Source, None)).unwrap());
        history
    }

    #[test]
    fn what_was_added_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let written = history(folder.path(), &["a", "b"]);
        let mut again = History::open(folder.path()).unwrap();
        assert_eq!(again.entries(), written.entries());
        again.add(entry("c", Why::Pinned, None)).unwrap();
        let numbers: Vec<u64> = again.entries().iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(History::read(folder.path()).unwrap(), again.entries());
        assert_eq!(History::read(&folder.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_crash_at_any_byte_costs_no_more_than_the_line_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let written = history(folder.path(), &["a", "b"]);
        let text = fs::read(&path).unwrap();
        let first = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            let left = if length < first { 0 } else { 1 };
            assert_eq!(History::read(folder.path()).unwrap(), written.entries()[..left], "{length}");
            let again = history(folder.path(), &["c"]);
            assert_eq!(again.entries().len(), left + 1);
            assert_eq!(History::read(folder.path()).unwrap(), again.entries(), "{length}");
        }
    }

    #[test]
    fn damage_elsewhere_is_told() {
        let folder = tempfile::tempdir().unwrap();
        history(folder.path(), &["a", "b"]);
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen('{', "", 1)).unwrap();
        let told = History::open(folder.path()).unwrap_err().to_string();
        assert!(told.starts_with("line 1 of the history"), "{told}");
    }

    #[test]
    fn a_long_history_is_cut_but_for_the_newest_archive() {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = String::new();
        for number in 1..=LINES_MAX as u64 + 1 {
            let serial = (number < 10).then_some(number);
            lines.push_str(&line(&Entry { number, ..entry("a", Why::Source, serial) }));
        }
        fs::write(folder.path().join(FILE), lines).unwrap();
        let history = History::open(folder.path()).unwrap();
        assert_eq!(history.entries().len(), LINES_MAX / 2 + 1);
        assert_eq!(newest_archive(history.entries()).unwrap().number, 9);
        assert_eq!(history.entries().last().unwrap().number, LINES_MAX as u64 + 1);
        assert_eq!(History::read(folder.path()).unwrap(), history.entries());
    }

    #[test]
    fn rolling_back_goes_one_arrival_further_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = history(folder.path(), &["a", "b", "a", "c"]);
        let digest = |bundle: &str| Digest::of(bundle.as_bytes());
        let before = |history: &History, bundle| before(history.entries(), digest(bundle)).map(|e| e.digest);
        assert_eq!(before(&history, "c"), Some(digest("a")));
        history.add(entry("a", Why::Pinned, None)).unwrap();
        assert_eq!(before(&history, "a"), Some(digest("b")), "not back to the broken one");
        assert_eq!(before(&history, "b"), None);
        assert_eq!(before(&history, "unknown"), Some(digest("c")));
        assert_eq!(newest_archive(history.entries()), None);
        history.add(entry("d", Why::Source, Some(7))).unwrap();
        history.add(entry("e", Why::Pinned, Some(9))).unwrap();
        assert_eq!(newest_archive(history.entries()).unwrap().digest, digest("d"));
    }
}
