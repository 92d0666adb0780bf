//! Two small files of the state folder, each written whole: what policyd tells of itself, and what operators tell it.

use std::fs;
use std::io;
use std::path::Path;

use daemon::state_dir;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::history::Why;

/// How things stand at a policyd: `status.json`, which policyd alone writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// When this was written.
    pub at: Timestamp,
    /// The bundle in force; none if it could not be kept.
    pub in_force: Option<Digest>,
    /// Why it is.
    pub why: Why,
    /// Under which revision, as logs show it.
    pub revision: String,
    /// The bundle that an operator holds in force.
    pub pinned: Option<Digest>,
    /// Why that one could not be put in force.
    pub pin_refused: Option<String>,
    /// Where bundles come from.
    pub source: String,
    /// What is wrong with what the source has, as `tidegate policy check` tells it; null if nothing is.
    pub source_refused: Option<serde_json::Value>,
}

/// What an operator has put in force: `pin.json`. The file is there while it is to stay so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Which bundle.
    pub digest: Digest,
    /// Since when.
    pub at: Timestamp,
}

impl Standing {
    /// Reads it; none if policyd has never run there.
    ///
    /// # Errors
    /// When the file is unreadable or damaged.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        read(&folder.join(STATUS_FILE))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        state_dir::write_whole(&folder.join(STATUS_FILE), &serde_json::to_vec_pretty(self)?)
    }
}

impl Pin {
    /// Reads it; none if nothing is pinned.
    ///
    /// # Errors
    /// When the file is unreadable or damaged.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        read(&folder.join(PIN_FILE))
    }

    /// Tells policyd to put a bundle in force and keep it there, at once if it runs, else when it starts.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        state_dir::write_readable(&folder.join(PIN_FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Tells policyd to follow its source again.
    ///
    /// # Errors
    /// When nothing is pinned, or the file can't be removed.
    pub fn remove(folder: &Path) -> io::Result<()> {
        fs::remove_file(folder.join(PIN_FILE))?;
        state_dir::sync(folder)
    }
}

const STATUS_FILE: &str = "status.json";
const PIN_FILE: &str = "pin.json";

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_there_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Pin::read(folder.path()).unwrap(), None);
        assert!(Pin::remove(folder.path()).is_err());
        let pin = Pin { digest: Digest::of(b"a"), at: Timestamp::UNIX_EPOCH };
        pin.write(folder.path()).unwrap();
        assert_eq!(Pin::read(folder.path()).unwrap(), Some(pin));
        Pin::remove(folder.path()).unwrap();
        assert_eq!(Pin::read(folder.path()).unwrap(), None);
        fs::write(folder.path().join(PIN_FILE), "{").unwrap();
        assert!(Pin::read(folder.path()).is_err(), "a damaged one is not none");
    }
}
