//! `tidegate policy test`

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use policyd::unit_test::{self, Outcome as Ran};

use super::super::{Format, Outcome, print};
use super::load;

/// Run the tests of a bundle: requests, and what the policies are expected to say of them
///
/// Reads tests/*.yaml of the bundle. Policies, limits and rules are evaluated as for a real request; check adapters
/// are not asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy test policies/bookinfo
  tidegate policy test --filter ratings policies/bookinfo
  tidegate policy test --format json policies/bookinfo | jq '.tests[] | select(.passed | not)'

A test:
  tests:
    - name: nobody outside reads ratings
      request: {service: ratings, path: /ratings/0}
      expect: {decision: deny}

Exit codes: 0 all pass, 1 a test fails, 2 the bundle or a test can't be read.")]
pub(in crate::commands) struct Test {
    /// The bundle's folder, which holds mesh.yaml and tests/
    bundle: PathBuf,
    /// Run only tests whose name holds this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// How to print the results
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Test {
    pub(super) fn run(self) -> Result<Outcome> {
        let bundle = load(&self.bundle)?;
        let mut tests = unit_test::load(&bundle)?;
        if let Some(filter) = &self.filter {
            tests.retain(|test| test.name.contains(filter.as_str()));
            // A filter with a typing error must not pass for a success.
            ensure!(!tests.is_empty(), "no test's name holds `{filter}`: see the names with `--format json`");
        }
        let outcomes = unit_test::run(&bundle, tests);
        print(&match self.format {
            Format::Text => unit_test::text(&outcomes),
            Format::Json => serde_json::to_string_pretty(&unit_test::json(&outcomes))?,
        });
        Ok(if outcomes.iter().all(Ran::passed) { Outcome::Clean } else { Outcome::Findings })
    }
}
