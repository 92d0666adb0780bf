//! Checks a `/metrics` page with Prometheus's own tool.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What `promtool` says against a page, a line each; nothing when all is well.
///
/// Metrics of a bundle's own are its author's affair, so of what is a matter of style only that is told which
/// concerns Tidegate's.
///
/// # Errors
/// When it can't be run.
pub fn complaints(promtool: &Path, page: &str) -> io::Result<Vec<String>> {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(classic(page).as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Exit code 3 is for style; all others but 0 mean that the page can't be read.
    let matters = |line: &&str| output.status.code() != Some(3) || line.starts_with("tidegate_");
    Ok(said.lines().filter(matters).map(str::to_owned).collect())
}

/// A page in Prometheus's older text format, which `promtool check metrics` reads: there a counter is called with its
/// `_total`, in OpenMetrics without.
fn classic(page: &str) -> String {
    let name_of = |line: &str, what: &str| {
        let (name, rest) = line.strip_prefix(what)?.split_once(' ')?;
        Some((name.to_owned(), rest.to_owned()))
    };
    let types = page.lines().filter_map(|line| name_of(line, "# TYPE "));
    let counters: Vec<String> = types.filter(|(_, kind)| kind == "counter").map(|(name, _)| name).collect();
    let mut text = String::new();
    for line in page.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let renamed = ["# HELP ", "# TYPE "].iter().find_map(|what| {
            let (name, rest) = name_of(line, what)?;
            counters.contains(&name).then(|| format!("{what}{name}_total {rest}"))
        });
        text.push_str(renamed.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program;

    const GOOD: &str = "# HELP tidegate_requests Requests answered.\n# TYPE tidegate_requests counter\n\
                        tidegate_requests_total{code=\"200\"} 3\n# EOF\n";

    #[test]
    fn counters_are_called_by_their_samples() {
        assert_eq!(classic(GOOD).lines().nth(1), Some("# TYPE tidegate_requests_total counter"));
        assert!(!classic(GOOD).contains("EOF"));
    }

    #[test]
    fn promtool_tells_good_pages_from_bad_ones() {
        let test = "promtool_tells_good_pages_from_bad_ones";
        let Some(promtool) = program::find("promtool", test) else { return };
        assert_eq!(complaints(&promtool, GOOD).unwrap(), Vec::<String>::new());
        assert_ne!(complaints(&promtool, "tidegate_up{ 1\n").unwrap(), Vec::<String>::new());
        assert_ne!(complaints(&promtool, "tidegate_up 1\n").unwrap(), Vec::<String>::new());
    }
}
