//! The side of the proxy that serves, and waits for its successor.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use daemon::{Clock, Lifecycle, supervisor};
use identity::client::Ca;
use identity::{Source, succession};
use tokio::net::{UnixListener, UnixStream};

use super::channel::{Channel, prepare_folder};
use super::{GRACE, Hello, Offer, PATIENCE, Role, Serving, VERSION};

/// Everything that a successor gets.
#[derive(Debug)]
pub(crate) struct Office {
    pub instance: String,
    pub ca: Ca,
    pub clock: Clock,
    pub source: Source,
    /// Each listening socket once more, in the order of `sockets`.
    pub roles: Vec<Role>,
    pub sockets: Vec<OwnedFd>,
}

/// Listens at `path`, where the predecessor may have listened before.
fn listen(path: &Path) -> io::Result<UnixListener> {
    prepare_folder(path)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    // At no time is nobody there.
    fs::rename(&fresh, path)?;
    Ok(listener)
}

impl Office {
    /// Waits at `path` for a successor, until there is one that serves, or until the proxy stops.
    ///
    /// # Errors
    /// When nobody can be waited for there.
    pub(crate) fn open(self, path: &Path, lifecycle: &Lifecycle) -> io::Result<()> {
        let listener = listen(path)?;
        let life = lifecycle.clone();
        drop(lifecycle.spawn(async move {
            tokio::select! {
                () = life.stopping() => {}
                () = self.wait(&listener, &life) => {}
            }
        }));
        Ok(())
    }

    async fn wait(&self, listener: &UnixListener, lifecycle: &Lifecycle) {
        while let Ok((stream, _)) = listener.accept().await {
            let handed = tokio::time::timeout(PATIENCE, self.hand_over(stream, lifecycle));
            match handed.await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "a process that was to take this one's place did not");
                }
            }
        }
    }

    async fn hand_over(&self, stream: UnixStream, lifecycle: &Lifecycle) -> io::Result<()> {
        let mut channel = Channel::new(stream)?;
        let Hello { version, instance, csr } = channel.receive().await?;
        if version != VERSION || instance != self.instance {
            let why = format!("this is `{}`, and hands over by version {VERSION}", self.instance);
            channel.send(&Offer::Refused(why.clone())).await?;
            return Err(io::Error::other(why));
        }
        // Else our own renewal might put its certificate out of use.
        let _held = self.source.hold().await;
        let granted = match succession::grant(&self.ca, &self.clock, &self.source, csr).await {
            Ok(granted) => granted,
            Err(error) => {
                channel.send(&Offer::Refused(error.to_string())).await?;
                return Err(io::Error::other(error));
            }
        };
        channel.send(&Offer::Given { granted, roles: self.roles.clone() }).await?;
        channel.send_sockets(&self.sockets).await?;
        let Serving { process } = channel.receive().await?;
        tracing::info!(process, "another process has taken this one's place");
        supervisor::replaced_by(process);
        lifecycle.retire(GRACE);
        Ok(())
    }
}
