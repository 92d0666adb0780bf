//! Messages and sockets, from one process to another of the same user.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use daemon::state_dir;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The longest message, in bytes: a certificate chain takes a few thousand.
const MESSAGE_MAX: u32 = 256 * 1024;
/// How many sockets pass at once. The kernel takes 253.
const BATCH: usize = 64;
const SPACE: usize = rustix::cmsg_space!(ScmRights(BATCH));
/// The byte that sockets travel with.
const MARK: u8 = b's';

/// A connection to a process of the same user.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// Makes the folder of `path`, unless it is there.
///
/// # Errors
/// When it is not this user's, who alone may enter it.
pub(super) fn prepare_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    state_dir::make(folder)?;
    let metadata = fs::metadata(folder)?;
    let is_private = metadata.mode() & 0o077 == 0;
    if metadata.uid() == rustix::process::geteuid().as_raw() && is_private {
        return Ok(());
    }
    let why = format!("`{}` has to be this user's alone: `chmod 700` it", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

impl Channel {
    /// Over `stream`, if its other end is of the same user.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the other process is another user's",
            ));
        }
        Ok(Self(stream))
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.0.write_all(&[length.to_be_bytes().as_slice(), &bytes].concat()).await
    }

    pub(super) async fn receive<M: DeserializeOwned>(&mut self) -> io::Result<M> {
        let length = self.0.read_u32().await?;
        if length > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.0.read_exact(&mut bytes).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(super) async fn send_sockets(&self, sockets: &[OwnedFd]) -> io::Result<()> {
        for batch in sockets.chunks(BATCH) {
            let batch: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
            let send = || {
                let mut space = [MaybeUninit::uninit(); SPACE];
                let mut with = SendAncillaryBuffer::new(&mut space);
                if !with.push(SendAncillaryMessage::ScmRights(&batch)) {
                    return Err(io::Error::other("too many sockets at once"));
                }
                Ok(sendmsg(&self.0, &[IoSlice::new(&[MARK])], &mut with, SendFlags::NOSIGNAL)?)
            };
            self.0.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }

    /// As many as the other side has said that it sends.
    pub(super) async fn receive_sockets(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        while sockets.len() < count {
            let receive = || {
                let (mut mark, mut space) = ([0], [MaybeUninit::uninit(); SPACE]);
                let mut with = RecvAncillaryBuffer::new(&mut space);
                let flags = RecvFlags::CMSG_CLOEXEC;
                let read = recvmsg(&self.0, &mut [IoSliceMut::new(&mut mark)], &mut with, flags)?.bytes;
                let mut batch = Vec::new();
                for message in with.drain() {
                    if let RecvAncillaryMessage::ScmRights(sockets) = message {
                        batch.extend(sockets);
                    }
                }
                Ok((read, batch))
            };
            let (read, batch) = self.0.async_io(Interest::READABLE, receive).await?;
            if read == 0 || batch.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            sockets.extend(batch);
        }
        Ok(sockets)
    }
}
