//! One of the two that are compared, at work.

use std::net::SocketAddr;
use std::path::Path;

use crate::daemons::Daemon;

/// Where a side finds what it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// For configurations and logs.
    pub folder: &'a Path,
    /// The service behind the proxies.
    pub upstream: SocketAddr,
    /// The processors of the proxies.
    pub proxies: &'a [usize],
    /// The processor of everything else.
    pub others: &'a [usize],
}

/// A proxy, or a pair, with what belongs to it.
#[derive(Debug)]
pub(crate) struct Side {
    pub name: &'static str,
    /// Where the generator sends to.
    pub target: SocketAddr,
    /// Those whose processor time and memory count, in the order in which they started.
    pub processes: Vec<Daemon>,
    /// Those that have to be there, such as policyd; on a processor of their own.
    pub others: Vec<Daemon>,
}

impl Side {
    /// The ids of those that count.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.processes.iter().map(Daemon::id).collect()
    }

    /// The ids of those that have to be there.
    pub(crate) fn other_ids(&self) -> Vec<u32> {
        self.others.iter().map(Daemon::id).collect()
    }
}
