//! All files of a bundle: those that it is made of, and those that it refers to, such as a list's entries.
//!
//! What belongs to it is every file in and below its folder but hidden ones. That is more than policyd reads, tests for
//! example, and so nobody has to say what else is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use daemon::finding::{Finding, Findings};
use daemon::state_dir;
use serde::{Deserialize, Serialize};

use crate::bundle::Files;
use crate::bundle::files::{FILE_COUNT_MAX, SIZE_MAX};

/// The longest name of a file, in bytes: what a tar header holds.
pub const NAME_LENGTH_MAX: usize = 100;
/// How deep files may lie: `a/b.yaml` is at 2.
pub const DEPTH_MAX: usize = 8;

/// The files of a bundle by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(BTreeMap<Name, Vec<u8>>);

/// The name of a file in a bundle: relative, with `/` between folders, leading nowhere but into the bundle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is longer than [`NAME_LENGTH_MAX`], or empty.
    #[error("a file's name in a bundle has 1 to {NAME_LENGTH_MAX} bytes, its folders included")]
    Length,
    /// It lies too deep.
    #[error("a file lies at most {DEPTH_MAX} folders deep in a bundle")]
    Depth,
    /// A part of it is empty, hidden, or leads out: `a//b`, `.git/x`, `../x`, `/etc/x`.
    #[error("a file's name in a bundle has no part that is empty or starts with a dot, so it can't lead out")]
    Part,
    /// It holds a control character or a backslash.
    #[error("a file's name in a bundle has no control characters and no backslash")]
    Character,
}

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() || text.len() > NAME_LENGTH_MAX {
            return Err(NameError::Length);
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return Err(NameError::Character);
        }
        if text.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(NameError::Part);
        }
        if text.split('/').count() > DEPTH_MAX {
            return Err(NameError::Depth);
        }
        Ok(Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Content {
    /// Reads every file in and below `folder`, but hidden ones. Links are followed.
    ///
    /// # Errors
    /// When a file can't be read or has a name that can't be, or there is too much of them. All names at once.
    pub fn read(folder: &Path) -> Result<Self, Findings> {
        let mut reading = Reading { content: Self::default(), room: SIZE_MAX, findings: Findings::new() };
        reading.folder(folder, "")?;
        if reading.findings.is_empty() { Ok(reading.content) } else { Err(reading.findings) }
    }

    /// Adds a file, in the place of one that has the same name.
    pub fn insert(&mut self, name: Name, bytes: Vec<u8>) {
        self.0.insert(name, bytes);
    }

    /// Removes the file called `name`, if there is one.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|other, _| other.as_str() != name);
    }

    /// The files, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name, bytes.as_slice()))
    }

    /// Those of the files that the bundle itself is made of. `folder` is where the others can be read from.
    ///
    /// # Errors
    /// When one is not UTF-8.
    pub fn files(&self, folder: &Path) -> Result<Files, Findings> {
        let named = self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        Files::of(folder, named.filter(|(name, _)| !name.contains('/')))
    }

    /// Writes the files into `folder`, which must not have them yet. Returns once they are on disk.
    ///
    /// # Errors
    /// When one is there already or can't be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut written = BTreeSet::from([folder.to_owned()]);
        fs::create_dir_all(folder)?;
        for (name, bytes) in &self.0 {
            let path = folder.join(name.as_str());
            let parents = path.ancestors().skip(1).take_while(|parent| parent.starts_with(folder));
            written.extend(parents.map(Path::to_owned));
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::create_new(&path)?.write_all(bytes)?;
            written.insert(path);
        }
        sync_all(&Vec::from_iter(written))
    }
}

/// Returns once these files and folders are on disk. File systems write what several ask for at once in one go: a bundle of
/// 60 MB in 2,000 files took 9.1 s with one after the other, and takes 1.6 s so.
fn sync_all(paths: &[PathBuf]) -> io::Result<()> {
    let share = paths.len().div_ceil(SYNCS_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let sync = |paths: &[PathBuf]| paths.iter().try_for_each(|path| state_dir::sync(path));
        let threads: Vec<_> = paths.chunks(share).map(|paths| scope.spawn(move || sync(paths))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        // All are waited for before the first error counts.
        let results: Vec<_> =
            ended.map(|end| end.unwrap_or_else(|_| Err(io::Error::other("a thread crashed")))).collect();
        results.into_iter().collect()
    })
}

const SYNCS_AT_ONCE: usize = 32;

/// A content that is being read.
struct Reading {
    content: Content,
    /// The bytes that may still come.
    room: u64,
    findings: Findings,
}

impl Reading {
    /// Reads one folder, whose name in the bundle is `prefix`: empty, or with a slash at its end.
    fn folder(&mut self, folder: &Path, prefix: &str) -> Result<(), Findings> {
        let shown = if prefix.is_empty() { folder.display().to_string() } else { prefix.to_owned() };
        let unreadable =
            |error: io::Error| Finding::in_file(&shown, format!("the folder can't be read: {error}"));
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let file_name = entry.map_err(unreadable)?.file_name();
            let text = format!("{prefix}{}", file_name.to_string_lossy());
            if file_name.to_string_lossy().starts_with('.') {
                continue;
            }
            if file_name.to_str().is_none() {
                let finding = Finding::in_file(text, "the file's name is not UTF-8");
                self.findings.push(finding.with_help("rename it"));
                continue;
            }
            let path = folder.join(&file_name);
            let name = match Name::new(text.clone()) {
                Ok(name) => name,
                Err(error) => {
                    self.findings
                        .push(Finding::in_file(text, error.to_string()).with_help("rename or move it"));
                    continue;
                }
            };
            let wrong = |message: String| Finding::in_file(text.as_str(), message);
            let metadata =
                fs::metadata(&path).map_err(|error| wrong(format!("the file can't be read: {error}")))?;
            if metadata.is_dir() {
                self.folder(&path, &format!("{name}/"))?;
            } else if metadata.is_file() {
                self.file(&path, name)?;
            } else {
                let finding = wrong("this is no regular file".to_owned());
                self.findings.push(finding.with_help("keep it out of the bundle's folder"));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: Name) -> Result<(), Findings> {
        let wrong =
            |message: String, help| Findings::from(Finding::in_file(name.as_str(), message).with_help(help));
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(self.room + 1).read_to_end(&mut bytes))
            .map_err(|error| wrong(format!("the file can't be read: {error}"), "it has to be readable"))?;
        let too_much = "keep out of the bundle's folder what is not part of it, or split the bundle";
        self.room = match self.room.checked_sub(bytes.len() as u64) {
            Some(room) => room,
            None => return Err(wrong(too_large(), too_much)),
        };
        if self.content.0.len() >= FILE_COUNT_MAX {
            return Err(wrong(format!("the bundle has more than {FILE_COUNT_MAX} files"), too_much));
        }
        self.content.0.insert(name, bytes);
        Ok(())
    }
}

pub(super) fn too_large() -> String {
    format!("the bundle's files have more than {} MiB together", SIZE_MAX / 1024 / 1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(content: &Content) -> Vec<&str> {
        content.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn names_lead_into_the_bundle() {
        for (text, expected) in [
            ("mesh.yaml", Ok(())),
            ("tests/a b.yaml", Ok(())),
            ("ä/ö", Ok(())),
            ("", Err(NameError::Length)),
            (&"a".repeat(101), Err(NameError::Length)),
            ("..", Err(NameError::Part)),
            ("../mesh.yaml", Err(NameError::Part)),
            ("a/../b", Err(NameError::Part)),
            ("a/./b", Err(NameError::Part)),
            ("/etc/passwd", Err(NameError::Part)),
            ("a//b", Err(NameError::Part)),
            ("a/", Err(NameError::Part)),
            (".git/config", Err(NameError::Part)),
            ("a\\b", Err(NameError::Character)),
            ("a\nb", Err(NameError::Character)),
            ("a\0b", Err(NameError::Character)),
            ("1/2/3/4/5/6/7/8", Ok(())),
            ("1/2/3/4/5/6/7/8/9", Err(NameError::Depth)),
        ] {
            assert_eq!(Name::new(text).map(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn all_files_below_the_folder_are_read_but_hidden_ones() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("tests/more")).unwrap();
        fs::create_dir_all(folder.path().join(".git")).unwrap();
        for name in ["mesh.yaml", "blocked.txt", "tests/a.yaml", "tests/more/b", ".git/x", ".hidden"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        // As Kubernetes mounts a ConfigMap.
        symlink(".hidden", folder.path().join("linked.cedar")).unwrap();
        let content = Content::read(folder.path()).unwrap();
        assert_eq!(
            names(&content),
            ["blocked.txt", "linked.cedar", "mesh.yaml", "tests/a.yaml", "tests/more/b"]
        );
        let files = content.files(folder.path()).unwrap();
        assert_eq!(files, Files::read(folder.path()).unwrap(), "one rule says what is read");
        let copy = folder.path().join("copy");
        content.write(&copy).unwrap();
        assert_eq!(Content::read(&copy).unwrap(), content);
        assert!(content.write(&copy).is_err(), "nothing is overwritten");
    }

    #[test]
    fn what_can_not_be_packed_is_told_all_at_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a\\b.cedar"), "").unwrap();
        fs::write(folder.path().join("x".repeat(101)), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let findings = Content::read(folder.path()).unwrap_err();
        assert_eq!(findings.iter().count(), 3, "{findings}");
        // A circle of links ends where the depth does.
        let folder = tempfile::tempdir().unwrap();
        symlink(".", folder.path().join("again")).unwrap();
        let findings = Content::read(folder.path()).unwrap_err();
        assert!(findings.to_string().contains("at most 8 folders deep"), "{findings}");
        symlink("nowhere", folder.path().join("broken.txt")).unwrap();
        assert!(Content::read(folder.path()).is_err());
    }

    #[test]
    fn there_is_a_limit_to_count_and_size() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("large")).unwrap().set_len(SIZE_MAX).unwrap();
        assert_eq!(names(&Content::read(folder.path()).unwrap()), ["large"]);
        fs::write(folder.path().join("more"), "1").unwrap();
        let told = Content::read(folder.path()).unwrap_err().to_string();
        assert!(told.contains("more than 64 MiB together"), "{told}");
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=FILE_COUNT_MAX {
            File::create(folder.path().join(number.to_string())).unwrap();
        }
        let told = Content::read(folder.path()).unwrap_err().to_string();
        assert!(told.contains("more than 10000 files"), "{told}");
    }
}
