//! Cedar's own integration tests: cases that lie beside the repository, where they exist.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use cedar_policy::EntityUid;
use serde_json::Value;

use crate::repository;

/// The archive of cases.
fn archive(test: &str) -> Option<PathBuf> {
    let file = repository::root().join("../shared/cedar-corpus/corpus-quarter.tar.xz");
    if file.is_file() {
        return Some(file);
    }
    let line = format!("SKIPPED {test}: the corpus of cases is not beside the repository\n");
    let _told = std::io::stderr().write_all(line.as_bytes());
    None
}

/// One case's files.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Its policies.
    pub policies: String,
    /// Its schema.
    pub schema: String,
    /// Its entities, as JSON.
    pub entities: String,
    /// Its requests, and what is expected of each.
    pub requests: Vec<Value>,
}

/// The cases, for the test called `test`; nothing, and a line that says so, where they are not.
pub fn cases(test: &str) -> Option<Vec<Case>> {
    let archive = archive(test)?;
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
    Some(names.into_iter().map(case).collect())
}

/// An entity.
pub fn uid(value: &Value) -> EntityUid {
    EntityUid::from_json(value.clone()).unwrap()
}

/// A list of policies' ids.
pub fn ids(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}
