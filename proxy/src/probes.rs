//! Probes of an orchestrator, which has no certificate: a port of their own, in the clear, that asks the application by
//! GET for one of the paths that the configuration names, and for nothing else.
//!
//! A probe is told the status that came, and not a byte besides. It learns no more than whether the application is well,
//! and reaches nothing that it could not be trusted with.

use std::net::SocketAddr;
use std::time::Duration;

use api::config::Protocol;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::applied::Current;
use crate::config::ProxyProtocolVersion;
use crate::proxy_protocol::Greeting;

/// How long the application may take. Orchestrators give up after a second, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Which probes are let through, and where they come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Where they come in.
    pub listen: SocketAddr,
    /// What they may ask for: paths as they are sent, with their queries.
    pub paths: Vec<String>,
}

/// Asks the application.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    pub paths: Vec<String>,
    /// Where the application is, `host:port`.
    pub application: String,
    /// How it is told who calls, if it expects that.
    pub greets: Option<ProxyProtocolVersion>,
    /// The service that it provides.
    pub service: String,
    pub current: Current,
}

impl Prober {
    /// The answer to a request.
    pub(crate) async fn answer(self, method: Method, target: Uri) -> StatusCode {
        let asked = target.path_and_query().map(http::uri::PathAndQuery::as_str);
        let Some(path) = self.paths.iter().find(|path| Some(path.as_str()) == asked) else {
            return StatusCode::NOT_FOUND;
        };
        if method != Method::GET {
            return StatusCode::METHOD_NOT_ALLOWED;
        }
        match tokio::time::timeout(TIMEOUT, self.ask(path)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                tracing::debug!(path, %error, "the application did not answer a probe");
                StatusCode::SERVICE_UNAVAILABLE
            }
            Err(_late) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    async fn ask(&self, path: &str) -> anyhow::Result<StatusCode> {
        let mut stream = TcpStream::connect(&self.application).await?;
        if let Some(version) = self.greets {
            let own = stream.local_addr()?;
            stream.write_all(Greeting::new(version, own, stream.peer_addr()?).bytes()).await?;
        }
        let protocol = self.current.look().services.get(&self.service).map(|own| own.protocol);
        match protocol.unwrap_or_default() {
            Protocol::Http2 => {
                let (mut sender, connection) = h2::client::handshake(stream).await?;
                let request = Request::get(format!("http://{}{path}", self.application)).body(())?;
                let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
                Ok(sender.send_request(request, true)?.0.await?.status())
            }
            Protocol::Http1 | Protocol::Tcp => {
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                let request = Request::get(path)
                    .header(header::HOST, &self.application)
                    .header(header::CONNECTION, "close")
                    .body(Empty::<Bytes>::new())?;
                let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
                Ok(sender.send_request(request).await?.status())
            }
        }
    }
}
