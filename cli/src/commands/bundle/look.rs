//! `tidegate bundle verify`, `show` and `unpack`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::presets;
use policyd::delivery::archive::ArchiveError;
use policyd::delivery::{Archive, TrustedKeys, archive};
use serde_json::json;

use super::{Format, Outcome, print, text, value};
use crate::overview::{table, unpadded};

/// Is an archive whole, and signed by one of these keys?
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate bundle verify bookinfo.tgb --key release.pub.pem
  tidegate bundle verify bookinfo.tgb --key this-year.pub.pem --key next-year.pub.pem

Exit codes: 0 it is, 1 it is not, 2 it or a key can't be read.")]
pub(in crate::commands) struct Verify {
    /// The archive
    archive: PathBuf,
    /// A public key to trust; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Show what an archive holds
///
/// Whoever made it: without a key its signature is not verified.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate bundle show bookinfo.tgb
  tidegate bundle show bookinfo.tgb --format json | jq '.files | keys'
  tar -xOf bookinfo.tgb acl.cedar                 an archive is a tar

Exit codes: 0 shown, 1 it is no whole archive, or not signed by these keys, 2 it or a key can't be read.")]
pub(in crate::commands) struct Show {
    /// The archive
    archive: PathBuf,
    /// A public key to trust; may be given several times
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Verify an archive, then write its files into a new folder
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tidegate bundle unpack bookinfo.tgb bookinfo --key release.pub.pem

Exit codes: 0 unpacked, 1 it can't be trusted, 2 it or a key can't be read, or the folder is there.")]
pub(in crate::commands) struct Unpack {
    /// The archive
    archive: PathBuf,
    /// The folder to make
    folder: PathBuf,
    /// A public key to trust; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// How to print what was unpacked
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Verify {
    pub(super) fn run(self) -> Result<Outcome> {
        let opened = open(&self.archive, &self.key)?;
        print(&match (self.format, &opened) {
            (Format::Text, Ok(archive)) => format!("{}\nverified", text(archive)),
            (Format::Json, Ok(archive)) => json!({ "verified": true, "archive": value(archive) }).to_string(),
            (format, Err(error)) => refusal(&self.archive, error, format),
        });
        Ok(if opened.is_ok() { Outcome::Clean } else { Outcome::Findings })
    }
}

impl Show {
    pub(super) fn run(self) -> Result<Outcome> {
        let verified = !self.key.is_empty();
        let opened = if verified { open(&self.archive, &self.key)? } else { look(&self.archive)? };
        let archive = match &opened {
            Ok(archive) => archive,
            Err(error) => {
                print(&refusal(&self.archive, error, self.format));
                return Ok(Outcome::Findings);
            }
        };
        print(&match self.format {
            Format::Text => {
                let mut files = table(presets::NOTHING, ["file", "bytes", "SHA-256"]);
                for (name, entry) in &archive.manifest.files {
                    files.add_row([name.to_string(), entry.size.to_string(), entry.sha256.to_string()]);
                }
                let note = if verified { "verified" } else { "not verified: say `--key FILE`" };
                format!("{}\n{note}\n\n{}", text(archive), unpadded(&files))
            }
            Format::Json => {
                let mut shown = value(archive);
                if let Some(fields) = shown.as_object_mut() {
                    fields.insert("verified".to_owned(), verified.into());
                }
                serde_json::to_string_pretty(&shown)?
            }
        });
        Ok(Outcome::Clean)
    }
}

impl Unpack {
    pub(super) fn run(self) -> Result<Outcome> {
        let archive = match open(&self.archive, &self.key)? {
            Ok(archive) => archive,
            Err(error) => {
                print(&refusal(&self.archive, &error, self.format));
                return Ok(Outcome::Findings);
            }
        };
        let shown = self.folder.display();
        ensure!(!self.folder.exists(), "`{shown}` is there already: give the name of a new folder");
        archive.content.write(&self.folder).with_context(|| format!("`{shown}` can't be written"))?;
        print(&match self.format {
            Format::Text => format!("{}\nunpacked {shown}", text(&archive)),
            Format::Json => {
                json!({ "verified": true, "archive": value(&archive), "folder": self.folder }).to_string()
            }
        });
        Ok(Outcome::Clean)
    }
}

/// What can't be read is an error; what can't be trusted is an answer.
fn open(path: &Path, keys: &[PathBuf]) -> Result<Result<Archive, ArchiveError>> {
    let trusted = TrustedKeys::load(keys)?;
    Ok(Archive::open(&archive::read(path).with_context(|| path.display().to_string())?, &trusted))
}

fn look(path: &Path) -> Result<Result<Archive, ArchiveError>> {
    Ok(Archive::look(&archive::read(path).with_context(|| path.display().to_string())?))
}

fn refusal(path: &Path, error: &ArchiveError, format: Format) -> String {
    match format {
        Format::Text => format!("{}: {error}", path.display()),
        Format::Json => json!({ "verified": false, "why": error.to_string() }).to_string(),
    }
}
