//! The jobs that are measured.

/// One job, which both proxies do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    /// What `--only` takes.
    pub id: &'static str,
    /// What the table says.
    pub title: &'static str,
    pub hop: Hop,
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
    /// For latency: requests a second that both can do.
    pub rate: u32,
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

const PLAIN: Row = Row {
    id: "http1",
    title: "HTTP/1.1 in the clear, nothing decided",
    hop: Hop::Plain,
    policies: 0,
    limited: false,
    access_log: false,
    envoy_asks: false,
    reconnect: false,
    connections: 64,
    rate: 8000,
};

/// All jobs, in the order of the table.
pub(crate) const ROWS: [Row; 10] = [
    PLAIN,
    Row { id: "http1-log", title: "the same, with an access log", access_log: true, ..PLAIN },
    Row { id: "acl20", title: "20 policies and a local limit", policies: 20, limited: true, ..PLAIN },
    Row {
        id: "acl20-log",
        title: "the same, with an access log",
        policies: 20,
        limited: true,
        access_log: true,
        ..PLAIN
    },
    Row {
        id: "acl1000",
        title: "1,000 policies and a local limit",
        policies: 1000,
        limited: true,
        rate: 2000,
        ..PLAIN
    },
    Row {
        id: "ext-authz",
        title: "20 policies; Envoy asks a server (ext_authz)",
        policies: 20,
        limited: true,
        envoy_asks: true,
        rate: 4000,
        ..PLAIN
    },
    Row {
        id: "mtls",
        title: "mutual TLS, 20 policies on the caller and a local limit",
        hop: Hop::Mutual,
        ..ACL
    },
    Row {
        id: "pair",
        title: "a pair of sidecars, mutual TLS between them, the same policies",
        hop: Hop::Pair,
        rate: 4000,
        ..ACL
    },
    Row {
        id: "pair-log",
        title: "the same, with access logs",
        hop: Hop::Pair,
        access_log: true,
        rate: 4000,
        ..ACL
    },
    Row {
        id: "handshake",
        title: "a full mutual TLS handshake for each request, the same policies",
        hop: Hop::Mutual,
        reconnect: true,
        connections: 16,
        rate: 1000,
        ..ACL
    },
];

const ACL: Row = Row { policies: 20, limited: true, ..PLAIN };

impl Row {
    /// The job called `id`.
    pub(crate) fn called(id: &str) -> Option<Self> {
        ROWS.into_iter().find(|row| row.id == id)
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
