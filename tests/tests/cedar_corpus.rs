//! Cedar's own integration tests, through our index: decisions, determining policies and errors as Cedar's authors
//! expect them. The cases lie beside the repository, where they exist; the test says so where they don't.
#![cfg(test)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use cedar_policy::{Context, Entities, EntityUid, PolicySet, Request, Schema};
use policyd::engine::index::{Depth, Index};
use serde_json::Value;
use tidegate_tests::repository;

/// The archive of cases.
fn archive() -> Option<PathBuf> {
    let file = repository::root().join("../shared/cedar-corpus/corpus-quarter.tar.xz");
    if file.is_file() {
        return Some(file);
    }
    let line = "SKIPPED cedars_own_cases_pass: the corpus of cases is not beside the repository\n";
    let _told = std::io::stderr().write_all(line.as_bytes());
    None
}

/// One case's files.
struct Case {
    name: String,
    policies: String,
    schema: String,
    entities: String,
    requests: Vec<Value>,
}

fn cases(archive: PathBuf) -> Vec<Case> {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
    assert!(status.success(), "the corpus can't be unpacked");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".cedar").map(str::to_owned));
    }
    let read = |name: &str, ending: &str| {
        std::fs::read_to_string(folder.path().join(format!("{name}{ending}"))).unwrap()
    };
    let case = |name: String| {
        let expected: Value = serde_json::from_str(&read(&name, ".json")).unwrap();
        Case {
            policies: read(&name, ".cedar"),
            schema: read(&name, ".cedarschema"),
            entities: read(&name, ".entities.json"),
            requests: expected["requests"].as_array().unwrap().clone(),
            name,
        }
    };
    names.into_iter().map(case).collect()
}

fn uid(value: &Value) -> EntityUid {
    EntityUid::from_json(value.clone()).unwrap()
}

fn ids(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Runs a case; how many requests it has.
fn run(case: &Case) -> usize {
    let set = PolicySet::from_str(&case.policies).unwrap();
    let (schema, _) = Schema::from_cedarschema_str(&case.schema).unwrap();
    let entities = Entities::from_json_str(&case.entities, Some(&schema)).unwrap();
    let index = Index::new(&set);
    for request in &case.requests {
        let action = uid(&request["action"]);
        let validated = request["validateRequest"] == true;
        let context = Context::from_json_value(request["context"].clone(), Some((&schema, &action))).unwrap();
        let made = Request::new(
            uid(&request["principal"]),
            action,
            uid(&request["resource"]),
            context,
            validated.then_some(&schema),
        );
        let answer = index.answer(&made.unwrap(), &entities, Depth::Explain);
        let (decision, reasons) = match (answer.forbids.is_empty(), answer.permits.is_empty()) {
            (false, _) => ("deny", answer.forbids),
            (true, true) => ("deny", Vec::new()),
            (true, false) => ("allow", answer.permits),
        };
        let told =
            (decision, reasons.into_iter().collect(), answer.errors.into_iter().map(|(id, _)| id).collect());
        let expected =
            (request["decision"].as_str().unwrap(), ids(&request["reason"]), ids(&request["errors"]));
        assert_eq!(told, expected, "{}: {}", case.name, request["description"]);
    }
    case.requests.len()
}

#[test]
fn cedars_own_cases_pass() {
    let Some(archive) = archive() else { return };
    let cases = cases(archive);
    let requests: usize = cases.iter().map(run).sum();
    assert!(cases.len() > 1000 && requests > 10_000, "only {} cases with {requests} requests", cases.len());
}
