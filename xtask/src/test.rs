//! Runs every test of the workspace, with the programs that some of them use.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::programs;

/// Installs what is missing, then runs `cargo test --workspace` with `arguments` and answers its exit code.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    let unpacked = root.join("target/programs");
    programs::install_missing(&unpacked);
    let given: Vec<&str> =
        ["test", "--workspace"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    println!("$ cargo {}", given.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(given)
        .env("PATH", programs::search_path(&unpacked)?)
        .status()
        .context("cargo can't be run")?;
    // Without a code it was ended by a signal, which is no success either.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
