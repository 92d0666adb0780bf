//! Cuts connections whose tenure has ended, whatever is still under way on them.
//!
//! One task waits for the earliest of all ends, so that a connection costs no timer, and a request nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daemon::{Clock, Lifecycle};
use futures_util::future::{AbortHandle, Abortable};
use jiff::Timestamp;
use tokio::sync::Notify;

/// The connections that are to be cut, and when. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cutter(Arc<State>);

#[derive(Debug, Default)]
struct State {
    connections: Mutex<Connections>,
    /// Told of an end that comes before all others.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Connections {
    /// Numbered, for several may end at once.
    by_end: BTreeMap<(Timestamp, u64), AbortHandle>,
    count: u64,
}

/// A connection's place; given up when it is dropped.
struct Place<'a> {
    cutter: &'a Cutter,
    key: (Timestamp, u64),
}

impl Cutter {
    /// Serves a connection, but no longer than until `cut_at`. False if it was cut.
    pub(crate) async fn until(&self, cut_at: Timestamp, serving: impl Future<Output = ()>) -> bool {
        let (cut, registration) = AbortHandle::new_pair();
        let _place = self.place(cut_at, cut);
        Abortable::new(serving, registration).await.is_ok()
    }

    fn place(&self, cut_at: Timestamp, cut: AbortHandle) -> Place<'_> {
        let mut connections = self.connections();
        connections.count += 1;
        let key = (cut_at, connections.count);
        connections.by_end.insert(key, cut);
        let is_first = connections.by_end.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(connections);
        if is_first {
            self.0.earlier.notify_one();
        }
        Place { cutter: self, key }
    }

    /// Cuts each connection at its end, until the proxy stops: a drain has a deadline of its own.
    pub(crate) async fn cut_until_stopped(self, clock: Clock, lifecycle: Lifecycle) {
        loop {
            let next = self.cut(clock.now());
            let wait = async {
                match next {
                    Some(next) => clock.sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = self.0.earlier.notified() => {}
                () = wait => {}
            }
        }
    }

    /// Cuts what has ended at `now`; says when the next one does.
    fn cut(&self, now: Timestamp) -> Option<Timestamp> {
        let mut connections = self.connections();
        let later = connections.by_end.split_off(&(now, u64::MAX));
        std::mem::replace(&mut connections.by_end, later).into_values().for_each(|cut| cut.abort());
        connections.by_end.first_key_value().map(|((next, _), _)| *next)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.cutter.connections().by_end.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_connection_is_cut_at_its_end_and_one_that_has_ended_leaves_nothing() {
        let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
        let (cutter, lifecycle) = (Cutter::default(), Lifecycle::new());
        let cutting = tokio::spawn(cutter.clone().cut_until_stopped(clock.clone(), lifecycle.clone()));
        let at = |second| Timestamp::from_second(second).unwrap();
        // The later one first, so that the task has to be told of an earlier one.
        let serve = async |second| {
            assert!(!cutter.until(at(second), std::future::pending()).await);
            clock.now().as_second()
        };
        let seen = tokio::join!(serve(3600), serve(60), serve(60), async {
            assert!(cutter.until(at(30), tokio::time::sleep(Duration::from_secs(1))).await);
        });
        assert_eq!(seen, (3600, 60, 60, ()));
        assert!(cutter.connections().by_end.is_empty());
        lifecycle.stop();
        cutting.await.unwrap();
    }
}
