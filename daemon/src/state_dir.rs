//! The folder in which a daemon keeps what must survive it: private, one daemon's at a time, each file written whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("another {who} uses `{}`", folder.display())]
    InUse {
        /// What kind of daemon it is for.
        who: &'static str,
        /// The folder.
        folder: PathBuf,
    },
    /// The lock's file can't be made or locked.
    #[error("can't lock `{}`: {error}", path.display())]
    File {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Makes a folder that only its owner may enter, unless it is there.
///
/// # Errors
/// When it can't be made.
pub fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Locks a folder for one daemon, called `who` in the error, until the file is dropped or the process ends.
///
/// # Errors
/// When another process has locked it, or its file `lock` can't be made.
pub fn lock(folder: &Path, who: &'static str) -> Result<File, LockError> {
    let path = folder.join(LOCK_FILE);
    let file = File::create(&path).map_err(|error| LockError::File { path: path.clone(), error })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::InUse { who, folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(LockError::File { path, error }),
    }
}

/// Writes a file so that whoever reads it sees the old or the new content, whole, also after a crash. Only its owner
/// may read it.
///
/// # Errors
/// When it can't be written.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with_mode(path, content, 0o600)
}

/// The same for a file that whoever may enter the folder may read: one that holds no secret, and that an operator writes
/// for a daemon with another user.
///
/// # Errors
/// When it can't be written.
pub fn write_readable(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with_mode(path, content, 0o644)
}

/// Returns once what was written to a file, or added to a folder or removed from it, is on disk.
///
/// # Errors
/// When it can't be opened, or the disk fails.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_with_mode(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself is on disk only once its folder is.
    path.parent().map_or(Ok(()), sync)
}

const LOCK_FILE: &str = "lock";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path(), "CA").unwrap();
        let told = lock(folder.path(), "CA").unwrap_err().to_string();
        assert_eq!(told, format!("another CA uses `{}`", folder.path().display()));
        drop(held);
        lock(folder.path(), "CA").unwrap();
        let told = lock(&folder.path().join("none"), "CA").unwrap_err().to_string();
        assert!(told.contains("No such file"), "{told}");
    }

    #[test]
    fn folders_and_files_are_the_owners() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        make(&folder).unwrap();
        make(&folder).unwrap();
        let file = folder.join("file.json");
        write_whole(&file, b"old and long").unwrap();
        write_whole(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        write_readable(&file, b"for all").unwrap();
        assert_eq!(mode(&file) & 0o600, 0o600, "and for others as the umask has it");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
    }
}
