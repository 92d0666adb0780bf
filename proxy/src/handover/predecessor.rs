//! The successor's side: what it takes over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use identity::succession::{Granted, Successor};
use tokio::net::UnixStream;

use super::channel::{Channel, prepare_folder};
use super::{Hello, Offer, PATIENCE, Role, Serving, VERSION};

/// The proxy in office, which waits for us to serve.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    sockets: Vec<(Role, TcpListener)>,
    identity: (Successor, Granted),
}

impl Predecessor {
    /// Asks the proxy that listens at `path` for its place, for `instance`; none if nobody does.
    ///
    /// # Errors
    /// When it refuses, or does not answer. It stays in office then.
    pub(crate) async fn ask(path: &Path, instance: &str) -> io::Result<Option<Self>> {
        prepare_folder(path)?;
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let asked = tokio::time::timeout(PATIENCE, Self::ask_over(Channel::new(stream)?, instance));
        asked.await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into())).map(Some)
    }

    async fn ask_over(mut channel: Channel, instance: &str) -> io::Result<Self> {
        let successor = Successor::new().map_err(io::Error::other)?;
        let (instance, csr) = (instance.to_owned(), successor.csr().to_vec());
        channel.send(&Hello { version: VERSION, instance, csr }).await?;
        let (granted, roles) = match channel.receive().await? {
            Offer::Given { granted, roles } => (granted, roles),
            Offer::Refused(why) => return Err(io::Error::other(why)),
        };
        let sockets = channel.receive_sockets(roles.len()).await?;
        let sockets = roles.into_iter().zip(sockets.into_iter().map(TcpListener::from)).collect();
        Ok(Self { channel, sockets, identity: (successor, granted) })
    }

    /// Those of its sockets that listen at `wanted`; port 0 is any port.
    pub(crate) fn take(&mut self, role: Role, wanted: SocketAddr) -> Vec<TcpListener> {
        let fits = |&mut (of, ref socket): &mut (Role, TcpListener)| {
            let is_wanted =
                |at: SocketAddr| at.ip() == wanted.ip() && [at.port(), 0].contains(&wanted.port());
            of == role && socket.local_addr().is_ok_and(is_wanted)
        };
        self.sockets.extract_if(.., fits).map(|(_, socket)| socket).collect()
    }

    /// The certificate that it got for us, with the way to tell it that we serve.
    pub(crate) fn into_parts(self) -> ((Successor, Granted), Waiting) {
        (self.identity, Waiting(self.channel))
    }
}

/// The predecessor, which has given all it has.
#[derive(Debug)]
pub(crate) struct Waiting(Channel);

impl Waiting {
    /// We serve: it may go.
    pub(crate) async fn relieve(mut self) -> io::Result<()> {
        self.0.send(&Serving { process: std::process::id() }).await
    }
}

/// There is no socket, or its process has ended.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
