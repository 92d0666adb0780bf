//! Which connection a request goes out on, and what is tried again.
//!
//! What is tried again, and why it is safe:
//! - a connect or TLS handshake that failed, on the next endpoint: nothing of the request was sent;
//! - a request of which nothing could be written, on another connection: likewise;
//! - once, on a fresh connection, an idempotent request without a body whose reused connection ended before
//!   any byte of a response: most likely the peer closed the idle connection just then;
//! - once, on a fresh connection, a stream of HTTP/2 that the peer says it has not looked at (RFC 9113 8.7).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::endpoints::{Endpoint, Service};
use crate::http2::Lease;
use crate::metrics::Metrics;
use crate::pool::{ConnectError, Connection};
use crate::proxy_protocol::Greeting;
use crate::request::Way;

/// The most interim responses to one request. A caller may be told of each, and none of them ends anything.
pub(crate) const INTERIM_MAX: usize = 100;
/// What is said of one that sends more.
pub(crate) const TOO_MANY_INTERIM: &str = "it sends interim responses without end";

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No instance could be reached.
    #[error("no instance of `{service}` can be reached")]
    NoneHealthy {
        /// The service's name.
        service: String,
    },
    /// The response's head took longer than the service's timeout.
    #[error("`{service}` did not answer within {timeout:?}")]
    Timeout {
        /// The service's name.
        service: String,
        /// Its timeout.
        timeout: Duration,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to `{service}` failed before it answered")]
    Failed {
        /// The service's name.
        service: String,
        /// What went wrong.
        why: String,
    },
    /// A status that ends no exchange, though no upgrade was asked for.
    #[error("`{service}` answered with an unexpected status {status}")]
    Unexpected {
        /// The service's name.
        service: String,
        /// The status.
        status: http::StatusCode,
    },
}

impl UpstreamError {
    /// What went wrong below, for operators; empty if nothing more is known.
    pub(crate) fn cause(&self) -> &str {
        match self {
            Self::Failed { why, .. } => why,
            _ => "",
        }
    }
}

/// The instances that a request may go to, and those it was sent to so far.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    service: &'a Service,
    greeting: Option<&'a Greeting>,
    metrics: &'a Metrics,
    /// Which of the instances is the first.
    turn: usize,
    /// Those that it can't go to.
    tried: Vec<Arc<Endpoint>>,
    /// Whether the next connection must be a new one.
    fresh: bool,
    /// Whether the request may be sent again, which it may once.
    repeatable: bool,
    /// Whether it was refused before.
    refused: bool,
}

/// How sending a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing of it was sent.
    Unsent,
    /// It may have been sent, and nothing of a response came.
    Silent,
    /// The upstream has said that it did not look at it.
    Refused,
    /// Some of a response came.
    Broken,
}

impl<'a> Attempts<'a> {
    /// Those of a request that goes this `way`, which is `repeatable` if it is idempotent and has no body.
    pub(crate) fn new(way: &'a Way, metrics: &'a Metrics, repeatable: bool) -> Self {
        let service = &*way.service;
        Self {
            service,
            greeting: way.greeting.as_ref(),
            metrics,
            turn: service.turn(),
            tried: Vec::new(),
            fresh: false,
            repeatable,
            refused: false,
        }
    }

    /// The connection to send it on next; none when no instance is left to try.
    pub(crate) async fn connect(&mut self) -> Option<(Arc<Endpoint>, Connection)> {
        while let Some(endpoint) = self.service.pick(self.turn, &self.tried, Instant::now()).map(Arc::clone) {
            if !self.fresh
                && let Some(connection) = endpoint.pool.reuse(self.greeting)
            {
                return Some((endpoint, connection));
            }
            // Rare, and large: not in the room that every request needs.
            match Box::pin(endpoint.pool.connect(self.greeting)).await {
                Ok(connection) => {
                    endpoint.succeeded();
                    return Some((endpoint, connection));
                }
                Err(error) => self.unreached(endpoint, &error),
            }
        }
        None
    }

    /// A new connection, which serves one caller alone and is not kept; none when no instance is left to try.
    pub(crate) async fn dial(&mut self) -> Option<(Arc<Endpoint>, Connection)> {
        while let Some(endpoint) = self.service.pick(self.turn, &self.tried, Instant::now()).map(Arc::clone) {
            match Box::pin(endpoint.pool.dial(self.greeting)).await {
                Ok(connection) => {
                    endpoint.succeeded();
                    return Some((endpoint, connection));
                }
                Err(error) => self.unreached(endpoint, &error),
            }
        }
        None
    }

    /// The same, of HTTP/2.
    pub(crate) async fn lease(&mut self) -> Option<(Arc<Endpoint>, Lease)> {
        while let Some(endpoint) = self.service.pick(self.turn, &self.tried, Instant::now()).map(Arc::clone) {
            match Box::pin(endpoint.pool.lease(self.fresh, self.greeting)).await {
                Ok(lease) => {
                    endpoint.succeeded();
                    return Some((endpoint, lease));
                }
                Err(error) => self.unreached(endpoint, &error),
            }
        }
        None
    }

    fn unreached(&mut self, endpoint: Arc<Endpoint>, error: &ConnectError) {
        let (service, instance) = (&self.service.name, &endpoint.instance);
        if !error.is_ours() && endpoint.failed(Instant::now()) {
            self.metrics.ejected(service, instance);
        }
        tracing::warn!(%service, %instance, address = endpoint.address, %error, "an upstream can't be reached");
        self.give_up(endpoint);
    }

    /// Whether the request may be sent once more, after it failed on a connection to `endpoint` that was `reused` or
    /// new.
    pub(crate) fn may_retry(&mut self, endpoint: Arc<Endpoint>, failure: Failure, reused: bool) -> bool {
        match failure {
            Failure::Unsent if reused => true,
            Failure::Unsent => {
                self.give_up(endpoint);
                true
            }
            Failure::Silent if reused && self.repeatable => {
                (self.repeatable, self.fresh) = (false, true);
                true
            }
            Failure::Refused if !self.refused => {
                (self.refused, self.fresh) = (true, true);
                true
            }
            Failure::Silent | Failure::Refused | Failure::Broken => false,
        }
    }

    fn give_up(&mut self, endpoint: Arc<Endpoint>) {
        self.tried.push(endpoint);
        self.fresh = false;
    }
}
