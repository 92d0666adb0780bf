//! Programs beyond Rust that some tests run, and do without where they are missing.

use std::io::Write;
use std::path::PathBuf;

use crate::repository::root;

/// Where `name` is installed. If it is not, says that `test` is skipped for want of it.
///
/// `cargo xtask test` installs such programs first; some it only unpacks, below `target/programs`.
pub fn find(name: &str, test: &str) -> Option<PathBuf> {
    let found = search(name);
    if found.is_none() {
        // Written past the test harness, which shows what a test prints only when it fails.
        let line = format!("SKIPPED {test}: `{name}` is not installed; `cargo xtask test` installs it\n");
        let _told = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

fn search(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root().join("target/programs/usr/bin")).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        assert!(search("sh").is_some());
        assert_eq!(search("no-such-program"), None);
    }
}
