//! What the solver found, for people and for programs.

use serde_json::{Value, json};

use super::{Comparison, Environment, Example, Proof, Symbolic};
use crate::author::unit_test::{RequestText, test_text};

/// The most environments that are shown to people; programs get all.
const SHOWN_MAX: usize = 10;

/// What was found, in words: the first line says all of it.
pub fn text(symbolic: &Symbolic) -> String {
    let comparison = match symbolic {
        Symbolic::Done(comparison) => comparison,
        Symbolic::NotDone(why) => return format!("symbolic: not done: {why}\n"),
    };
    let mut text = format!("symbolic: {}\n", summary(comparison));
    let told: Vec<&Environment> =
        comparison.environments.iter().filter(|environment| !environment.is_equivalent()).collect();
    told.iter().take(SHOWN_MAX).for_each(|environment| text.push_str(&shown(environment)));
    if told.len() > SHOWN_MAX {
        text.push_str(&format!("  and {} more: see `--format json`\n", told.len() - SHOWN_MAX));
    }
    for gap in &comparison.gaps {
        text.push_str(&format!("  not compared: {gap}\n"));
    }
    text
}

/// What was found, for programs.
pub fn json(symbolic: &Symbolic) -> Value {
    match symbolic {
        Symbolic::NotDone(why) => json!({ "result": "not done", "why": why }),
        Symbolic::Done(comparison) => json!({
            "result": result(comparison),
            "environments": comparison.environments.iter().map(environment_json).collect::<Vec<_>>(),
            "not_compared": comparison.gaps,
        }),
    }
}

/// In one word.
fn result(comparison: &Comparison) -> &'static str {
    if comparison.environments.iter().any(Environment::differs) {
        "differs"
    } else if comparison.environments.iter().all(Environment::is_equivalent) {
        "equivalent"
    } else {
        "unknown"
    }
}

fn summary(comparison: &Comparison) -> String {
    let Comparison { environments, gaps } = comparison;
    let count =
        |is: fn(&Environment) -> bool| environments.iter().filter(|environment| is(environment)).count();
    let (all, equivalent, differs) =
        (environments.len(), count(Environment::is_equivalent), count(Environment::differs));
    let open = all - equivalent - differs;
    let beyond = if gaps.is_empty() { "" } else { ", as far as they were compared" };
    match (equivalent, differs, open) {
        (_, 0, 0) => format!("equivalent in all {all} environments{beyond}"),
        (_, 0, _) => format!("equivalent in {equivalent} of {all} environments, not known of {open}"),
        (_, _, 0) => format!("differs in {differs} of {all} environments, equivalent in {equivalent}"),
        _ => format!(
            "differs in {differs} of {all} environments, equivalent in {equivalent}, not known of {open}"
        ),
    }
}

/// How the new bundle relates to the old one.
const fn relation(environment: &Environment) -> &'static str {
    match (&environment.gained, &environment.lost) {
        (Proof::None, Proof::None) => "equivalent",
        (Proof::Request(_), Proof::None) => "the new bundle is more permissive",
        (Proof::None, Proof::Request(_)) => "the new bundle is less permissive",
        (Proof::Request(_), Proof::Request(_)) => "each bundle allows what the other one denies",
        (Proof::Request(_), _) => "the new bundle allows more; whether it denies more is not known",
        (_, Proof::Request(_)) => "the new bundle denies more; whether it allows more is not known",
        _ => "not known",
    }
}

fn shown(environment: &Environment) -> String {
    let Environment { principal, action, resource, gained, lost } = environment;
    let mut text = format!("\n  {principal}, {action}, {resource}: {}\n", relation(environment));
    text.push_str(&proof("allowed by the new bundle alone", gained));
    match (gained, lost) {
        // The same reason twice says no more.
        (Proof::Unknown(one), Proof::Unknown(other)) if one == other => {}
        _ => text.push_str(&proof("allowed by the old bundle alone", lost)),
    }
    text.push('\n');
    text
}

fn proof(what: &str, proof: &Proof) -> String {
    let indented = |lines: String| lines.lines().map(|line| format!("      {line}\n")).collect::<String>();
    match proof {
        Proof::None => String::new(),
        Proof::Request(example) => format!(
            "    {what}, as a test of the new bundle:\n{}    explained by: tidegate policy explain BUNDLE {}\n",
            indented(test(example)),
            options(&RequestText::of(&example.request)),
        ),
        Proof::Unconfirmed(found) => format!(
            "    {what}: could not be confirmed: both bundles decide alike on every request that was made of what the solver found:\n{}",
            indented(found.clone()),
        ),
        Proof::Unknown(why) => format!("    {why}\n"),
    }
}

fn test(Example { request, new, .. }: &Example) -> String {
    test_text(&format!("{} {} of {}", request.method, request.path, request.resource), request, new)
}

/// A request as options of `tidegate policy explain`, quoted for a shell.
fn options(request: &RequestText) -> String {
    let one = |option: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!("--{option} {}", quoted(value)))
    };
    let records = [
        ("header", &request.headers),
        ("query", &request.query),
        ("cookie", &request.cookies),
        ("claim", &request.claims),
    ];
    let fields = records.into_iter().flat_map(|(option, fields)| {
        fields.iter().map(move |(name, value)| format!("--{option} {}", quoted(&format!("{name}={value}"))))
    });
    let named = [
        one("principal", &request.principal),
        one("action", &request.action),
        one("service", &Some(request.service.clone())),
        one("method", &request.method),
        one("path", &request.path),
        one("host", &request.host),
    ];
    let last = [
        one("source-ip", &request.source_ip),
        request.tls.map(|tls| format!("--tls {tls}")),
        one("sni", &request.sni),
        request.destination_port.map(|port| format!("--destination-port {port}")),
        one("time", &request.time),
    ];
    named.into_iter().flatten().chain(fields).chain(last.into_iter().flatten()).collect::<Vec<_>>().join(" ")
}

fn quoted(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._:@-=".contains(&b);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn environment_json(environment: &Environment) -> Value {
    json!({
        "principal": environment.principal,
        "action": environment.action,
        "resource": environment.resource,
        "relation": relation(environment),
        "allowed_by_new_alone": proof_json(&environment.gained),
        "allowed_by_old_alone": proof_json(&environment.lost),
    })
}

fn proof_json(proof: &Proof) -> Value {
    match proof {
        Proof::None => json!({ "result": "none" }),
        Proof::Request(example) => json!({
            "result": "request",
            "request": RequestText::of(&example.request),
            "old": example.old,
            "new": example.new,
        }),
        Proof::Unconfirmed(found) => json!({ "result": "could not be confirmed", "found": found }),
        Proof::Unknown(why) => json!({ "result": "unknown", "why": why }),
    }
}
