//! The processes that a measurement needs: started on their processors, waited for, and ended with it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::processor;

/// How long a process may take until it is ready.
const READY: Duration = Duration::from_secs(60);
/// How often it is asked.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long the answer to such a question may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A process of ours. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    /// Where its output goes: told when it fails.
    log: PathBuf,
    /// Where it tells of itself, once it is ready.
    admin: Option<SocketAddr>,
}

impl Daemon {
    /// Starts `program` on `processors`; its output goes to the file `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: &[A],
        processors: &[usize],
        log: PathBuf,
    ) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("`{}` can't be written", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = processor::on(processors, || command.spawn())?
            .with_context(|| format!("`{}` can't be run", program.display()))?;
        Ok(Self { child, log, admin: None })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `path` at its admin address answers 200.
    pub(crate) fn until_ready(&mut self, admin: SocketAddr, path: &str) -> Result<()> {
        self.until(&format!("`{path}` is not answered with 200"), || {
            get(admin, path).is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
        })?;
        self.admin = Some(admin);
        Ok(())
    }

    /// The value of the metric whose line starts with `name`.
    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        let text = get(self.admin.context("it has told of no admin address")?, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.with_context(|| format!("there is no metric `{name}`"))?;
        value.trim().parse().with_context(|| format!("`{name}` is `{value}`"))
    }

    /// Waits until it listens at `address`.
    pub(crate) fn until_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.until(&format!("nobody listens at {address}"), || TcpStream::connect(address).is_ok())
    }

    fn until(&mut self, what: &str, is_ready: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + READY;
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("a process has ended with {status}:\n{}", self.last_words());
            }
            if Instant::now() > end {
                bail!("{what} after {} s:\n{}", READY.as_secs(), self.last_words());
            }
            std::thread::sleep(ASK_AGAIN);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left of it then.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a plain GET is answered with, head included.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Addresses on loopback that nobody has at the moment.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    // All are held until all are known, so that no two are the same.
    let held = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses.try_into().map_err(|_addresses| anyhow::anyhow!("too few free ports"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_differ() {
        let [one, two, three] = free_addresses().unwrap();
        assert!(one != two && two != three && one != three);
    }

    #[test]
    fn a_process_that_ends_too_early_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-c", "echo no such file; exit 3"];
        let mut daemon =
            Daemon::start(Path::new("/bin/sh"), &arguments, &[0], folder.path().join("log")).unwrap();
        let [nobody] = free_addresses().unwrap();
        let error = daemon.until_listening(nobody).unwrap_err().to_string();
        assert!(error.contains("no such file") && error.contains('3'), "{error}");
    }
}
