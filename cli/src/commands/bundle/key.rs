//! `tidegate bundle key`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use policyd::delivery::SigningKey;
use serde_json::json;

use super::{Format, Outcome, print};

/// Make a key to sign archives with
///
/// Writes NAME.key.pem, the private half, which signs and is to be kept secret, and NAME.pub.pem, which policyd is
/// given. Keys made by `openssl genpkey -algorithm ed25519` are as good.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tidegate bundle key release")]
pub(in crate::commands) struct Key {
    /// What the files are called, a folder included
    name: String,
    /// How to print what was made
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Key {
    pub(super) fn run(self) -> Result<Outcome> {
        let key = SigningKey::generate()?;
        let private = self.write("key.pem", 0o600, &key.to_pem()?)?;
        let public = self.write("pub.pem", 0o644, &key.public().to_pem())?;
        let id = key.public().id();
        print(&match self.format {
            Format::Text => format!("key {id}\nwritten to {} and {}", private.display(), public.display()),
            Format::Json => json!({ "key": id, "private": private, "public": public }).to_string(),
        });
        Ok(Outcome::Clean)
    }

    /// A key that is there already is in use, and nobody could make it again.
    fn write(&self, end: &str, mode: u32, text: &str) -> Result<PathBuf> {
        let path = PathBuf::from(format!("{}.{end}", self.name));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("can't write `{}`", path.display()))?;
        Ok(path)
    }
}
