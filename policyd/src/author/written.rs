//! Bundles that tests write down, or take from `policies/`.

use std::path::Path;

use crate::bundle::{Bundle, Files};

/// Files by name and text.
pub(super) fn files(texts: &[(&str, &str)]) -> Files {
    let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Files { folder: "bundle".into(), texts: texts.collect() }
}

/// The bundle that files make. What is wrong with them fails the test.
pub(super) fn load(files: &Files) -> Bundle {
    Bundle::load(files).unwrap_or_else(|findings| panic!("{}", findings.render(false)))
}

/// The files of the sample.
pub(super) fn bookinfo() -> Files {
    Files::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bookinfo"))).unwrap()
}
