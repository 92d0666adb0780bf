//! The `nft` program, which alone changes the kernel's rules.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::ruleset::TABLE;

/// Why the kernel's rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no such program.
    #[error("there is no `nft` in PATH: it is in the package `nftables` (`apt-get install nftables`)")]
    Missing,
    /// It could not be started or written to.
    #[error("`nft` can't be run: {0}")]
    Io(#[from] io::Error),
    /// Only root may do this.
    #[error("only root, or who has CAP_NET_ADMIN, may see and change what is redirected: try `sudo`")]
    NotPermitted,
    /// It failed.
    #[error("`nft` failed: {0}")]
    Failed(String),
    /// It said what we can't read.
    #[error("`nft` gave no JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Has `nft` do all of `ruleset`, or nothing of it.
///
/// # Errors
/// When it can't; then nothing was changed.
pub fn apply(ruleset: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawned)?;
    // Dropped at the end of the statement, which ends what `nft` reads. If it did not read all, it says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(ruleset.as_bytes()));
    checked(child.wait_with_output()?)?;
    Ok(written?)
}

/// What is in our table, as `nft` says it; nothing if there is no such table.
///
/// # Errors
/// When it can't be read.
pub fn list() -> Result<Option<Value>, NftError> {
    let tables = ask(&["list", "tables"])?;
    let objects = tables.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name =
        |table: &Value| Some(format!("{} {}", table.get("family")?.as_str()?, table.get("name")?.as_str()?));
    let tables = objects.iter().filter_map(|object| name(object.get("table")?));
    if !tables.into_iter().any(|table| table == TABLE) {
        return Ok(None);
    }
    let ours: Vec<&str> = ["list", "table"].into_iter().chain(TABLE.split(' ')).collect();
    ask(&ours).map(Some)
}

fn ask(question: &[&str]) -> Result<Value, NftError> {
    let output = Command::new("nft")
        .args(["--json", "--numeric"])
        .args(question)
        .stdin(Stdio::null())
        .output()
        .map_err(spawned)?;
    Ok(serde_json::from_slice(&checked(output)?)?)
}

fn spawned(error: io::Error) -> NftError {
    if error.kind() == io::ErrorKind::NotFound { NftError::Missing } else { NftError::Io(error) }
}

/// What a run has printed, if it went well.
fn checked(output: Output) -> Result<Vec<u8>, NftError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ermission denied") || said.contains("not permitted") || said.contains("must be root") {
        return Err(NftError::NotPermitted);
    }
    let said = said.trim();
    Err(NftError::Failed(if said.is_empty() { output.status.to_string() } else { said.to_owned() }))
}
