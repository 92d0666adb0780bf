//! Where a list's entries come from, and whether they have changed.

use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::entries::{Entries, Match};
use crate::contract::BuildError;

/// The configuration's entries, and the file that may add to them.
#[derive(Debug)]
pub(super) struct Source {
    origin: Arc<Origin>,
    seen: Seen,
    /// The trouble last told of, so that it is told once and not at every look.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Origin {
    how: Match,
    inline: Vec<String>,
    file: Option<PathBuf>,
    hashes: RandomState,
}

/// What the file looked like when it was last read.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// False when the stamp was new at the last look. Two edits within one tick of the file system's clock may
    /// leave the same stamp, so a file is read once more before its stamp is trusted.
    settled: bool,
    content: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// The largest file, in bytes.
pub(super) const FILE_SIZE_MAX: u64 = 16 * 1024 * 1024;
/// How long a file must stay the same before its change counts.
const SETTLING_TIME: Duration = Duration::from_millis(50);

impl Source {
    /// Reads all entries for the first time.
    pub(super) async fn open(
        how: Match,
        inline: Vec<String>,
        file: Option<PathBuf>,
    ) -> Result<(Self, Entries), BuildError> {
        let origin = Arc::new(Origin { how, inline, file, hashes: RandomState::new() });
        let mut source = Self { origin, seen: Seen::default(), trouble: None };
        let (seen, entries) = source.look(Seen::default()).await?;
        source.seen = seen;
        // A first look always finds something new.
        let entries = entries.map_or_else(|| source.origin.parse(""), Ok)?;
        Ok((source, entries))
    }

    /// Whether it is worth to poll.
    pub(super) fn may_change(&self) -> bool {
        self.origin.file.is_some()
    }

    /// All entries, if they have changed since the last look. Trouble is logged, and means no change.
    pub(super) async fn poll(&mut self) -> Option<Entries> {
        match self.look_twice().await {
            Ok((seen, entries)) => {
                self.seen = seen;
                if self.trouble.take().is_some() {
                    tracing::info!(file = ?self.origin.file, "the list's file is good again");
                }
                entries
            }
            Err(error) => {
                let error = with_cause(&error);
                if self.trouble.as_ref() != Some(&error) {
                    tracing::warn!(error, "the last good list stays in force");
                    self.trouble = Some(error);
                }
                None
            }
        }
    }

    /// Believes in a change only when the file still holds it a moment later: many programs first empty a file
    /// and then write it, and a deny list that is empty for a moment would let everyone in.
    async fn look_twice(&self) -> Result<(Seen, Option<Entries>), BuildError> {
        let (seen, entries) = self.look(self.seen).await?;
        if entries.is_none() {
            return Ok((seen, None));
        }
        tokio::time::sleep(SETTLING_TIME).await;
        match self.look(seen).await? {
            (seen, None) => Ok((seen, entries)),
            // Still being written: as if nothing had been seen, until the next look.
            (_, Some(_)) => Ok((self.seen, None)),
        }
    }

    async fn look(&self, seen: Seen) -> Result<(Seen, Option<Entries>), BuildError> {
        let origin = Arc::clone(&self.origin);
        let path = origin.file.clone().unwrap_or_default();
        let looked = tokio::task::spawn_blocking(move || origin.look(seen)).await;
        looked.map_err(|error| BuildError::File { path, source: io::Error::other(error) })?
    }
}

impl Origin {
    fn look(&self, seen: Seen) -> Result<(Seen, Option<Entries>), BuildError> {
        let Some(path) = &self.file else { return Ok((seen, Some(self.parse("")?))) };
        let fail = |source| BuildError::File { path: path.clone(), source };
        // Opening a named pipe would wait for its writer, perhaps for ever.
        if !fs::metadata(path).map_err(fail)?.is_file() {
            let reason = "it is no regular file".to_owned();
            return Err(BuildError::Content { path: path.clone(), reason });
        }
        let mut file = File::open(path).map_err(fail)?;
        let stamp = Some(Stamp::of(&file.metadata().map_err(fail)?));
        let settled = seen.stamp == stamp;
        if settled && seen.settled {
            return Ok((seen, None));
        }
        let text = read(&mut file, path)?;
        let content = self.hashes.hash_one(&text);
        let is_new = seen.stamp.is_none() || seen.content != content;
        let entries = if is_new { Some(self.parse(&text)?) } else { None };
        Ok((Seen { stamp, settled, content }, entries))
    }

    fn parse(&self, text: &str) -> Result<Entries, BuildError> {
        let inline = self.inline.iter().map(|entry| (0, entry.as_str()));
        let lines = text.lines().zip(1usize..).map(|(line, number)| (number, without_comment(line)));
        let all = inline.chain(lines.filter(|(_, entry)| !entry.is_empty()));
        Entries::new(self.how, all.clone().map(|(_, entry)| entry)).map_err(|error| {
            let reason = match all.clone().nth(error.index) {
                Some((line, _)) if line > 0 => format!("line {line}: {}", error.reason),
                _ => error.reason,
            };
            BuildError::Content { path: self.file.clone().unwrap_or_default(), reason }
        })
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), size: metadata.size(), modified }
    }
}

fn read(file: &mut File, path: &Path) -> Result<String, BuildError> {
    let mut bytes = Vec::new();
    let content = |reason| BuildError::Content { path: path.to_owned(), reason };
    file.take(FILE_SIZE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| BuildError::File { path: path.to_owned(), source })?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(content(format!("it is larger than {} MiB", FILE_SIZE_MAX / 1024 / 1024)));
    }
    String::from_utf8(bytes).map_err(|_utf8| content("it is not UTF-8 text".to_owned()))
}

/// A `#` starts a comment at the start of a line or after a space, so that an entry may hold one.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    line.split_once(" #").map_or(line, |(entry, _)| entry.trim_end())
}

fn with_cause(error: &BuildError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
