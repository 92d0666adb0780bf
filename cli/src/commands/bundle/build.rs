//! `tidegate bundle build`

use std::fs::Permissions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use daemon::{Clock, Finding, Findings};
use jiff::Timestamp;
use policyd::bundle::{Bundle, rules};
use policyd::delivery::{Archive, Content, Manifest, SigningKey, archive};
use policyd::handlers::Handlers;
use serde_json::json;

use super::super::serve;
use super::{Format, Outcome, print, text, value};

/// Pack a bundle into one signed file
///
/// Checks the bundle first, and packs none with a mistake. All files in and below the folder are packed, hidden ones
/// excepted. The same files, key, time and serial give the same bytes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate bundle build policies/bookinfo --sign release.key.pem -o bookinfo.tgb
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) tidegate bundle build policies/bookinfo \\
      --serial $(git rev-list --count HEAD) --sign release.key.pem -o bookinfo.tgb

Exit codes: 0 packed, 1 the bundle has mistakes, 2 it can't be read or written.")]
pub(in crate::commands) struct Build {
    /// The bundle's folder, which holds mesh.yaml
    bundle: PathBuf,
    /// The private key to sign with: Ed25519, PEM
    #[arg(long, value_name = "KEY")]
    sign: PathBuf,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What people call the bundle; the folder's name unless given
    #[arg(long)]
    name: Option<String>,
    /// Has to grow from build to build; the time in milliseconds unless given
    #[arg(long, value_name = "NUMBER")]
    serial: Option<u64>,
    /// When it was built, in seconds since 1970; now unless given
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    created: Option<i64>,
    /// How to print what was packed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Build {
    pub(super) fn run(self) -> Result<Outcome> {
        let key = SigningKey::load(&self.sign)?;
        let content = Content::read(&self.bundle)?;
        let findings = match Bundle::load(&content.files(&self.bundle)?) {
            Ok(bundle) => {
                let mut findings = bundle.warnings.clone();
                findings.merge(missing_files(&bundle, &content)?);
                findings
            }
            Err(findings) => findings,
        };
        if findings.has_errors() {
            self.print(&findings, None);
            return Ok(Outcome::Findings);
        }
        let bytes = archive::build(&self.manifest(&content)?, &content, &key)?;
        write(&self.output, &bytes).with_context(|| format!("can't write `{}`", self.output.display()))?;
        self.print(&findings, Some(&Archive::look(&bytes)?));
        Ok(Outcome::Clean)
    }

    fn manifest(&self, content: &Content) -> Result<Manifest> {
        let now = Clock::system().now();
        let created =
            self.created.map_or(Ok(now), Timestamp::from_second).context("`--created` is out of range")?;
        let created = Timestamp::from_second(created.as_second())?;
        let serial = match (self.serial, self.created) {
            (Some(serial), _) => serial,
            (None, Some(_)) => u64::try_from(created.as_millisecond())?,
            (None, None) => u64::try_from(now.as_millisecond())?,
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                self.bundle.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
        };
        Ok(Manifest::new(name, created, serial, content)?)
    }

    fn print(&self, findings: &Findings, built: Option<&Archive>) {
        let shown = self.output.display();
        print(&match (self.format, built) {
            (Format::Json, built) => {
                json!({ "findings": findings.to_json(), "archive": built.map(value) }).to_string()
            }
            (Format::Text, built) => {
                let found = findings.render(std::io::stdout().is_terminal());
                match built {
                    Some(archive) => format!("{found}{}\nwritten  {shown}", text(archive)),
                    None => format!(
                        "{found}{}: no archive was written",
                        findings.summary(&self.bundle.display().to_string())
                    ),
                }
            }
        });
    }
}

/// Starts the check adapters among nothing but the packed files: whatever they then lack may be lacking where the
/// archive is used as well. A warning only, for absolute names may lead to files of that machine.
fn missing_files(bundle: &Bundle, content: &Content) -> Result<Findings> {
    let mut findings = Findings::new();
    if bundle.rules.handlers.is_empty() {
        return Ok(findings);
    }
    let folder = tempfile::tempdir().context("no temporary folder")?;
    content.write(folder.path()).context("the temporary folder can't be written")?;
    let unpacked = Bundle::load(&content.files(folder.path())?)?;
    serve::on_runtime(async {
        match Handlers::start(&unpacked).await {
            Ok(handlers) => handlers.close().await,
            Err(missing) => findings.extend(missing.iter().map(|finding| {
                let message = finding.message.replace(&format!("{}/", folder.path().display()), "");
                Finding::in_file(rules::FILE, message).as_warning().with_help(
                    "it has to be a file in the bundle's folder, not hidden, or one of the machine that policyd runs on",
                )
            })),
        }
        Ok(Outcome::Clean)
    })?;
    Ok(findings)
}

/// Whoever watches the file sees the old archive or the new one.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let readable = Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(".bundle-").permissions(readable).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
