//! An HTTP client as plain as `curl`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Sends requests over kept-alive connections.
#[derive(Clone, Debug)]
pub struct Client(Pool<HttpConnector, Full<Bytes>>);

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

impl Default for Client {
    fn default() -> Self {
        Self(Pool::builder(TokioExecutor::new()).build_http())
    }
}

impl Client {
    /// `GET path` of whoever listens at `address`, asking for `host`.
    ///
    /// # Errors
    /// When no whole response comes.
    pub async fn get(&self, address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
        self.send(address, host, path, Method::GET, &[], Bytes::new()).await
    }

    /// Any request.
    ///
    /// # Errors
    /// When no whole response comes.
    pub async fn send(
        &self,
        address: SocketAddr,
        host: &str,
        path: &str,
        method: Method,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let mut request =
            Request::builder().method(method).uri(format!("http://{address}{path}")).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.0.request(request.body(Full::new(body))?).await.context("no response")?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("the response breaks off")?.to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl Answer {
    /// The header's value, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
