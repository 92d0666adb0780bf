//! `tidegate policy test`

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use policyd::author::coverage::{self, Coverage};
use policyd::author::unit_test::{self, Outcome as Ran, UnitTest};
use policyd::bundle::{Bundle, Files};

use super::super::{Format, Outcome, print};
use crate::coverage::{page::page, summary, text};
use crate::progress::counted;

/// Run the tests of a bundle: requests, and what the policies are expected to say of them
///
/// Reads tests/*.yaml of the bundle. Policies, limits and rules are evaluated as for a real request; check adapters
/// are not asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy test policies/bookinfo
  tidegate policy test --filter ratings policies/bookinfo
  tidegate policy test --coverage --coverage-min 90 policies/bookinfo
  tidegate policy test --coverage=html --coverage-out coverage.html policies/bookinfo
  tidegate policy test --format json policies/bookinfo | jq '.tests[] | select(.passed | not)'

A test:
  tests:
    - name: nobody outside reads ratings
      request: {service: ratings, path: /ratings/0}
      expect: {decision: deny}

Exit codes: 0 all pass, 1 a test fails or too little is covered, 2 the bundle or a test can't be read.")]
pub(in crate::commands) struct Test {
    /// The bundle's folder, which holds mesh.yaml and tests/
    bundle: PathBuf,
    /// Run only tests whose name holds this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Tell which policies the tests satisfy, and which parts of conditions they have seen true and false
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    coverage: Option<Form>,
    /// Where to write the coverage; needed for lcov and html
    #[arg(long, value_name = "FILE", requires = "coverage")]
    #[arg(required_if_eq_any([("coverage", "lcov"), ("coverage", "html")]))]
    coverage_out: Option<PathBuf>,
    /// Fail if less is covered
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    coverage_min: Option<f64>,
    /// How to print the results
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A form of coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Table,
    /// For genhtml, editors and CI systems.
    Lcov,
    /// A page that shows the sources.
    Html,
}

impl Test {
    pub(super) fn run(self) -> Result<Outcome> {
        let files = Files::read(&self.bundle)?;
        let bundle = Bundle::load(&files)?;
        let mut tests = unit_test::load(&bundle)?;
        if let Some(filter) = &self.filter {
            tests.retain(|test| test.name.contains(filter.as_str()));
            // A filter with a typing error must not pass for a success.
            ensure!(!tests.is_empty(), "no test's name holds `{filter}`: see the names with `--format json`");
        }
        let wanted = self.coverage.is_some() || self.coverage_min.is_some();
        let coverage = wanted.then(|| measured(&bundle, &files, &tests)).transpose()?;
        if let Some(coverage) = &coverage {
            self.write(coverage, &files)?;
        }
        let outcomes = unit_test::run(&bundle, tests);
        print(&match self.format {
            Format::Text => self.text(&outcomes, coverage.as_ref()),
            Format::Json => self.json(&outcomes, coverage.as_ref())?,
        });
        let clean =
            outcomes.iter().all(Ran::passed) && !coverage.is_some_and(|coverage| self.is_below(&coverage));
        Ok(if clean { Outcome::Clean } else { Outcome::Findings })
    }

    /// Writes the coverage into its file, if one is named.
    fn write(&self, coverage: &Coverage, files: &Files) -> Result<()> {
        let (Some(form), Some(path)) = (self.coverage, &self.coverage_out) else { return Ok(()) };
        let text = match form {
            Form::Table => text(coverage, false),
            Form::Lcov => coverage::lcov(coverage, &self.bundle),
            Form::Html => page(coverage, files, &self.bundle.display().to_string()),
        };
        std::fs::write(path, text).with_context(|| format!("`{}` can't be written", path.display()))
    }

    fn text(&self, outcomes: &[Ran], coverage: Option<&Coverage>) -> String {
        let color = std::io::stdout().is_terminal();
        let mut shown = unit_test::text(outcomes, &self.bundle.display().to_string(), color);
        let Some(coverage) = coverage else { return shown };
        shown.push('\n');
        if self.coverage == Some(Form::Table) && self.coverage_out.is_none() {
            shown.push_str(&text(coverage, color));
        } else {
            shown.push_str(&summary(coverage));
        }
        if let Some(least) = self.coverage_min.filter(|_| self.is_below(coverage)) {
            shown.push_str(&format!("too little is covered: {least} % are asked for\n"));
        }
        shown
    }

    fn json(&self, outcomes: &[Ran], coverage: Option<&Coverage>) -> Result<String> {
        let mut json = unit_test::json(outcomes);
        if let Some((json, coverage)) = json.as_object_mut().zip(coverage) {
            json.insert("coverage".to_owned(), coverage.json());
        }
        Ok(serde_json::to_string_pretty(&json)?)
    }

    fn is_below(&self, coverage: &Coverage) -> bool {
        self.coverage_min.is_some_and(|least| coverage.outcomes().percent() < least)
    }
}

fn measured(bundle: &Bundle, files: &Files, tests: &[UnitTest]) -> Result<Coverage> {
    let bar = counted("tests");
    bar.set_length(tests.len() as u64);
    let coverage = coverage::measure(bundle, files, bar.wrap_iter(tests.iter().map(|test| &test.attributes)));
    bar.finish_and_clear();
    Ok(coverage?)
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "write a number from 0 to 100".to_owned())
}
