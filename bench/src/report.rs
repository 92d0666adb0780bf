//! The section of `docs/benchmarks.md` that this bench writes, from what was measured.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::results::{Entry, Latency, Results, Summary};
use crate::row::{ROWS, Row};
use crate::stats::Spread;

const BEGIN: &str = "<!-- dataplane: written by `cargo run --release -p tidegate-bench` -->";
const END: &str = "<!-- dataplane: end -->";

/// Replaces the section in the file at `path`.
pub(crate) fn write(path: &Path, results: &Results) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let text = replaced(&text, &section(results)?).with_context(|| format!("`{}`", path.display()))?;
    Ok(std::fs::write(path, text)?)
}

/// `text` with `section` between the marks.
fn replaced(text: &str, section: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("there is no `{BEGIN}`"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("there is no `{END}`"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", section.trim()))
}

fn section(results: &Results) -> Result<String> {
    let mut text = String::new();
    let measured = ROWS.iter().filter_map(|row| Some((row, results.0.get(row.id)?)));
    let measured: Vec<(&Row, &Entry)> = measured.collect();
    writeln!(
        text,
        "| job | Tidegate | Envoy | ratio (least to most) | a second and core |\n|---|---|---|---|---|"
    )?;
    for (row, entry) in &measured {
        text += &processor_line(row, entry);
    }
    writeln!(
        text,
        "\nHow long a request takes at a fixed rate, counted from when it was due: medians of the rounds' p50 and p99.\n\n\
         | job | requests a second | Tidegate p50 / p99 | Envoy p50 / p99 | processor time, ratio |\n|---|---|---|---|---|"
    )?;
    for (row, entry) in &measured {
        text += &latency_line(row, entry);
    }
    writeln!(
        text,
        "\nMeasured on, and what:\n\n| job | on | rounds | Tidegate | Envoy |\n|---|---|---|---|---|"
    )?;
    for (row, entry) in &measured {
        let machine = &entry.machine;
        writeln!(
            text,
            "| {} | {}, {} × {}, Linux {} | {} of {} s | {}, {} | {} |",
            row.id,
            entry.measured_at,
            machine.processors,
            machine.processor,
            machine.kernel,
            entry.measured.tidegate.closed.len(),
            entry.seconds,
            machine.tidegate,
            machine.rustc,
            machine.envoy,
        )?;
    }
    Ok(text)
}

fn processor_line(row: &Row, entry: &Entry) -> String {
    match Summary::of(&entry.measured) {
        None => failed(row, entry),
        Some(Summary { ours, theirs, ratio, .. }) => format!(
            "| {} | {:.1} µs | {:.1} µs | **{:.2}** ({:.2} to {:.2}) | {:.0} and {:.0} |\n",
            title(row),
            ours.median,
            theirs.median,
            ratio.median,
            ratio.min,
            ratio.max,
            a_second(&ours),
            a_second(&theirs),
        ),
    }
}

fn latency_line(row: &Row, entry: &Entry) -> String {
    let both = |latency: &Latency| format!("{} / {}", microseconds(latency.p50), microseconds(latency.p99));
    match Summary::of(&entry.measured) {
        None => failed(row, entry),
        Some(Summary { ours_open, theirs_open, .. }) => format!(
            "| {} | {} | {} | {} | {:.2} |\n",
            title(row),
            row.rate,
            both(&ours_open),
            both(&theirs_open),
            ours_open.each / theirs_open.each,
        ),
    }
}

fn failed(row: &Row, entry: &Entry) -> String {
    format!("| {} | failed: {} | | | |\n", title(row), entry.measured.faults().join("; "))
}

fn title(row: &Row) -> String {
    format!("{} (`{}`)", row.title, row.id)
}

/// How many requests a core would serve, by their processor time.
fn a_second(each: &Spread) -> f64 {
    1e6 / each.median
}

fn microseconds(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0} µs") } else { format!("{:.1} ms", value / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Outcome;
    use crate::measure::{Measured, Rounds};

    #[test]
    fn only_the_section_changes() {
        let text = format!("# Before\n\n{BEGIN}\nold\n{END}\n\n## After\n");
        let once = replaced(&text, "new\n").unwrap();
        assert_eq!(once, format!("# Before\n\n{BEGIN}\n\nnew\n\n{END}\n\n## After\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
    }

    #[test]
    fn a_document_without_marks_is_left_alone() {
        assert!(replaced("# Benchmarks\n", "new").unwrap_err().to_string().contains(BEGIN));
        assert!(replaced(BEGIN, "new").unwrap_err().to_string().contains(END));
    }

    #[test]
    fn a_failed_job_stays_in_the_tables() {
        let turn = Outcome { requests: 1, not_ok: 3, ..Outcome::default() };
        let rounds = Rounds { closed: vec![turn.clone()], open: vec![turn] };
        let measured = Measured { tidegate: rounds.clone(), envoy: rounds };
        let results = Results([("http1".to_owned(), Entry { measured, ..Entry::default() })].into());
        let section = section(&results).unwrap();
        assert_eq!(section.matches("failed: Tidegate: 0 errors, 3 answers not 200").count(), 2, "{section}");
    }

    #[test]
    fn long_times_are_in_milliseconds() {
        assert_eq!([microseconds(12.4), microseconds(1234.0)], ["12 µs", "1.2 ms"]);
    }
}
