//! The section of `docs/benchmarks.md` that this bench writes, from what was measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::Rounds;
use crate::results::{self, Entry, Figures, Latency, Results};
use crate::row::{ROWS, Row};
use crate::stats::Spread;

const BEGIN: &str = "<!-- dataplane: written by `cargo run --release -p tidegate-bench` -->";
const END: &str = "<!-- dataplane: end -->";
/// Shown where there is nothing to show.
const NOTHING: &str = "–";

/// From what share of the proxies' core that other programs take on, latencies say little.
const BUSY: f64 = 0.1;

/// A table, and which jobs have a line in it.
struct Table {
    intro: &'static str,
    columns: &'static [&'static str],
    is_in: fn(&Row) -> bool,
    cells: fn(&Row, &Entry) -> Vec<String>,
}

const TABLES: [Table; 4] = [
    Table {
        intro: "Processor time of a request, as fast as it goes; the last column is what a core could do by it.",
        columns: &["job", "Tidegate", "Envoy", "ratio (least to most)", "requests a second and core"],
        is_in: |row| row.closed && !is_about_cores(row),
        cells: processor_cells,
    },
    Table {
        intro: "How long a request takes at a fixed rate, counted from when it was due: medians of the rounds' p50 and p99. \
                At low load requests pay for waking up, so a request costs more than above.",
        columns: &[
            "job",
            "requests a second",
            "Tidegate p50 / p99",
            "Envoy p50 / p99",
            "processor time, ratio",
        ],
        is_in: |row| row.closed && row.rate.is_some(),
        cells: latency_cells,
    },
    Table {
        intro: "Throughput with more cores. The machine has two, so the second one is the generator's, too.",
        columns: &["job", "Tidegate, requests a second", "Envoy", "Tidegate, processor time each", "Envoy"],
        is_in: is_about_cores,
        cells: core_cells,
    },
    Table {
        intro: "Memory (RSS) before there is a connection, and with 1,000 open ones, each of which was used.",
        columns: &["", "Tidegate idle", "with 1,000", "Envoy idle", "with 1,000"],
        is_in: Row::is_for_memory,
        cells: memory_cells,
    },
];

/// Replaces the section in the file at `path`.
pub(crate) fn write(path: &Path, results: &Results) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let text = replaced(&text, &section(results)).with_context(|| format!("`{}`", path.display()))?;
    Ok(std::fs::write(path, text)?)
}

/// `text` with `section` between the marks.
fn replaced(text: &str, section: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("there is no `{BEGIN}`"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("there is no `{END}`"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", section.trim()))
}

fn section(results: &Results) -> String {
    let measured = ROWS.iter().filter_map(|row| Some((row, results.0.get(row.id)?)));
    let measured: Vec<(&Row, &Entry)> = measured.collect();
    let mut text =
        "![Tidegate's processor time by Envoy's, for each job](benchmarks/dataplane.svg)\n".to_owned();
    for table in &TABLES {
        text += &table.render(&measured);
    }
    text + &conditions(&measured)
}

impl Table {
    fn render(&self, measured: &[(&Row, &Entry)]) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let lines: String = measured
            .iter()
            .filter(|(row, _)| (self.is_in)(row))
            .map(|(row, entry)| {
                let title = format!("{} (`{}`)", row.title, row.id);
                let faults = entry.measured.faults();
                if faults.is_empty() {
                    line(&[vec![title], (self.cells)(row, entry)].concat())
                } else {
                    line(&[title, format!("**failed**: {}", faults.join("; "))])
                }
            })
            .collect();
        if lines.is_empty() {
            return lines;
        }
        let columns: Vec<String> = self.columns.iter().map(|&column| column.to_owned()).collect();
        format!("\n{}\n\n{}|{}\n{lines}", self.intro, line(&columns), "---|".repeat(columns.len()))
    }
}

fn is_about_cores(row: &Row) -> bool {
    row.id.ends_with("-core") || row.id.ends_with("-cores")
}

fn processor_cells(_row: &Row, entry: &Entry) -> Vec<String> {
    let (ours, theirs) = both(entry);
    let each = |figures: &Figures| show(figures.each, |each| format!("{:.1} µs", each.median));
    let a_second = |figures: &Figures| show(figures.each, |each| format!("{:.0}", 1e6 / each.median));
    let ratio = show(results::ratio(&entry.measured), |ratio| {
        format!("**{:.2}** ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max)
    });
    vec![
        missing(entry).unwrap_or_else(|| each(&ours)),
        each(&theirs),
        ratio,
        format!("{} / {}", a_second(&ours), a_second(&theirs)),
    ]
}

fn latency_cells(row: &Row, entry: &Entry) -> Vec<String> {
    let (ours, theirs) = both(entry);
    let latency = |figures: &Figures| {
        show(figures.latency, |Latency { p50, p99, .. }| format!("{} / {}", duration(p50), duration(p99)))
    };
    let ratio = ours.latency.zip(theirs.latency).map(|(ours, theirs)| ours.each / theirs.each);
    vec![
        show(row.rate, |rate| rate.to_string()),
        missing(entry).unwrap_or_else(|| latency(&ours)),
        latency(&theirs),
        show(ratio, |ratio| format!("{ratio:.2}")),
    ]
}

fn core_cells(_row: &Row, entry: &Entry) -> Vec<String> {
    let (ours, theirs) = both(entry);
    let rate = |figures: &Figures| show(figures.per_second, |rate| format!("{:.0}", rate.median));
    let each = |figures: &Figures| show(figures.each, |each| format!("{:.1} µs", each.median));
    vec![rate(&ours), rate(&theirs), each(&ours), each(&theirs)]
}

fn memory_cells(_row: &Row, entry: &Entry) -> Vec<String> {
    let (ours, theirs) = both(entry);
    let side = |figures: &Figures| {
        [format!("{:.0} MiB", figures.idle_mib), show(figures.loaded_mib, |mib| format!("{mib:.0} MiB"))]
    };
    [side(&ours), side(&theirs)].concat()
}

fn both(entry: &Entry) -> (Figures, Figures) {
    (Figures::of(&entry.measured.tidegate), Figures::of(&entry.measured.envoy))
}

fn missing(entry: &Entry) -> Option<String> {
    entry.measured.missing.as_ref().map(|what| format!("not yet: {what}"))
}

fn show<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), text)
}

fn duration(microseconds: f64) -> String {
    if microseconds < 1000.0 {
        format!("{microseconds:.0} µs")
    } else {
        format!("{:.1} ms", microseconds / 1000.0)
    }
}

/// On what the jobs were measured: those of one run on one machine together.
fn conditions(measured: &[(&Row, &Entry)]) -> String {
    let mut runs: BTreeMap<String, Vec<(&str, &Entry)>> = BTreeMap::new();
    for (row, entry) in measured {
        let machine = &entry.machine;
        let run = format!(
            "{}: {} × {}, Linux {}; {}, {}; {}; {} × {} s",
            entry.measured_at,
            machine.processors,
            machine.processor,
            machine.kernel,
            machine.tidegate,
            machine.rustc,
            machine.envoy,
            entry.measured.envoy.closed.len().max(1),
            entry.seconds,
        );
        runs.entry(run).or_default().push((row.id, *entry));
    }
    let line = |(run, rows): (String, Vec<(&str, &Entry)>)| {
        let ids: Vec<String> = rows.iter().map(|(id, _)| format!("`{id}`")).collect();
        let foreign = show(foreign(rows.iter().map(|(_, entry)| *entry)), |share| {
            let warning = if share.median > BUSY { ": take the ratios, not the latencies" } else { "" };
            let [median, min, max] = [share.median, share.min, share.max].map(|share| share * 100.0);
            format!("{median:.0} % ({min:.0} to {max:.0}) of the proxies' core meanwhile{warning}")
        });
        format!("- {}. {run}. Other programs took {foreign}.\n", ids.join(", "))
    };
    format!("\nMeasured on, and what:\n\n{}", runs.into_iter().map(line).collect::<String>())
}

/// What programs of others took of the proxies' processors, over all turns.
fn foreign<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<Spread> {
    let sides = entries.flat_map(|entry| [&entry.measured.tidegate, &entry.measured.envoy]);
    let turns = sides.flat_map(|Rounds { closed, open, .. }| closed.iter().chain(open));
    Spread::of(turns.map(|turn| turn.foreign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Outcome;
    use crate::measure::Measured;

    fn section_of(id: &str, measured: Measured) -> String {
        section(&Results([(id.to_owned(), Entry { measured, ..Entry::default() })].into()))
    }

    fn rounds(turn: &Outcome) -> Rounds {
        Rounds { idle_kib: 10_240, closed: vec![turn.clone()], open: vec![turn.clone()] }
    }

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
        let turn = rounds(&Outcome { requests: 1, not_ok: 3, ..Outcome::default() });
        let measured = Measured { tidegate: turn.clone(), envoy: turn, missing: None };
        let section = section_of("http1", measured);
        assert_eq!(
            section.matches("**failed**: Tidegate: 0 errors, 3 answers not 200").count(),
            2,
            "{section}"
        );
    }

    #[test]
    fn a_job_that_tidegate_lacks_is_told() {
        let envoy = rounds(&Outcome { requests: 1000, seconds: 1.0, ..Outcome::default() });
        let measured = Measured { envoy, missing: Some("raw TCP".to_owned()), ..Measured::default() };
        let section = section_of("tcp", measured);
        assert!(section.contains("(`tcp`) | not yet: raw TCP | 0.0 µs | – |"), "{section}");
    }

    #[test]
    fn memory_is_in_a_table_of_its_own() {
        let turn = rounds(&Outcome { requests: 1, resident_kib: 20_480, ..Outcome::default() });
        let measured = Measured { tidegate: turn.clone(), envoy: turn, missing: None };
        let section = section_of("memory", measured);
        assert!(section.contains("| 10 MiB | 20 MiB | 10 MiB | 20 MiB |"), "{section}");
    }

    #[test]
    fn long_times_are_in_milliseconds() {
        assert_eq!([duration(12.4), duration(1234.0)], ["12 µs", "1.2 ms"]);
    }
}
