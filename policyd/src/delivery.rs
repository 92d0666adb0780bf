//! How a bundle comes to policyd, and what is kept of those that were in force.
//!
//! - [`digest`]: what a bundle is called;
//! - [`content`]: all files of a bundle, those included that it refers to;
//! - [`manifest`]: the list of them;
//! - [`signature`]: who vouches for a manifest;
//! - [`archive`]: manifest, signature and files in one file;
//! - [`store`], [`history`]: the bundles that were in force;
//! - [`kept`]: the state folder, which has both;
//! - [`standing`]: what policyd and its operators tell each other through the state folder.
//!
//! [`Delivery`] is all of it for one policyd. Its calls block.

pub mod archive;
pub mod content;
pub mod digest;
pub mod history;
pub mod kept;
pub mod manifest;
pub mod signature;
pub mod standing;
pub mod store;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use daemon::finding::{Finding, Findings};
use jiff::Timestamp;
use model::Revision;

use crate::bundle::Files;
pub use archive::Archive;
pub use content::Content;
pub use digest::Digest;
use history::Why;
use kept::Kept;
pub use kept::{KEPT_DEFAULT, KEPT_RANGE, State, in_use};
pub use manifest::Manifest;
pub use signature::{Signature, SigningKey, TrustedKeys};
use standing::{Pin, Standing};

/// Where bundles come from, and where they are kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where they come from.
    pub origin: Origin,
    /// Where those that were in force are kept. Archives need it: they are unpacked there.
    pub state: Option<State>,
}

/// Where bundles come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A folder that is edited.
    Folder(PathBuf),
    /// An archive that is replaced, and has to be signed by one of these keys.
    Archive(PathBuf, TrustedKeys),
}

/// A bundle's files as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Those that it is made of.
    pub files: Arc<Files>,
    /// What is known of it; none for a folder that is edited.
    pub label: Option<Arc<Label>>,
}

/// What is known of a bundle that came packed, or was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The list of its files.
    pub manifest: Manifest,
    /// What it is called.
    pub digest: Digest,
    /// By whom, if it came signed.
    pub signature: Option<Signature>,
}

/// The ways of bundles to one policyd.
#[derive(Debug)]
pub struct Delivery {
    origin: Origin,
    state: Option<Kept>,
    /// The archive last read: what it was, and what it is.
    last_read: Mutex<Option<(Digest, Delivered)>>,
}

impl Config {
    /// A folder, and nothing is kept.
    pub const fn folder(path: PathBuf) -> Self {
        Self { origin: Origin::Folder(path), state: None }
    }
}

impl Delivered {
    /// A bundle of which the files lie in `folder`.
    fn labelled(
        folder: &Path,
        manifest: Manifest,
        signature: Option<Signature>,
        content: &Content,
    ) -> Result<Self, Findings> {
        let files = Arc::new(content.files(folder)?);
        let digest = manifest.digest();
        Ok(Self { files, label: Some(Arc::new(Label { manifest, digest, signature })) })
    }

    /// What it is called, if that is known.
    pub fn digest(&self) -> Option<Digest> {
        self.label.as_ref().map(|label| label.digest)
    }
}

impl Delivery {
    /// Makes the state folder ready, if there is one, and locks it.
    ///
    /// # Errors
    /// When it can't be used, or another policyd uses it.
    pub fn open(config: Config) -> Result<Self> {
        anyhow::ensure!(
            config.state.is_some() || matches!(config.origin, Origin::Folder(_)),
            "archives need a `state_dir`: they are unpacked there"
        );
        let state = config.state.map(Kept::open).transpose()?;
        Ok(Self { origin: config.origin, state, last_read: Mutex::default() })
    }

    /// What people call the place that bundles come from.
    pub fn source(&self) -> String {
        self.path().display().to_string()
    }

    /// The folders in which something changes when there is news.
    pub fn watched(&self) -> Vec<PathBuf> {
        let origin = match &self.origin {
            Origin::Folder(path) => path.clone(),
            // Files are replaced by renaming, which only their folder tells of.
            Origin::Archive(path, _) => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            },
        };
        std::iter::once(origin).chain(self.state.as_ref().map(|state| state.config.folder.clone())).collect()
    }

    /// Reads what the source has now.
    ///
    /// # Errors
    /// When it can't be read; for an archive also when it can't be trusted, or is older than one that was in force.
    pub fn read(&self) -> Result<Delivered, Findings> {
        match &self.origin {
            Origin::Folder(path) => Ok(Delivered { files: Arc::new(Files::read(path)?), label: None }),
            Origin::Archive(path, trusted) => {
                let shown = path.display().to_string();
                self.read_archive(path, trusted).map_err(|error| match error.downcast::<Findings>() {
                    Ok(findings) => findings,
                    Err(error) => Finding::in_file(shown, format!("{error:#}")).into(),
                })
            }
        }
    }

    /// The bundle that an operator wants in force, if one does.
    ///
    /// # Errors
    /// When it can't be said which.
    pub fn pinned(&self) -> Result<Option<Digest>, Findings> {
        let Some(state) = &self.state else { return Ok(None) };
        let folder = &state.config.folder;
        let pin = Pin::read(folder).map_err(|error| {
            let message = format!("what is pinned can't be read: {error}");
            Finding::in_file(folder.join("pin.json").display().to_string(), message)
                .with_help("`tidegate bundle rollback` writes it anew, `tidegate bundle release` removes it")
        })?;
        Ok(pin.map(|pin| pin.digest))
    }

    /// Reads a kept bundle.
    ///
    /// # Errors
    /// When it is not kept, is damaged, or its key is trusted no more.
    pub fn kept(&self, digest: Digest) -> Result<Delivered, Findings> {
        let trusted = match &self.origin {
            Origin::Folder(_) => None,
            Origin::Archive(_, trusted) => Some(trusted),
        };
        match &self.state {
            Some(state) => state.store.get(digest, trusted),
            None => Err(Finding::in_file("bundles", "no bundles are kept without a `state_dir`").into()),
        }
    }

    /// The bundles that were in force, the last one first, without doubles.
    pub fn were_in_force(&self) -> Vec<Digest> {
        let Some(state) = &self.state else { return Vec::new() };
        let mut seen = BTreeSet::new();
        let history = state.history();
        history
            .entries()
            .iter()
            .rev()
            .map(|entry| entry.digest)
            .filter(|digest| seen.insert(*digest))
            .collect()
    }

    /// Keeps a bundle that is in force; returns its label, if bundles are kept here.
    ///
    /// # Errors
    /// When it can't be read again or written.
    pub fn keep(&self, delivered: &Delivered) -> Result<Option<Arc<Label>>> {
        match (&self.state, &delivered.label) {
            (None, _) => Ok(None),
            (Some(_), Some(label)) => Ok(Some(label.clone())),
            (Some(state), None) => Ok(Some(Arc::new(state.keep_folder(&delivered.files)?))),
        }
    }

    /// Writes into the history that a kept bundle has come into force, and removes those that are kept no longer.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn record(&self, label: &Label, why: Why, revision: Revision, now: Timestamp) -> Result<()> {
        self.state.as_ref().map_or(Ok(()), |state| state.record(label, why, revision, now))
    }

    /// Tells operators how things stand.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn tell(&self, standing: &Standing) -> io::Result<()> {
        self.state.as_ref().map_or(Ok(()), |state| standing.write(&state.config.folder))
    }

    fn path(&self) -> &Path {
        match &self.origin {
            Origin::Folder(path) | Origin::Archive(path, _) => path,
        }
    }

    fn read_archive(&self, path: &Path, trusted: &TrustedKeys) -> Result<Delivered> {
        let state = self.state.as_ref().context("archives need a `state_dir`")?;
        let bytes = archive::read(path)?;
        let is = Digest::of(&bytes);
        let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((was, delivered)) = &*last
            && *was == is
            && delivered.digest().is_some_and(|digest| state.store.has(digest))
        {
            return Ok(delivered.clone());
        }
        let archive = Archive::open(&bytes, trusted)?;
        state.check_age(&archive)?;
        let put = state.store.put(&archive.manifest, Some(&archive.signature), &archive.content);
        let folder = put.context("the archive can't be unpacked into the state folder")?;
        let delivered =
            Delivered::labelled(&folder, archive.manifest, Some(archive.signature), &archive.content)?;
        *last = Some((is, delivered.clone()));
        Ok(delivered)
    }
}

#[cfg(test)]
mod tests;
