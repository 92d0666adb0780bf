//! `tidegate bundle`

mod build;
mod history;
mod key;
mod look;

use anyhow::Result;
use clap::Subcommand;
use policyd::delivery::Archive;
use serde_json::{Value, json};

use super::{Format, Outcome, print};

/// Deliver bundles: signed archives, the history of what was in force, rollback
#[derive(Debug, Subcommand)]
pub(super) enum Bundle {
    Build(build::Build),
    Verify(look::Verify),
    Show(look::Show),
    Unpack(look::Unpack),
    Key(key::Key),
    History(history::History),
    Rollback(history::Rollback),
    Release(history::Release),
}

impl Bundle {
    pub(super) fn run(self) -> Result<Outcome> {
        match self {
            Self::Build(build) => build.run(),
            Self::Verify(verify) => verify.run(),
            Self::Show(show) => show.run(),
            Self::Unpack(unpack) => unpack.run(),
            Self::Key(key) => key.run(),
            Self::History(history) => history.run(),
            Self::Rollback(rollback) => rollback.run(),
            Self::Release(release) => release.run(),
        }
    }
}

/// What every command says of an archive: the same words and the same fields.
fn text(archive: &Archive) -> String {
    let manifest = &archive.manifest;
    format!(
        "name     {}\nserial   {}\ncreated  {}\nfiles    {}, {} bytes\ndigest   {}\nsigned   by key {}",
        manifest.name,
        manifest.serial,
        manifest.created,
        manifest.files.len(),
        manifest.size(),
        archive.digest(),
        archive.signature.key
    )
}

fn value(archive: &Archive) -> Value {
    let manifest = &archive.manifest;
    json!({
        "name": manifest.name,
        "serial": manifest.serial,
        "created": manifest.created,
        "digest": archive.digest(),
        "signed_by": archive.signature.key,
        "files": manifest.files,
    })
}
