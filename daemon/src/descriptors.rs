//! How many files and sockets this process may have open, and who gets them.
//!
//! A process that has none left can accept no connection, not even an operator's who wants to know why. So what a
//! stranger can make us open comes out of a [`Budget`], which leaves a reserve for all else.

use std::io;
use std::sync::LazyLock;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// What is kept for listeners, logs, the admin port, and the connections of one daemon to another.
const RESERVE: usize = 256;
/// Of a small limit no more than this part is kept.
const RESERVE_PART: usize = 2;
/// The limit where the system has none.
const NO_LIMIT: u64 = 1 << 20;

/// What strangers may make this process open, shared by all daemons in it. Half is for connections from callers, half
/// for connections to upstreams: whoever is let in can be served.
#[derive(Debug)]
pub struct Budget {
    /// Connections that were accepted.
    pub callers: Semaphore,
    /// Connections to upstreams.
    pub upstreams: Semaphore,
    /// How many there are of each at the most.
    pub each: usize,
    /// How many files the process may have open.
    pub limit: u64,
}

/// The budget of this process, by the limit at its first use.
pub fn budget() -> &'static Budget {
    static BUDGET: LazyLock<Budget> = LazyLock::new(|| Budget::of(limit()));
    &BUDGET
}

/// Raises the limit of this process to what it may raise it to itself, as Go does: the usual soft limit of 1024 is
/// there for programs that use `select`, and this is none.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, ?maximum, "the limit of open files can't be raised");
    }
}

/// Whether `error` says that this process, or the host, has no descriptor, port or memory left for a connection. That
/// says nothing of who is at its other end.
pub fn are_exhausted(error: &io::Error) -> bool {
    const OURS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| OURS.contains(&Errno::from_raw_os_error(code)))
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(NO_LIMIT)
}

impl Budget {
    fn of(limit: u64) -> Self {
        let all = usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let free = all.saturating_sub(RESERVE.min(all / RESERVE_PART));
        let each = (free / 2).max(1);
        Self { callers: Semaphore::new(each), upstreams: Semaphore::new(each), each, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_and_the_rest_is_halved() {
        for (limit, each) in
            [(0, 1), (64, 16), (512, 128), (1024, 384), (20_000, 9872), (u64::MAX, usize::MAX)]
        {
            let most = (Semaphore::MAX_PERMITS - RESERVE) / 2;
            assert_eq!(Budget::of(limit).each, each.min(most), "{limit}");
        }
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(Some(budget().limit), current.or(Some(NO_LIMIT)));
    }

    #[test]
    fn want_of_descriptors_is_told_from_a_peer_that_is_away() {
        for (errno, expected) in [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::CONNREFUSED, false)] {
            assert_eq!(are_exhausted(&errno.into()), expected, "{errno}");
        }
        assert!(!are_exhausted(&io::Error::other("TLS")));
    }
}
