//! The program that is measured: built here, or there already.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

/// Which program it is.
#[derive(Debug, Args)]
pub(crate) struct Program {
    /// With which profile of Cargo's Tidegate is built: `release`, or `dist` as it is shipped
    #[arg(long, value_name = "NAME", default_value = "dist")]
    profile: String,
    /// Use this program and the `tidegate-proxy` next to it, rather than build them
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Program {
    /// Where the program is that has everything; it is built first if it is to be.
    pub(crate) fn find(&self) -> Result<PathBuf> {
        if let Some(program) = &self.program {
            return Ok(program.clone());
        }
        println!("building Tidegate");
        let root = root()?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let arguments = ["build", "--profile", &self.profile, "--quiet", "--package", "tidegate"];
        let status = Command::new(cargo).args(arguments).current_dir(root).status()?;
        if !status.success() {
            bail!("`cargo {}` failed: {status}", arguments.join(" "));
        }
        Ok(root.join("target").join(&self.profile).join("tidegate"))
    }

    /// By which profile it is built; nothing if it was there.
    pub(crate) fn built(&self) -> Option<&str> {
        self.program.is_none().then_some(&self.profile)
    }
}

/// The repository's root.
pub(crate) fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate is in no repository")
}

/// A folder of the bench's own, which stays.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = root()?.join("target/bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
