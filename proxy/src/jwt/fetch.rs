//! Fetches a key set over HTTPS, or over HTTP from this host.
//!
//! Servers are believed by the roots of this host's system (`/etc/ssl/certs`, or `SSL_CERT_FILE`): those can be kept up
//! to date without a new proxy, and an authority of one's own can be among them. Redirects are not followed: where keys
//! come from is for the bundle to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::keys::SIZE_MAX;

/// How long all of it may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A key set as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub text: Bytes,
    /// How long it may be used without asking again, if the server said it.
    pub max_age: Option<Duration>,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// It took too long.
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    /// The URL is none to fetch keys from.
    #[error("keys are fetched by `https`, or by `http` from this host alone")]
    Url,
    /// TCP or TLS failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// HTTP failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It answered with something else.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// The body broke off, or is too large.
    #[error("the answer can't be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// There is no authority to believe a server by.
    #[error("this host has no root certificates; install `ca-certificates`, or set `SSL_CERT_FILE`")]
    NoRoots,
}

/// Where key sets are fetched from.
#[async_trait]
pub(crate) trait Source: std::fmt::Debug + Send + Sync {
    /// What is at `url` now.
    async fn fetch(&self, url: &str) -> Result<Fetched, FetchError>;
}

/// The network.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// The roots that servers are believed by; none: those of this host's system.
    roots: Option<RootCertStore>,
}

#[async_trait]
impl Source for Network {
    async fn fetch(&self, url: &str) -> Result<Fetched, FetchError> {
        match tokio::time::timeout(TIMEOUT, self.get(url)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout),
        }
    }
}

impl Network {
    async fn get(&self, url: &str) -> Result<Fetched, FetchError> {
        let url: Uri = url.parse().map_err(|_error| FetchError::Url)?;
        let host = url.host().ok_or(FetchError::Url)?.trim_matches(['[', ']']).to_owned();
        if url.scheme() == Some(&Scheme::HTTPS) {
            let stream = connect(&host, url.port_u16().unwrap_or(443), |_any| true).await?;
            let name = ServerName::try_from(host).map_err(|_error| FetchError::Url)?;
            let roots = match &self.roots {
                Some(roots) => roots.clone(),
                None => roots().await?,
            };
            get(TlsConnector::from(Arc::new(tls(roots)?)).connect(name, stream).await?, &url).await
        } else if url.scheme() == Some(&Scheme::HTTP) {
            let on_this_host = |address: &SocketAddr| address.ip().is_loopback();
            get(connect(&host, url.port_u16().unwrap_or(80), on_this_host).await?, &url).await
        } else {
            Err(FetchError::Url)
        }
    }
}

async fn connect(
    host: &str,
    port: u16,
    may_be: impl Fn(&SocketAddr) -> bool,
) -> Result<TcpStream, FetchError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.filter(may_be).collect();
    if addresses.is_empty() {
        return Err(FetchError::Url);
    }
    Ok(TcpStream::connect(addresses.as_slice()).await?)
}

/// Read anew each time, a few times an hour, so that changes of the system's roots are met.
async fn roots() -> Result<RootCertStore, FetchError> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(std::io::Error::other)?;
    let mut roots = RootCertStore::empty();
    let (added, _unparsable) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 { Err(FetchError::NoRoots) } else { Ok(roots) }
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, FetchError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(std::io::Error::other)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn get<IO>(stream: IO, url: &Uri) -> Result<Fetched, FetchError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let request = Request::get(target)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "tidegate")
        .body(Empty::<Bytes>::new())
        .map_err(|_error| FetchError::Url)?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let (head, body) = response.into_parts();
    let text = Limited::new(body, SIZE_MAX).collect().await.map_err(FetchError::Body)?.to_bytes();
    connection.abort();
    Ok(Fetched { text, max_age: max_age(&head.headers) })
}

/// `max-age` of `Cache-Control` (RFC 9111 5.2.2.1), less the `Age` that the answer has already.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse::<u64>().ok())?
    })?;
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse::<u64>().ok());
    Some(Duration::from_secs(seconds.saturating_sub(age.unwrap_or(0))))
}

#[cfg(test)]
mod tests;
