//! `tidegate policy fmt`

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use daemon::Findings;
use policyd::author::format::formatted;
use policyd::bundle::Files;
use serde_json::json;

use super::super::{Format, Outcome, print};

/// Bring a bundle's Cedar files into their one form
///
/// It is the form that `cedar format` and editors give them; comments are kept. Each file is replaced whole, and none
/// if one of them can't be read.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy fmt policies/bookinfo           format the files
  tidegate policy fmt --check policies/bookinfo   only tell which ones differ

Exit codes: 0 all well, 1 with --check: a file differs, 2 a file can't be read.")]
pub(in crate::commands) struct Fmt {
    /// The bundle's folder
    bundle: PathBuf,
    /// Write nothing: list the files that are not in their form
    #[arg(long)]
    check: bool,
    /// How to print the list of files
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Fmt {
    pub(super) fn run(self) -> Result<Outcome> {
        let files = Files::read(&self.bundle)?;
        let cedar: Vec<(&String, &String)> =
            files.texts.iter().filter(|(name, _)| name.ends_with(".cedar")).collect();
        let mut findings = Findings::new();
        let mut changes: Vec<(&str, String)> = Vec::new();
        for (name, text) in &cedar {
            match formatted(name, text) {
                Ok(form) if form == **text => {}
                Ok(form) => changes.push((name, form)),
                Err(wrong) => findings.merge(wrong),
            }
        }
        if !findings.is_empty() {
            return Err(findings.into());
        }
        if !self.check {
            for (name, text) in &changes {
                replace(&self.bundle.join(name), text)
                    .with_context(|| format!("`{name}` can't be written"))?;
            }
        }
        let names: Vec<&str> = changes.iter().map(|(name, _)| *name).collect();
        print(&match self.format {
            Format::Text => self.text(&names, cedar.len()),
            Format::Json => json!({ "files": cedar.len(), "changed": names }).to_string(),
        });
        Ok(if self.check && !names.is_empty() { Outcome::Findings } else { Outcome::Clean })
    }

    fn text(&self, changed: &[&str], all: usize) -> String {
        let did = if self.check { "would change" } else { "changed" };
        let lines: String = changed.iter().map(|name| format!("{name}\n")).collect();
        format!("{lines}{} of {all} Cedar files {did}", changed.len())
    }
}

/// Puts `text` in the place of a file, so that whoever reads it sees the old text or the new one.
///
/// A link stays a link, and the file's permissions stay what they are.
fn replace(path: &Path, text: &str) -> Result<()> {
    let path = path.canonicalize()?;
    let folder = path.parent().context("it lies in no folder")?;
    // The name is one that a watcher of the bundle does not read.
    let mut file = tempfile::Builder::new().prefix(".fmt-").suffix("~").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::metadata(&path)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}
