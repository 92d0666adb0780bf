//! Bookinfo, the sample application of the service-mesh field: one page about one book, made by four services.
//!
//! ```text
//! browser ── productpage ──┬── details
//!                          └── reviews v1, v2, v3 ── ratings (not called by v1)
//! ```
//!
//! The services know nothing of TLS, policies or each other's addresses. A service calls another by plain HTTP
//! through the outbound listener of its own sidecar, and says which one by the `Host` header.
//!
//! In reading order:
//! - [`service`]: the names, [`Service`] and [`Version`];
//! - `details`, `ratings`, `reviews`: the three JSON services, each with the type it answers with;
//! - `productpage`: the page, its JSON API, and signing in;
//! - `outbound`: how one service calls another, and what can go wrong;
//! - `forwarded`: which headers go on with such a call.

mod details;
mod forwarded;
mod outbound;
mod productpage;
mod ratings;
mod reply;
mod reviews;
pub mod service;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use outbound::Outbound;
pub use service::{Service, Version};

/// One instance of one service.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which service this is.
    pub service: Service,
    /// Its version. Only `reviews` behaves differently from version to version.
    pub version: Version,
    /// Where it listens. Port 0 takes a free one: see [`Bound::address`].
    pub listen: SocketAddr,
    /// Its sidecar's outbound listener. Without one, the other services count as unavailable.
    pub outbound: Option<SocketAddr>,
}

/// A service that has its port, and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    listener: TcpListener,
    router: Router,
}

/// Runs a service until `shutdown` is over and the requests in flight are answered.
///
/// # Errors
/// When the address can't be listened on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    bind(config).await?.serve(shutdown).await
}

/// Takes the port of a service.
///
/// # Errors
/// When the address can't be listened on.
pub async fn bind(config: Config) -> anyhow::Result<Bound> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("can't listen on `{}`", config.listen))?;
    Ok(Bound { address: listener.local_addr()?, listener, router: router(config) })
}

impl Bound {
    /// The address listened on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is over and the requests in flight are answered, or have had five seconds.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        // Dropped when the shutdown begins, which the receiver notices.
        let (serving, stopping) = oneshot::channel::<()>();
        let until_shutdown = async move {
            shutdown.await;
            drop(serving);
        };
        let drain_over = async move {
            stopping.await.ok();
            tokio::time::sleep(DRAIN).await;
        };
        let server = axum::serve(self.listener, self.router).with_graceful_shutdown(until_shutdown);
        tokio::select! {
            served = server => Ok(served?),
            () = drain_over => Ok(()),
        }
    }
}

fn router(config: Config) -> Router {
    let instance = format!("{}-{}", config.service, config.version);
    let outbound = Outbound::new(config.outbound);
    let health = reply::Health::of(&instance);
    let service = match config.service {
        Service::Productpage => productpage::router(instance, outbound),
        Service::Details => details::router(),
        Service::Reviews => reviews::router(instance, config.version, outbound),
        Service::Ratings => ratings::router(),
    };
    service
        .route("/health", get(async move || axum::Json(health)))
        .fallback(reply::not_found)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// How long requests in flight may take once the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// The largest request body: a form with a name, or a handful of ratings.
const BODY_BYTES_MAX: usize = 4 * 1024;
