//! Differences, for people and for programs.

use model::Attributes;
use serde_json::{Value, json};

use super::{Change, Decisions, Difference, Edit, Edited};
use crate::author::unit_test::{Answer, RequestText, test_text, word};

/// The differences for people: texts, then decisions, each with a request that can be pasted as a test.
pub fn text(difference: &Difference) -> String {
    let mut text: String = difference.edits.iter().map(edited).collect();
    if !difference.edits.is_empty() {
        text.push('\n');
    }
    let Decisions { changes, more, compared, sampled } = &difference.decisions;
    changes.iter().for_each(|change| text.push_str(&changed(change)));
    if *more > 0 {
        text.push_str(&format!("and {more} more requests, in other ways\n\n"));
    }
    let differ: usize = changes.iter().map(|change| change.count).sum::<usize>() + more;
    text.push_str(&format!("{differ} of {compared} requests differ\n"));
    text.push_str(&match sampled.as_slice() {
        [] => "these show every outcome of all conditions, for every caller that policies may know\n".to_owned(),
        sampled => format!(
            "of requests to `{}` this is a sample: their conditions have too many outcomes, or compare what can't be listed\n",
            sampled.join("`, `")
        ),
    });
    text
}

/// The differences for programs.
pub fn json(difference: &Difference) -> Value {
    let edits = difference.edits.iter().map(|Edited { kind, name, edit }| {
        let (what, diff) = match edit {
            Edit::Added => ("added", None),
            Edit::Removed => ("removed", None),
            Edit::Changed(lines) => ("changed", Some(lines)),
        };
        json!({ "kind": kind, "name": name, "edit": what, "diff": diff })
    });
    let Decisions { changes, more, compared, sampled } = &difference.decisions;
    let changes = changes.iter().map(|change| {
        json!({
            "service": change.example.resource,
            "verdict_changes": change.is_verdict(),
            "old": change.old,
            "new": change.new,
            "requests": change.count,
            "example": RequestText::of(&change.example),
        })
    });
    json!({
        "edits": edits.collect::<Vec<_>>(),
        "decisions": {
            "changes": changes.collect::<Vec<_>>(),
            "more": more,
            "compared": compared,
            "exhaustive": sampled.is_empty(),
            "sampled": sampled,
        },
    })
}

fn edited(Edited { kind, name, edit }: &Edited) -> String {
    match edit {
        Edit::Added => format!("added: {kind} `{name}`\n"),
        Edit::Removed => format!("removed: {kind} `{name}`\n"),
        Edit::Changed(lines) => {
            let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
            format!("changed: {kind} `{name}`\n{lines}")
        }
    }
}

fn changed(change: &Change) -> String {
    let Change { old, new, example, count } = change;
    let service = &example.resource;
    let what = if change.is_verdict() {
        format!("`{service}`: {} becomes {}", word(old.decision), word(new.decision))
    } else {
        format!("`{service}`: {} as before, but otherwise", word(new.decision))
    };
    let requests = if *count == 1 { "1 request".to_owned() } else { format!("{count} requests") };
    let mut text = format!("{what}, for {requests}\n  old: {}\n  new: {}\n", told(old), told(new));
    text.push_str("  an example, as a test of the new bundle:\n");
    text.extend(test(example, new).lines().map(|line| format!("    {line}\n")));
    text.push('\n');
    text
}

fn told(answer: &Answer) -> String {
    let list = |what: &str, names: &std::collections::BTreeSet<String>| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if names.is_empty() { String::new() } else { format!("; {what} `{}`", names.join("`, `")) }
    };
    format!("{}{}{}", answer.message, list("limits", &answer.limits), list("rules", &answer.rules))
}

/// A request and an answer as an author writes them in `tests/*.yaml`.
fn test(request: &Attributes, answer: &Answer) -> String {
    test_text(&format!("{} {} of {}", request.method, request.path, request.resource), request, answer)
}
