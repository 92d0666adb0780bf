//! `tidegate policy`

mod access;
mod diff;
mod explain;
mod fmt;
mod replay;
mod request;
mod test;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use daemon::Findings;
use policyd::author::lint::lint;
use policyd::bundle::{Bundle, Files};

use super::{Format, Outcome, print};

/// Tools for policy authors
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    Check(Check),
    Test(test::Test),
    Explain(Box<explain::Explain>),
    Replay(replay::Replay),
    Diff(diff::Diff),
    WhoCan(Box<access::WhoCan>),
    WhatCan(Box<access::WhatCan>),
    Fmt(fmt::Fmt),
}

/// Find every mistake in a bundle, without running it
///
/// Reads all files of the bundle, checks the policies strictly against the schema, and tells each mistake with
/// file, line, column and fix. Of a bundle without mistakes it tells what its author most likely meant otherwise: each
/// such finding bears the name of a lint, and is accepted by `@allow("name")` on the policy.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy check policies/bookinfo
  tidegate policy check --format json policies/bookinfo | jq '.findings[].message'

Exit codes: 0 no findings, 1 findings, 2 the bundle can't be read.")]
pub(super) struct Check {
    /// The bundle's folder, which holds mesh.yaml
    bundle: PathBuf,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Policy {
    pub(super) fn run(self) -> Result<Outcome> {
        match self {
            Self::Check(check) => check.run(),
            Self::Test(test) => test.run(),
            Self::Explain(explain) => explain.run(),
            Self::Replay(replay) => replay.run(),
            Self::Diff(diff) => diff.run(),
            Self::WhoCan(who_can) => who_can.run(),
            Self::WhatCan(what_can) => what_can.run(),
            Self::Fmt(fmt) => fmt.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<Outcome> {
        let files = Files::read(&self.bundle)?;
        let (findings, loaded) = match Bundle::load(&files) {
            Ok(bundle) => (lint(&bundle, &files), Some(bundle)),
            Err(findings) => (findings, None),
        };
        print(&match self.format {
            Format::Text => self.text(&findings, loaded.as_ref()),
            Format::Json => serde_json::json!({ "findings": findings.to_json() }).to_string(),
        });
        Ok(if findings.is_empty() { Outcome::Clean } else { Outcome::Findings })
    }

    fn text(&self, findings: &Findings, bundle: Option<&Bundle>) -> String {
        let summary = findings.summary(&self.bundle.display().to_string());
        let counts = bundle.map(|bundle| {
            let policies = bundle.policies.len();
            format!(
                ": {} services, {policies} policies, {} limits",
                bundle.mesh.services.len(),
                bundle.limits.len()
            )
        });
        let color = std::io::stdout().is_terminal();
        format!("{}{summary}{}", findings.render(color), counts.unwrap_or_default())
    }
}
