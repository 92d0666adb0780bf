//! What was measured on, and what.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::envoy;

/// The machine, and the versions of what ran on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    pub tidegate: String,
    pub envoy: String,
    pub rustc: String,
}

impl Machine {
    /// This one. Tidegate's program was `built` from the commit in a folder by a profile of Cargo, if that is known.
    pub(crate) fn this(built: Option<(&Path, &str)>, tidegate: &Path, envoy: Option<&Path>) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let built = built.and_then(|(root, profile)| {
            let commit =
                said(Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).current_dir(root))?;
            Some(format!("{commit}, {profile}"))
        });
        let program = said(Command::new(tidegate).arg("--version")).context("Tidegate tells no version")?;
        let rustc = said(Command::new("rustc").arg("--version")).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            processor: processor.map_or("?", |(_, name)| name).to_owned(),
            processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            // What a vendor adds says nothing to others.
            kernel: kernel.trim().split(['-', '+']).next().unwrap_or_default().to_owned(),
            tidegate: built.map_or_else(|| program.clone(), |built| format!("{program} ({built})")),
            envoy: envoy.map(envoy::version).transpose()?.unwrap_or_default(),
            rustc: rustc.split(" (").next().unwrap_or_default().to_owned(),
        })
    }
}

/// The first line that a program prints, if it can be run.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}
