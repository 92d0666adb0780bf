//! What came of a replay, for people and for programs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Log;
use super::tally::{Change, Counted, Example, Place, Said, Skip, Tally};
use crate::author::unit_test::quoted;
use model::Verdict;

/// The most groups that are shown to people; programs get all.
const SHOWN_MAX: usize = 50;

/// The changes by group, the most frequent first, and what could not be decided again.
pub fn text(tally: &Tally, logs: &[Log]) -> String {
    let mut text = match tally.changed() {
        0 => format!("nothing changes: {} would be decided alike\n", counted(tally.replayed, "request")),
        changed => {
            format!("{} of {} would be decided otherwise\n", changed, counted(tally.replayed, "request"))
        }
    };
    let groups = groups(tally);
    for (change, counted) in groups.iter().take(SHOWN_MAX) {
        text.push_str(&group(change, counted, logs));
    }
    let more: u64 = groups.iter().skip(SHOWN_MAX).map(|(_, counted)| counted.count).sum();
    if more + tally.ungrouped > 0 {
        text.push_str(&format!("\n  {:>8}  in other ways: see `--format json`\n", more + tally.ungrouped));
    }
    if !tally.skipped.is_empty() {
        text.push_str(&format!("\n{} could not be decided again:\n", counted(tally.skipped(), "line")));
    }
    for (skip, counted) in &tally.skipped {
        text.push_str(&format!("  {:>8}  {} ({})\n", counted.count, why(skip), shown(counted.first, logs)));
    }
    if tally.for_other_reasons > 0 {
        let requests = counted(tally.for_other_reasons, "request");
        text.push_str(&format!("\n{requests} would be decided alike, but by other policies\n"));
    }
    if tally.to_ask > 0 {
        let requests = counted(tally.to_ask, "request");
        text.push_str(&format!("\ncheck adapters would have a say in {requests}: they are not asked here\n"));
    }
    text
}

/// Everything, as a JSON object.
pub fn json(tally: &Tally, logs: &[Log]) -> Value {
    let group = |(change, counted): &(&Change, &Counted<Example>)| {
        let Example { place, ts, request_id, method, path } = &counted.first;
        json!({
            "count": counted.count,
            "service": change.service,
            "principal": change.principal,
            "before": change.before,
            "after": change.after,
            "example": {
                "at": shown(*place, logs),
                "ts": ts,
                "request_id": request_id,
                "method": method,
                "path": path,
            },
        })
    };
    let skip = |(skip, counted): (&Skip, &Counted<Place>)| json!({ "why": why(skip), "count": counted.count, "first": shown(counted.first, logs) });
    json!({
        "replayed": tally.replayed,
        "changed": tally.changed(),
        "groups": groups(tally).iter().map(group).collect::<Vec<_>>(),
        "ungrouped": tally.ungrouped,
        "skipped": tally.skipped.iter().map(skip).collect::<Vec<_>>(),
        "for_other_reasons": tally.for_other_reasons,
        "to_ask": tally.to_ask,
        "evaluated": tally.evaluated,
    })
}

/// The groups, the most frequent first; those that are as frequent by their names, so that the order is the same
/// each time.
fn groups(tally: &Tally) -> Vec<(&Change, &Counted<Example>)> {
    let mut groups: Vec<_> = tally.changes.iter().collect();
    groups.sort_by(|(change, counted), (other_change, other)| {
        other.count.cmp(&counted.count).then_with(|| change.cmp(other_change))
    });
    groups
}

fn group(change: &Change, counted: &Counted<Example>, logs: &[Log]) -> String {
    let Change { service, principal, before, after } = change;
    let Example { place, method, path, .. } = &counted.first;
    let request = format!("{} {}", or_masked(method), or_masked(path));
    format!(
        "\n  {:>8}  {} -> {}  {service}  {principal}\n            was  {}\n            now  {}\n            as   {request}  ({})\n",
        counted.count,
        before.verdict.as_str(),
        after.verdict.as_str(),
        said(before, after),
        said(after, before),
        shown(*place, logs)
    )
}

/// A decision in words: who determined it, and what else of it is not as in `other`.
fn said(this: &Said, other: &Said) -> String {
    let names = |names: &[String]| quoted(&names.iter().cloned().collect::<BTreeSet<_>>());
    let mut words = match this.verdict {
        Verdict::Allow => format!("permitted by {}", names(&this.reasons)),
        Verdict::Deny if this.reasons.is_empty() => "permitted by none".to_owned(),
        Verdict::Deny => format!("denied by {}", names(&this.reasons)),
    };
    // What is denied is charged to nothing.
    if this.verdict == other.verdict && this.limits != other.limits {
        words.push_str(&format!(", limits {}", names(&this.limits)));
    }
    if this.rules != other.rules {
        words.push_str(&format!(", rules {}", names(&this.rules)));
    }
    words
}

fn why(skip: &Skip) -> String {
    match skip {
        Skip::Unreadable => "no line of a decision log".to_owned(),
        Skip::TooLong => "longer than any line of a decision log".to_owned(),
        Skip::Undecided => "undecided then: no decision could be had".to_owned(),
        Skip::MaskedCaller => "`principal` is masked".to_owned(),
        Skip::Masked(name) => format!("`{name}` is masked, and the bundle reads it"),
        Skip::NotLogged(name) => format!("`{name}` was not logged, and the bundle reads it"),
    }
}

fn shown(place: Place, logs: &[Log]) -> String {
    let name = logs.get(place.log).map(Log::name).unwrap_or_default();
    format!("{name}:{}", place.line)
}

fn or_masked(value: &str) -> &str {
    if value.is_empty() { "(masked)" } else { value }
}

fn counted(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}
