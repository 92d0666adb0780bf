//! Programs beyond Rust that some tests run, and do without where they are missing.

use std::io::Write;
use std::path::PathBuf;

/// Where `name` is installed. If it is not, says which test is skipped for want of it.
///
/// `cargo xtask test` installs such programs first.
pub fn find(name: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        // Written past the test harness, which shows what a test prints only when it fails.
        let line = format!("SKIPPED {test}: `{name}` is not installed; `cargo xtask test` installs it\n");
        let _told = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_no_error() {
        assert!(find("sh", "never").is_some());
        assert_eq!(find("no-such-program", "this is no test: it is how a skipped one looks"), None);
    }
}
