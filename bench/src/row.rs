//! The jobs that are measured.

/// One job, which both proxies do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    /// What `--only` takes.
    pub id: &'static str,
    /// What the table says.
    pub title: &'static str,
    pub hop: Hop,
    pub wire: Wire,
    /// How many policies there are; the last one permits. Without, nothing is decided.
    pub policies: usize,
    /// Whether there is a local rate limit, never reached.
    pub limited: bool,
    pub access_log: bool,
    /// Envoy asks a server about each request, in place of its own policies.
    pub envoy_asks: bool,
    /// A handshake for each request.
    pub reconnect: bool,
    pub connections: usize,
    /// How many processors the proxies have.
    pub processors: usize,
    /// As fast as it goes: for processor time.
    pub closed: bool,
    /// Requests a second that both can do: for latency, and for memory while connections are open.
    pub rate: Option<u32>,
    /// What Tidegate lacks for it: Envoy is measured alone.
    pub missing: Option<&'static str>,
}

/// Where the proxies stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Callers come in the clear.
    Plain,
    /// Callers come by mutual TLS.
    Mutual,
    /// Two sidecars with mutual TLS between them.
    Pair,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1.
    Http,
    /// Unary gRPC calls, so many at once on each connection.
    Grpc { streams: usize },
    /// Bytes.
    Tcp,
}

impl Wire {
    /// What the bench's upstream is told to speak.
    pub(crate) const fn as_argument(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc { .. } => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

const PLAIN: Row = Row {
    id: "http1",
    title: "HTTP/1.1 in the clear, nothing decided",
    hop: Hop::Plain,
    wire: Wire::Http,
    policies: 0,
    limited: false,
    access_log: false,
    envoy_asks: false,
    reconnect: false,
    connections: 64,
    processors: 1,
    closed: true,
    rate: Some(8000),
    missing: None,
};
const ACL: Row = Row { policies: 20, limited: true, ..PLAIN };
const MUTUAL: Row = Row { hop: Hop::Mutual, ..ACL };
const PAIR: Row = Row { hop: Hop::Pair, rate: Some(4000), ..ACL };
/// Its turns take place once: memory does not depend on how busy the machine is.
const MEMORY: Row = Row { connections: 1000, closed: false, rate: Some(1000), ..ACL };
const GRPC: Row = Row { rate: None, ..PLAIN };

/// Not to be measured, but to be disturbed.
pub(crate) const SOAK: Row = Row { id: "soak", title: "a pair of sidecars that nothing disturbs", ..PAIR };

/// All jobs, in the order of the tables.
pub(crate) const ROWS: [Row; 18] = [
    PLAIN,
    Row { id: "http1-log", title: "the same, with an access log", access_log: true, ..PLAIN },
    Row { id: "acl20", title: "20 policies and a local limit", ..ACL },
    Row { id: "acl20-log", title: "the same, with an access log", access_log: true, ..ACL },
    Row { id: "acl1000", title: "1,000 policies and a local limit", policies: 1000, rate: Some(2000), ..ACL },
    Row {
        id: "ext-authz",
        title: "20 policies; Envoy asks a server (ext_authz)",
        envoy_asks: true,
        rate: Some(4000),
        ..ACL
    },
    Row { id: "mtls", title: "mutual TLS, 20 policies on the caller and a local limit", ..MUTUAL },
    Row { id: "mtls-log", title: "the same, with an access log", access_log: true, ..MUTUAL },
    Row { id: "pair", title: "a pair of sidecars, mutual TLS between them, the same policies", ..PAIR },
    Row { id: "pair-log", title: "the same, with access logs", access_log: true, ..PAIR },
    Row {
        id: "handshake",
        title: "a full mutual TLS handshake for each request, the same policies",
        reconnect: true,
        connections: 16,
        rate: Some(1000),
        ..MUTUAL
    },
    Row {
        id: "grpc-8x16",
        title: "gRPC, 8 connections with 16 calls at once",
        wire: Wire::Grpc { streams: 16 },
        connections: 8,
        ..GRPC
    },
    Row {
        id: "grpc-32x1",
        title: "gRPC, 32 connections with one call at once",
        wire: Wire::Grpc { streams: 1 },
        connections: 32,
        ..GRPC
    },
    Row { id: "tcp", title: "TCP, 1 KiB there and back", wire: Wire::Tcp, ..PLAIN },
    Row { id: "one-core", title: "20 policies and a local limit, one core", rate: None, ..ACL },
    Row {
        id: "two-cores",
        title: "the same, two cores, one of them shared with the generator",
        processors: 2,
        rate: None,
        ..ACL
    },
    Row { id: "memory", title: "connections in the clear", ..MEMORY },
    Row { id: "memory-mtls", title: "connections by mutual TLS", hop: Hop::Mutual, ..MEMORY },
];

impl Row {
    /// The job called `id`.
    pub(crate) fn called(id: &str) -> Option<Self> {
        ROWS.into_iter().find(|row| row.id == id)
    }

    /// Whether it is for memory: then there is but one turn, with fresh processes.
    pub(crate) const fn is_for_memory(&self) -> bool {
        !self.closed
    }

    /// What paths start with: the last policy permits it.
    pub(crate) fn prefix(&self) -> String {
        prefix(self.policies.saturating_sub(1))
    }

    /// What the policy of this number is for: paths that start with this, or callers with this name.
    pub(crate) fn policy(&self, number: usize) -> (String, Option<String>) {
        let is_last = number + 1 == self.policies;
        let caller = match self.hop {
            Hop::Plain => None,
            Hop::Mutual | Hop::Pair if is_last => Some(CALLER.to_owned()),
            Hop::Mutual | Hop::Pair => Some(format!("{CALLER}-{number:04}")),
        };
        (prefix(number), caller)
    }
}

/// The service that calls, where callers have a name.
pub(crate) const CALLER: &str = "caller";
/// The service that is called.
pub(crate) const SERVICE: &str = "shop";

fn prefix(number: usize) -> String {
    format!("/api/v{number:04}/orders/")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_the_last_policy_permits_the_bench() {
        for row in ROWS.iter().filter(|row| row.policies > 0) {
            let permits: Vec<usize> = (0..row.policies)
                .filter(|number| {
                    let (prefix, caller) = row.policy(*number);
                    prefix == row.prefix() && caller.is_none_or(|caller| caller == CALLER)
                })
                .collect();
            assert_eq!(permits, [row.policies - 1], "{}", row.id);
        }
    }

    #[test]
    fn ids_are_unique() {
        let ids: BTreeSet<&str> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ROWS.len());
        assert_eq!(Row::called("mtls").map(|row| row.hop), Some(Hop::Mutual));
        assert_eq!(Row::called("none"), None);
    }
}
