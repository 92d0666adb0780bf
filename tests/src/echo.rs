//! A service that answers with the request that it got.

use std::net::SocketAddr;

use anyhow::Result;
use axum::extract::Request;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

/// Serves HTTP/1.1 and HTTP/2 for as long as the test runs, and says where.
///
/// # Errors
/// When nothing can be bound.
pub async fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = axum::Router::new().fallback(answer);
    let server = Server::builder().accept_http1(true).add_routes(Routes::from(router));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(address)
}

/// `method`, `target` and `headers`, each header with all of its lines.
async fn answer(request: Request) -> String {
    let mut headers = Map::new();
    for (name, value) in request.headers() {
        let lines = headers.entry(name.as_str()).or_insert_with(|| json!([]));
        if let Value::Array(lines) = lines {
            lines.push(String::from_utf8_lossy(value.as_bytes()).into());
        }
    }
    let target = request.uri().path_and_query().map(ToString::to_string);
    json!({"method": request.method().as_str(), "target": target, "headers": headers}).to_string()
}
