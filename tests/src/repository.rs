//! This repository's own files.

use std::path::{Path, PathBuf};

/// The repository's folder.
pub fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Every file below `folder` whose name ends in `extension`, in order; without hidden and built ones.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `path` as seen from the repository's folder, for messages.
pub fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The rows of the first table after the heading `heading` of a Markdown text, without its head.
pub fn table(markdown: &str, heading: &str) -> Vec<Vec<String>> {
    let section = markdown.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    let rows = section.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| row.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// What stands between backticks in a Markdown text.
pub fn quoted(markdown: &str) -> impl Iterator<Item = &str> {
    markdown.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let text =
            "# A\n| x |\n|---|\n| no |\n\n## B\ntext\n\n| x | y |\n|---|---|\n| `a`, `b` | c |\n| d | |\nend";
        assert_eq!(table(text, "B"), [["`a`, `b`", "c"], ["d", ""]]);
        assert_eq!(quoted("`a`, `b` c").collect::<Vec<_>>(), ["a", "b"]);
    }
}
