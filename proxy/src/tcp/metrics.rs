//! What is counted of raw connections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::exchange::Direction;
use crate::respond::Refusal;

/// The metrics of raw connections; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    connections: Family<OutcomeLabels, Counter>,
    open: Family<Labels, Gauge>,
    bytes: Family<ByteLabels, Counter>,
}

/// Counts one open connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counts {
    open: Gauge,
    sent: Counter,
    received: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    direction: &'static str,
    service: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    direction: &'static str,
    service: String,
    way: &'static str,
}

impl Metrics {
    /// Has them shown.
    pub(crate) fn register(&self, all: &mut Registry) {
        all.register("tcp_connections", "Raw connections, by what came of them", self.connections.clone());
        all.register("tcp_open_connections", "Raw connections that are open", self.open.clone());
        all.register("tcp_bytes", "Bytes of raw connections", self.bytes.clone());
    }

    /// A connection to `service` was let through and connected.
    pub(crate) fn opened(&self, direction: Direction, service: &str) -> Counts {
        self.count(direction, service, "opened");
        let (direction, service) = (direction.as_str(), service.to_owned());
        let bytes = |way| {
            let labels = ByteLabels { direction, service: service.clone(), way };
            self.bytes.get_or_create(&labels).clone()
        };
        let (sent, received) = (bytes("to_service"), bytes("to_caller"));
        let open = self.open.get_or_create(&Labels { direction, service }).clone();
        open.inc();
        Counts { open, sent, received }
    }

    /// A connection was not let through, or could not be connected.
    pub(crate) fn refused(&self, direction: Direction, service: &str, refusal: &Refusal) {
        self.count(direction, service, refusal.code());
    }

    /// A connection was ended for this reason.
    pub(crate) fn ended(&self, direction: Direction, service: &str, why: &'static str) {
        self.count(direction, service, why);
    }

    fn count(&self, direction: Direction, service: &str, outcome: &'static str) {
        let labels = OutcomeLabels { direction: direction.as_str(), service: service.to_owned(), outcome };
        self.connections.get_or_create(&labels).inc();
    }
}

impl Counts {
    /// So many bytes have passed by now, and so many had before.
    pub(crate) fn passed(&self, before: (u64, u64), now: (u64, u64)) {
        self.sent.inc_by(now.0.saturating_sub(before.0));
        self.received.inc_by(now.1.saturating_sub(before.1));
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.open.dec();
    }
}
