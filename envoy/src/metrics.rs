//! What is counted of Envoys' questions.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The metrics of this door.
#[derive(Debug)]
pub(crate) struct Metrics {
    checks: Family<Labels, Counter>,
    check_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    service: String,
    verdict: &'static str,
}

impl Metrics {
    pub(crate) fn new(metrics: &daemon::Metrics) -> Self {
        // From 10 µs to about 0.3 s.
        let check_seconds = Histogram::new(exponential_buckets(10e-6, 2.0, 15));
        let new = Self { checks: Family::default(), check_seconds };
        metrics.with_registry(|registry| {
            let r = registry.sub_registry_with_prefix("tidegate_envoy");
            r.register(
                "checks",
                "Requests that Envoys asked about, by what came of them",
                new.checks.clone(),
            );
            r.register("check_seconds", "Time to answer an Envoy", new.check_seconds.clone());
        });
        new
    }

    /// An answer was given. `service` is one of the mesh, or empty for a request that is for none.
    pub(crate) fn answered(&self, service: &str, verdict: &'static str, took: Duration) {
        self.checks.get_or_create(&Labels { service: service.to_owned(), verdict }).inc();
        self.check_seconds.observe(took.as_secs_f64());
    }
}
