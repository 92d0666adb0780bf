//! What the generator is told to do, and what it tells of it. Both go between processes as JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::processor::Used;
use crate::stats::percentile;

/// How a proxy is loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    pub target: SocketAddr,
    /// What is exchanged.
    pub exchange: Exchange,
    pub connections: usize,
    /// Requests a second, sent when they are due, whatever came of those before. Without: each connection sends
    /// its next request when it has the answer to the last.
    pub rate: Option<u32>,
    /// Each request has a connection of its own.
    pub reconnect: bool,
    /// Before what counts.
    pub warm_up_seconds: f64,
    pub seconds: f64,
    /// Who is loaded: their processor time and memory are told.
    pub processes: Vec<u32>,
    /// The processors that those may use.
    pub processors: Vec<usize>,
    /// Who helps them from another processor: their processor time is told by itself.
    pub others: Vec<u32>,
    /// With whose certificate connections are made; without, in the clear.
    pub tls: Option<Tls>,
}

/// What one request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exchange {
    /// GET, by HTTP/1.1. The number in the path is another each time.
    Http { prefix: String },
    /// A unary gRPC call, so many of them at once on each connection. Rates and TLS are not for these.
    Grpc { streams: usize },
    /// 1 KiB there and back.
    Tcp,
}

/// A client's part of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// PEM: its certificate with what signed it, its key, and the root it trusts.
    pub chain: PathBuf,
    pub key: PathBuf,
    pub trust: PathBuf,
    /// The SPIFFE ID that the server must have.
    pub server: String,
}

/// What came of a load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Answered within the time that counts.
    pub requests: u64,
    /// Answered otherwise than with 200, and not answered.
    pub not_ok: u64,
    pub errors: u64,
    /// The first of those, in words.
    pub first_error: Option<String>,
    pub seconds: f64,
    pub used: Used,
    pub used_by_others: Used,
    /// Used by the generator itself, to tell whether it was what could do no more.
    pub own: Used,
    /// The part of the loaded processors' time that programs of others took, 0 to 1.
    pub foreign: f64,
    /// After the load, its connections still open.
    pub resident_kib: u64,
    /// From when a request was sent, or due at a fixed rate, to the end of its answer.
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// What TLS agreed on.
    pub tls: Option<String>,
}

impl Outcome {
    /// Counts the answers that took `latencies`, in tenths of a microsecond, and sorts them.
    pub(crate) fn count(&mut self, latencies: &mut [u32]) {
        self.requests = latencies.len() as u64;
        latencies.sort_unstable();
        let at = |share| f64::from(percentile(latencies, share).unwrap_or_default()) / 10.0;
        (self.p50_us, self.p99_us, self.max_us) = (at(0.5), at(0.99), at(1.0));
    }

    /// Processor time of the loaded processes for one request, in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn microseconds_each(&self) -> f64 {
        self.used.nanoseconds as f64 / 1000.0 / self.requests as f64
    }

    /// Requests answered in a second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// What is wrong with it, if it must not count.
    pub(crate) fn fault(&self) -> Option<String> {
        let first = self.first_error.as_deref().unwrap_or("no words");
        match self {
            Self { errors: 0, not_ok: 0, requests: 1.., .. } => None,
            Self { errors: 0, not_ok: 0, .. } => Some("no request was answered".to_owned()),
            _ => Some(format!("{} errors, {} answers not 200: {first}", self.errors, self.not_ok)),
        }
    }
}

/// As latencies are kept: a u32 of tenths of a microsecond is seven minutes.
pub(crate) fn tenths(latency: Duration) -> u32 {
    u32::try_from(latency.as_nanos() / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_with_errors_does_not_count() {
        let good = Outcome { requests: 10, ..Outcome::default() };
        assert_eq!(good.fault(), None);
        assert!(Outcome::default().fault().unwrap().contains("no request"));
        let denied = Outcome { not_ok: 1, first_error: Some("403".into()), ..good.clone() };
        assert_eq!(denied.fault().unwrap(), "0 errors, 1 answers not 200: 403");
        assert!(Outcome { errors: 1, ..good }.fault().is_some());
    }

    #[test]
    fn latencies_are_counted() {
        let mut outcome = Outcome::default();
        outcome.count(&mut [tenths(Duration::from_micros(30)), tenths(Duration::from_nanos(1234)), 100]);
        assert_eq!((outcome.requests, outcome.p50_us, outcome.max_us), (3, 10.0, 30.0));
    }

    #[test]
    fn processor_time_is_shared_among_requests() {
        let used = Used { nanoseconds: 3_000_000, ..Used::default() };
        let outcome = Outcome { requests: 100, used, ..Outcome::default() };
        assert!((outcome.microseconds_each() - 30.0).abs() < 1e-9);
    }
}
