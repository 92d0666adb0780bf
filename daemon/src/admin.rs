//! A daemon's admin port: `/metrics`, `/healthz`, `/readyz` and what else a daemon shows, over plain HTTP/1.1.
//!
//! It belongs on a loopback or otherwise private address: it authenticates nobody. It tells no secrets, and
//! whoever reaches it can use up no more than the limits at the end of this file.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::lifecycle::Lifecycle;
use crate::metrics;
use crate::readiness::Readiness;

/// Renders the text of `/metrics`, or of another page.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// An admin port that is bound but not served yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    pages: Router,
}

/// Binds the admin port; port 0 takes a free one.
///
/// # Errors
/// When the address can't be bound.
pub async fn bind(address: SocketAddr) -> io::Result<Admin> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Admin { listener, address, pages: Router::new() })
}

impl TryFrom<std::net::TcpListener> for Admin {
    type Error = io::Error;
    fn try_from(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, pages: Router::new() })
    }
}

impl Admin {
    /// The socket once more, for another process.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// The address bound, with its real port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows what `render` makes, which is JSON, at `path` too.
    #[must_use]
    pub fn with_json(
        mut self,
        path: &str,
        render: impl Fn() -> String + Clone + Send + Sync + 'static,
    ) -> Self {
        let page = move || async move { ([(header::CONTENT_TYPE, "application/json")], render()) };
        self.pages = self.pages.route(path, get(page));
        self
    }

    /// Serves no pages, but to each request the status that `answer` makes of its method and target, until the daemon
    /// stops. Returns at once.
    pub fn serve_answers<A: Future<Output = StatusCode> + Send>(
        self,
        answer: impl Fn(Method, Uri) -> A + Clone + Send + Sync + 'static,
        life: &Lifecycle,
    ) {
        let text = |status: StatusCode| format!("{}\n", status.canonical_reason().unwrap_or_default());
        let answers = move |method: Method, target: Uri| {
            let answer = answer.clone();
            async move {
                let status = answer(method, target).await;
                (status, text(status))
            }
        };
        let _task = life.spawn(accept(self.listener, Router::new().fallback(answers), life.clone()));
    }

    /// Serves until the daemon stops. Returns at once; the work goes on in tasks of `life`.
    pub fn serve(self, render_metrics: RenderMetrics, readiness: Readiness, life: &Lifecycle) {
        let routes = routes(render_metrics, readiness, life.clone()).merge(self.pages);
        let _task = life.spawn(accept(self.listener, routes, life.clone()));
    }
}

fn routes(render_metrics: RenderMetrics, readiness: Readiness, life: Lifecycle) -> Router {
    let metrics = move || async move { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], render_metrics()) };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&readiness, &life)))
}

fn ready(readiness: &Readiness, life: &Lifecycle) -> impl IntoResponse + use<> {
    let mut waiting_for = readiness.waiting_for();
    if life.is_stopping() {
        waiting_for.push("nothing: it is stopping".to_owned());
    }
    if waiting_for.is_empty() {
        let remark = readiness.remarked().map(|remark| format!("but {remark}\n")).unwrap_or_default();
        return (StatusCode::OK, format!("ready\n{remark}"));
    }
    let text = waiting_for.iter().map(|what| format!("waiting for {what}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn accept(listener: TcpListener, routes: Router, life: Lifecycle) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = async { (Arc::clone(&slots).acquire_owned().await, listener.accept().await) } => accepted,
            () = life.stopping() => return,
        };
        match accepted {
            (Ok(slot), Ok((stream, _))) => {
                let _task = life.spawn({
                    let (routes, life) = (routes.clone(), life.clone());
                    async move {
                        serve_connection(stream, routes, &life).await;
                        drop(slot);
                    }
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "the admin port can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The semaphore is never closed.
            (Err(_), _) => return,
        }
    }
}

async fn serve_connection(stream: TcpStream, routes: Router, life: &Lifecycle) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is its client's affair: whatever was wrong, hyper has told it.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = life.stopping() => {}
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ended = tokio::time::timeout(LAST_RESPONSE_TIME_MAX, connection).await;
}

/// Connections served at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head, or stay idle.
const HEAD_TIME_MAX: Duration = Duration::from_secs(20);
/// The largest request head, in bytes. hyper's least.
const HEAD_SIZE_MAX: usize = 8192;
/// How long a connection lives, so that nobody keeps a slot for ever by reading slowly.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// How long a response under way may take when its connection has to end.
const LAST_RESPONSE_TIME_MAX: Duration = Duration::from_secs(2);
/// How long to wait when accepting fails, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
