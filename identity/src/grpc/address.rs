//! Where daemons listen and are found: over TCP, or on a Unix socket of the same host.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Before the path of a Unix socket, in text.
const UNIX: &str = "unix:";
/// Who may connect: the user that listens.
const SOCKET_MODE: u32 = 0o600;

/// A connection over either.
pub(super) type Stream = Either<TcpStream, UnixStream>;

/// An address. As text `127.0.0.1:7001` or `unix:/run/policyd.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an IP address with a port, such as `127.0.0.1:7001`, or `unix:` and the path of a socket")]
pub struct AddressError;

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds `address`; port 0 takes a free one. A Unix socket may be used by this user alone; one that nobody
/// listens on any more, as after a crash, is replaced.
///
/// # Errors
/// When it can't be bound.
pub async fn bind(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Tcp(address) => TcpListener::bind(address).await?.try_into(),
        Address::Unix(path) => {
            remove_if_dead(path).await?;
            let socket = UnixListener::bind(path)?;
            let listener = Listener { socket: Socket::Unix(socket), address: address.clone() };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
            Ok(listener)
        }
    }
}

/// A socket outlives the process that made it.
async fn remove_if_dead(path: &Path) -> io::Result<()> {
    let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket
        && UnixStream::connect(path)
            .await
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

impl Address {
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).await.map(Either::Right),
        }
    }
}

impl Listener {
    /// The address bound, with its real port.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection, and where it comes from, if that has an address.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%remote, %error, "can't set TCP_NODELAY");
                }
                Ok((Either::Left(stream), Some(remote)))
            }
            Socket::Unix(listener) => {
                let (stream, _unnamed) = listener.accept().await?;
                Ok((Either::Right(stream), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "can't remove the socket");
        }
    }
}

impl TryFrom<TcpListener> for Listener {
    type Error = io::Error;
    fn try_from(listener: TcpListener) -> io::Result<Self> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Self { socket: Socket::Tcp(listener), address })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(UNIX) {
            Some("") => Err(AddressError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_error| AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["127.0.0.1:7001", "[::1]:80", "unix:/run/policyd.sock", "unix:policyd.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "localhost:80", "127.0.0.1", "unix:", "/run/policyd.sock"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_its_users_alone_goes_with_its_listener_and_replaces_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        let listener = bind(&address).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert_eq!(bind(&address).await.unwrap_err().kind(), io::ErrorKind::AddrInUse, "it is in use");
        drop(listener);
        assert!(!path.exists());
        // As a crash leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&address).await.unwrap());
        std::fs::write(&path, "no socket").unwrap();
        assert!(bind(&address).await.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "no socket");
    }
}
