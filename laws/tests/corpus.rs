//! Every law holds for every file of its corpus.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::Path;

use tidegate_laws::LAWS;

/// The largest file; a corpus is read by people, too.
const SIZE_MAX: usize = 8 * 1024;

#[test]
fn every_law_holds_for_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let corpora = root.join("testdata/fuzz");
    for (name, law) in LAWS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpora.join(name)).unwrap() {
            let file = entry.unwrap().path();
            let bytes = std::fs::read(&file).unwrap();
            assert!(bytes.len() <= SIZE_MAX, "{}: make it smaller", file.display());
            let held = std::panic::catch_unwind(|| law(&bytes));
            assert!(held.is_ok(), "the law `{name}` does not hold for {}", file.display());
            count += 1;
        }
        assert!(count >= 3, "the corpus of `{name}` has only {count} files");
    }
}

#[test]
fn every_law_is_fuzzed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let names = |folder: &str, end: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(end, "")).collect()
    };
    let laws: BTreeSet<String> = LAWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/fuzz_targets", ".rs"), laws);
    assert_eq!(names("testdata/fuzz", "/"), laws);
}
