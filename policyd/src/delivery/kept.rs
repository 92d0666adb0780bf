//! The state folder: the bundles that were in force, their history, and the lock that says who uses it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use daemon::state_dir::{self, LockError};
use jiff::Timestamp;
use model::Revision;

use super::history::{Entry, History, Why, newest_archive};
use super::standing::Pin;
use super::store::Store;
use super::{Archive, Content, Digest, Label, Manifest, content};
use crate::bundle::Files;

/// Where bundles are kept, and how many.
#[derive(Clone, Debug)]
pub struct State {
    /// The folder, which one policyd uses at a time.
    pub folder: PathBuf,
    /// How many bundles; the one in force and one that is pinned are kept in any case.
    pub kept: usize,
}

/// How many bundles are kept unless the configuration says otherwise,
pub const KEPT_DEFAULT: usize = 20;
/// and what it may say.
pub const KEPT_RANGE: std::ops::RangeInclusive<usize> = 2..=1000;

/// The state folder at work.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) config: State,
    pub(super) store: Store,
    history: Mutex<History>,
    /// Held until policyd ends.
    _lock: File,
}

impl Kept {
    pub(super) fn open(config: State) -> Result<Self> {
        let unusable = || format!("the state folder `{}` can't be used", config.folder.display());
        state_dir::make(&config.folder).with_context(unusable)?;
        let lock = lock(&config.folder)?;
        let store = Store::open(&config.folder).with_context(unusable)?;
        let history = Mutex::new(History::open(&config.folder)?);
        Ok(Self { config, store, history, _lock: lock })
    }

    pub(super) fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever can replace the archive, but has no key, could else bring back an old one that forbids less.
    pub(super) fn check_age(&self, archive: &Archive) -> Result<()> {
        let history = self.history();
        let Some(newest) = newest_archive(history.entries()) else { return Ok(()) };
        let (serial, digest) = (archive.manifest.serial, archive.digest());
        let had = newest.serial.unwrap_or_default();
        anyhow::ensure!(
            serial > had || digest == newest.digest,
            "the archive has serial {serial}, but {had} was in force already; \
             build it with a larger serial, or use `tidegate bundle rollback` to go back"
        );
        Ok(())
    }

    /// Keeps the files of a folder that is edited: those in force, and the others as they are now.
    pub(super) fn keep_folder(&self, files: &Files) -> Result<Label> {
        let mut content = Content::read(&files.folder)?;
        let edited_since = content.files(&files.folder)?;
        edited_since.texts.keys().for_each(|name| content.remove(name));
        for (name, text) in &files.texts {
            content.insert(content::Name::new(name.as_str())?, text.as_bytes().to_vec());
        }
        let name = files.folder.file_name().unwrap_or_default().to_string_lossy();
        let name = if name.is_empty() { "bundle".to_owned() } else { name.into_owned() };
        // The same files are the same bundle, whenever they are edited: so no time, and no serial.
        let manifest = Manifest::new(name, Timestamp::UNIX_EPOCH, 0, &content)?;
        self.store.put(&manifest, None, &content)?;
        Ok(Label { digest: manifest.digest(), manifest, signature: None })
    }

    pub(super) fn record(&self, label: &Label, why: Why, revision: Revision, now: Timestamp) -> Result<()> {
        let mut history = self.history();
        let before = history.entries().last().map(|entry| entry.digest);
        let changes = match before.map(|before| self.store.manifest(before)) {
            None => "the first".to_owned(),
            Some(Some(before)) => label.manifest.changes_since(&before).to_string(),
            Some(None) => String::new(),
        };
        history.add(Entry {
            number: 0,
            at: now,
            digest: label.digest,
            why,
            revision: revision.to_string(),
            name: label.manifest.name.clone(),
            serial: label.signature.as_ref().map(|_| label.manifest.serial),
            signed_by: label.signature.as_ref().map(|signature| signature.key),
            changes,
        })?;
        self.prune(history.entries(), label.digest)
    }

    fn prune(&self, entries: &[Entry], in_force: Digest) -> Result<()> {
        let mut keep = BTreeSet::from([in_force]);
        keep.extend(Pin::read(&self.config.folder)?.map(|pin| pin.digest));
        for entry in entries.iter().rev() {
            if keep.len() >= self.config.kept {
                break;
            }
            keep.insert(entry.digest);
        }
        Ok(self.store.retain(&keep)?)
    }
}

/// Whether a policyd uses this state folder now.
///
/// # Errors
/// When the folder can't be locked for another reason.
pub fn in_use(state_dir: &Path) -> Result<bool, LockError> {
    match state_dir::lock(state_dir, "policyd") {
        Ok(_released_at_once) => Ok(false),
        Err(LockError::InUse { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waits a little, for [`in_use`] holds the lock for a moment, and a policyd that ends for a while.
fn lock(folder: &Path) -> Result<File, LockError> {
    for _ in 1..LOCK_TRIES {
        match state_dir::lock(folder, "policyd") {
            Err(LockError::InUse { .. }) => std::thread::sleep(LOCK_PAUSE),
            result => return result,
        }
    }
    state_dir::lock(folder, "policyd")
}

const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
