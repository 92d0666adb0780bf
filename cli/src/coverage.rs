//! What `tidegate policy test --coverage` shows: the table here, the page in [`page`].

pub mod page;

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use policyd::author::coverage::{Coverage, Covered, Share, Tried};
use policyd::bundle::clauses::Place;

use crate::overview::{table, unpadded};

/// Each policy with the parts of its conditions, and in how many tests they came to what; then what sums it up.
pub fn text(coverage: &Coverage, color: bool) -> String {
    let header = ["policy or condition", "place", "true", "false", "failed"];
    let mut table = table(presets::NOTHING, header);
    for column in 2..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if color {
        table.enforce_styling();
    }
    for policy in &coverage.policies {
        add(&mut table, policy, color);
    }
    format!("{}\n\n{}", unpadded(&table), summary(coverage))
}

/// How much was tried, in one line, and the policies that nothing satisfied.
pub fn summary(coverage: &Coverage) -> String {
    let (outcomes, policies) = (coverage.outcomes(), coverage.satisfied());
    let never: String = coverage
        .enforced()
        .filter(|policy| policy.satisfied == 0)
        .map(|policy| format!("never satisfied: {} ({})\n", title(policy), shown(&policy.place)))
        .collect();
    let parts = coverage.enforced().map(|policy| policy.parts.len()).sum::<usize>() * 2;
    let Share { seen, of } = policies;
    format!(
        "{never}coverage {:.1} %: {seen} of {of} policies satisfied, {} of {parts} outcomes of conditions seen\n",
        outcomes.percent(),
        outcomes.seen - seen,
    )
}

/// What a policy is called where policies, limits and rules stand together.
pub(crate) fn title(policy: &Covered) -> String {
    format!("{} `{}`", policy.kind.marked(policy.is_shadow), policy.name)
}

fn add(table: &mut Table, policy: &Covered, color: bool) {
    let satisfied = count(policy.satisfied, color);
    table.add_row([Cell::new(title(policy)), Cell::new(shown(&policy.place)), satisfied]);
    for Tried { part, held, did_not, failed } in &policy.parts {
        let text = format!("  {} {{ {} }}", part.word, cut(&part.text));
        let failed = if *failed == 0 { Cell::new("") } else { Cell::new(failed) };
        let (held, did_not) = (count(*held, color), count(*did_not, color));
        table.add_row([Cell::new(text), Cell::new(shown(&part.place)), held, did_not, failed]);
    }
}

/// A number of times; that there were none is what a reader looks for.
fn count(times: usize, color: bool) -> Cell {
    match times {
        0 if color => Cell::new("never").fg(Color::Red),
        0 => Cell::new("never"),
        times => Cell::new(times),
    }
}

fn shown(place: &Place) -> String {
    format!("{}:{}:{}", place.file, place.line, place.column)
}

/// A long text's beginning.
fn cut(text: &str) -> String {
    if text.chars().count() <= TEXT_MAX {
        return text.to_owned();
    }
    text.chars().take(TEXT_MAX - 1).chain(['…']).collect()
}

/// The most characters of a condition in a table: the page shows all.
const TEXT_MAX: usize = 72;
