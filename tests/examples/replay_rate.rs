//! How many recorded decisions are replayed in a second: writes a million lines, then replays them.
//!
//! `cargo run --release -p tidegate-tests --example replay_rate`
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use model::decision::Source;
use model::decision_line::{DecisionLine, Inputs, Logged};
use model::{Action, Attributes, Verdict};
use policyd::author::replay::{Log, replay};
use policyd::bundle::{Bundle, Files};
use policyd::engine;
use tidegate_tests::repository;
use tokio::time::Instant;

const LINES: usize = 1_000_000;
const CALLERS: [&str; 4] = ["productpage", "reviews", "details", "stranger"];
const SERVICES: [&str; 4] = ["productpage", "reviews", "details", "ratings"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

fn main() -> Result<()> {
    let files = Files::read(&repository::root().join("policies/bookinfo"))?;
    let bundle = Bundle::load(&files)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("decisions.jsonl");
    write(&bundle, &path)?;
    let size = std::fs::metadata(&path)?.len();
    println!("{LINES} lines, {} MiB", size / 1024 / 1024);

    // The candidate: reviews may no longer read ratings.
    let mut edited = files;
    let acl = edited.texts.get_mut("acl.cedar").context("no acl.cedar")?;
    *acl = acl.replace("context.path like \"/ratings/*\"", "context.path like \"/ratings/1*\"");
    for (name, candidate) in [("the same bundle", &bundle), ("an edited bundle", &Bundle::load(&edited)?)] {
        let started = Instant::now();
        let tally = replay(candidate, &[Log::File(path.clone())], &|_| ())?;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{name}: {:.2} s, {:.0} lines/s; {} changed in {} groups, {} skipped, {} evaluated",
            seconds,
            LINES as f64 / seconds,
            tally.changed(),
            tally.changes.len(),
            tally.skipped(),
            tally.evaluated
        );
    }
    Ok(())
}

fn write(bundle: &Bundle, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..LINES {
        serde_json::to_writer(&mut file, &line(bundle, &request(number)?)?)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}

/// Each has a path of its own.
fn request(number: usize) -> Result<Attributes> {
    let pick = |all: &'static [&'static str], by: usize| all.get(by % all.len()).copied().unwrap_or_default();
    let service = pick(&SERVICES, number);
    let caller = pick(&CALLERS, number / SERVICES.len());
    Ok(Attributes {
        principal: format!("spiffe://bookinfo.example/ns/bookinfo/sa/{caller}").parse()?,
        action: Action::Http,
        resource: service.to_owned(),
        method: pick(&METHODS, number / 16).to_owned(),
        path: format!("/{service}/{number}"),
        host: service.to_owned(),
        tls: true,
        time: jiff::Timestamp::from_millisecond(1_767_225_600_000 + i64::try_from(number)?)?,
        ..Attributes::default()
    })
}

fn line(bundle: &Bundle, attributes: &Attributes) -> Result<DecisionLine> {
    let evaluation = engine::evaluate(bundle, attributes)?;
    let plain = |text: &str| Logged::Plain(text.to_owned());
    let allowed = evaluation.opinion.verdict == Verdict::Allow;
    let rules = evaluation.rules.into_iter().filter(|rule| bundle.rules.reports(rule));
    let mut input = Inputs {
        method: plain(&attributes.method),
        path: plain(&attributes.path),
        host: plain(&attributes.host),
        source_ip: plain(&attributes.source_ip.to_string()),
        tls: attributes.tls,
        ..Inputs::default()
    };
    for (record, field) in bundle.schemas.declared.keys().filter_map(model::Name::field) {
        input.record_mut(record).insert(field.to_owned(), None);
    }
    Ok(DecisionLine {
        ts: attributes.time,
        request_id: format!("{:016x}", attributes.time.as_millisecond()),
        instance: format!("{}-v1", attributes.resource),
        service: attributes.resource.clone(),
        principal: plain(attributes.principal.as_str()),
        action: attributes.action,
        operation: None,
        verdict: evaluation.opinion.verdict,
        enforced: true,
        source: Source::Miss,
        degraded: false,
        reasons: evaluation.opinion.reasons,
        message: evaluation.opinion.message,
        limits: if allowed { evaluation.limits } else { Vec::new() },
        rules: rules.collect(),
        revision: "1f.1".to_owned(),
        shadows: Vec::new(),
        input,
    })
}
