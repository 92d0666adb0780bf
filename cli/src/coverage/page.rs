//! Coverage as one page of HTML, which needs nothing else: the sources with their conditions in colour.

use std::collections::BTreeMap;
use std::ops::Range;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use policyd::author::coverage::{Coverage, Covered, Share, Tried};
use policyd::bundle::Files;

/// The page about the bundle called `name`.
pub fn page(coverage: &Coverage, files: &Files, name: &str) -> String {
    let mut by_file: BTreeMap<&str, Vec<&Covered>> = BTreeMap::new();
    for policy in &coverage.policies {
        by_file.entry(&policy.place.file).or_default().push(policy);
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Coverage of " (name) }
                link rel="icon" href="data:,";
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                header {
                    p .what { "Policy coverage" }
                    h1 { (name) }
                    (totals(coverage))
                }
                main {
                    (policies(coverage))
                    (legend())
                    @for (file, policies) in &by_file {
                        (source(file, files.text(file).unwrap_or_default(), policies))
                    }
                }
                footer { "Made by " code { "tidegate policy test --coverage=html" } }
            }
        }
    };
    page.into_string()
}

fn totals(coverage: &Coverage) -> Markup {
    let (all, policies) = (coverage.outcomes(), coverage.satisfied());
    let conditions = Share { seen: all.seen - policies.seen, of: all.of - policies.of };
    html! {
        dl .totals {
            (total("Covered", &format!("{:.1} %", all.percent()), all))
            (total("Policies satisfied", &of(policies), policies))
            (total("Outcomes of conditions", &of(conditions), conditions))
            div { dt { "Tests" } dd { (coverage.requests) } }
        }
    }
}

fn total(what: &str, figure: &str, share: Share) -> Markup {
    html! {
        div { dt { (what) } dd { (figure) } (bar(share)) }
    }
}

fn of(share: Share) -> String {
    format!("{} of {}", share.seen, share.of)
}

fn bar(share: Share) -> Markup {
    html! {
        span .bar aria-hidden="true" { span style={ "width:" (share.percent()) "%" } {} }
    }
}

fn policies(coverage: &Coverage) -> Markup {
    html! {
        section .card {
            h2 { "Policies, limits and rules" }
            div .wide {
                table {
                    thead {
                        tr { th { "Name" } th { "Place" } th .number { "In scope" } th .number { "Satisfied" } th { "Outcomes seen" } }
                    }
                    tbody {
                        @for policy in &coverage.policies {
                            tr {
                                td { span .kind { (policy.kind.marked(policy.is_shadow)) } " " a href={ "#" (anchor(policy)) } { (policy.name) } }
                                td .place { (policy.place.file) ":" (policy.place.line) }
                                td .number { (policy.in_scope) }
                                td .number { (times(policy.satisfied)) }
                                td { (bar(policy.outcomes())) span .share { (of(policy.outcomes())) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn times(count: usize) -> Markup {
    html! {
        @if count == 0 { strong .never { "never" } } @else { (count) "×" }
    }
}

fn legend() -> Markup {
    html! {
        p .legend {
            @for state in [State::Both, State::OnlyTrue, State::OnlyFalse, State::Unreached] {
                mark class=(state.class()) { (state.meaning()) }
            }
        }
    }
}

/// What was seen of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Both,
    OnlyTrue,
    OnlyFalse,
    Unreached,
}

impl State {
    const fn of(tried: &Tried) -> Self {
        match (tried.held > 0, tried.did_not > 0) {
            (true, true) => Self::Both,
            (true, false) => Self::OnlyTrue,
            (false, true) => Self::OnlyFalse,
            (false, false) => Self::Unreached,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::OnlyTrue => "only-true",
            Self::OnlyFalse => "only-false",
            Self::Unreached => "unreached",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Both => "true and false",
            Self::OnlyTrue => "never false",
            Self::OnlyFalse => "never true",
            Self::Unreached => "neither",
        }
    }
}

/// A file with its parts in colour, and beside each line what was seen of what starts there.
fn source(file: &str, text: &str, policies: &[&Covered]) -> Markup {
    let parts: Vec<&Tried> = policies.iter().flat_map(|policy| &policy.parts).collect();
    let mut start = 0;
    let lines = text.split_inclusive('\n').map(|line| {
        let span = start..start + line.trim_end().len();
        start += line.len();
        span
    });
    html! {
        section .card {
            h2 { (file) }
            div .wide {
                table .source {
                    @for (number, span) in (1..).zip(lines) {
                        @let here: Vec<&Covered> = policies.iter().copied().filter(|policy| policy.place.line == number).collect();
                        tr id=[here.first().map(|policy| anchor(policy))] {
                            td .line { (number) }
                            td .code { (code(text, span, &parts)) }
                            td .seen {
                                @for policy in &here {
                                    span .badge { (policy.kind.marked(policy.is_shadow)) " " (times(policy.satisfied)) " satisfied" }
                                }
                                @for tried in parts.iter().filter(|tried| tried.part.place.line == number) {
                                    span class={ "badge " (State::of(tried).class()) } { (counts(tried)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A line of code, cut where parts start and end.
fn code(text: &str, line: Range<usize>, parts: &[&Tried]) -> Markup {
    // What a line of a longer part is indented by stays plain.
    let indent = text.get(line.clone()).map_or(0, |text| text.len() - text.trim_start().len());
    let within = |place: usize| place.clamp(line.start + indent, line.end);
    let mut cuts = vec![line.start, line.start + indent, line.end];
    for tried in parts {
        cuts.extend([within(tried.part.place.start), within(tried.part.place.end)]);
    }
    cuts.sort_unstable();
    cuts.dedup();
    let pieces = cuts.iter().zip(cuts.iter().skip(1)).map(|(start, end)| *start..*end);
    html! {
        @for piece in pieces {
            @let shown = text.get(piece.clone()).unwrap_or_default();
            // Parts of folded YAML share one place: the worst of them shows.
            @let covering = parts.iter().filter(|tried| tried.part.place.start <= piece.start && piece.end <= tried.part.place.end);
            @match covering.max_by_key(|tried| State::of(tried)) {
                Some(tried) if piece.start >= line.start + indent => mark class=(State::of(tried).class()) title=(counts(tried)) { (shown) },
                _ => (shown),
            }
        }
    }
}

fn counts(tried: &Tried) -> String {
    let failed = if tried.failed > 0 { format!(", {}× failed", tried.failed) } else { String::new() };
    match State::of(tried) {
        State::Unreached => format!("neither true nor false{failed}"),
        State::OnlyTrue => format!("{}× true, never false{failed}", tried.held),
        State::OnlyFalse => format!("{}× false, never true{failed}", tried.did_not),
        State::Both => format!("{}× true, {}× false{failed}", tried.held, tried.did_not),
    }
}

fn anchor(policy: &Covered) -> String {
    format!("{}-{}", policy.place.file, policy.place.line)
}
