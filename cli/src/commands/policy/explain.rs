//! `tidegate policy explain`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use daemon::config_file;
use model::{Attributes, Verdict};
use policyd::author::explain::{self, explain};
use policyd::author::unit_test;
use policyd::bundle::{Bundle, Files};

use super::super::{Format, Outcome, print};
use super::request::{Options, told};

/// Why would a request be allowed or denied?
///
/// Prints the decision, then each policy that concerns the service: whether it is satisfied and, if not, which parts
/// of it do not hold, where they stand, and the values that they read; then what would have to change for the request
/// to be decided the other way. Check adapters are not asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy explain policies/bookinfo --service ratings --path /ratings/0
  tidegate policy explain policies/bookinfo --service reviews --path /reviews/0 \\
      --principal spiffe://bookinfo.example/ns/bookinfo/sa/productpage --header end-user=jason
  tidegate policy explain policies/bookinfo --test 'the page writes no reviews'
  tidegate policy explain policies/bookinfo --request request.yaml --format json

A file for --request holds what stands under `request:` in a test.

Exit codes: 0 allowed, 1 denied, 2 the bundle or the request can't be read.")]
pub(in crate::commands) struct Explain {
    /// The bundle's folder, which holds mesh.yaml
    bundle: PathBuf,
    /// A file that holds the request, instead of the options below
    #[arg(long, value_name = "FILE", required_unless_present_any = ["service", "test"], conflicts_with = "Options")]
    request: Option<PathBuf>,
    /// A test of the bundle whose request is meant, by its name or its place, such as tests/acl.yaml:14
    #[arg(long, value_name = "NAME", conflicts_with_all = ["request", "Options"])]
    test: Option<String>,
    #[command(flatten)]
    options: Options,
    /// How to print the explanation
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Explain {
    pub(super) fn run(self) -> Result<Outcome> {
        let files = Files::read(&self.bundle)?;
        let bundle = Bundle::load(&files)?;
        let attributes = match (&self.request, &self.test) {
            (Some(path), _) => from_file(path, &bundle)?,
            (None, Some(wanted)) => unit_test::find(unit_test::load(&bundle)?, wanted)?.attributes,
            (None, None) => {
                self.options.text().attributes(&bundle.mesh).map_err(|mistakes| told(&mistakes))?
            }
        };
        let explanation = explain(&bundle, &files, &attributes)?;
        print(&match self.format {
            Format::Text => explain::text(&explanation, &files, std::io::stdout().is_terminal()),
            Format::Json => serde_json::to_string_pretty(&explain::json(&explanation))?,
        });
        Ok(match explanation.answer.decision {
            Verdict::Allow => Outcome::Clean,
            Verdict::Deny => Outcome::Findings,
        })
    }
}

fn from_file(path: &Path, bundle: &Bundle) -> Result<Attributes> {
    let name = path.display().to_string();
    let source = config_file::read(path, &name)?;
    Ok(unit_test::request(&name, &source, bundle)?)
}
