//! The metrics of one daemon.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// The content type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry of metrics; all clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives access to the registry, to register metrics. Whoever calls keeps it short: rendering waits.
    pub fn with_registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        // A panic while registering leaves, at worst, one metric unregistered.
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = self.with_registry(|registry| encode(&mut text, registry)) {
            // The text lacks its end mark now, so a scraper will refuse it and say so.
            tracing::error!(%error, "a metric can't be rendered");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn renders_what_any_clone_registered() {
        let metrics = Metrics::new();
        let requests = Counter::<u64>::default();
        metrics.clone().with_registry(|r| r.register("requests", "Requests seen", requests.clone()));
        requests.inc();
        assert_eq!(
            metrics.render(),
            "# HELP requests Requests seen.\n# TYPE requests counter\nrequests_total 1\n# EOF\n"
        );
    }
}
