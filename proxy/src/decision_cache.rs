//! Decisions to be used again. Plain state: no clock, no I/O, nothing waits.
//!
//! A key means something only together with the atom set it was made with, and an atom set belongs to one
//! revision. So an entry serves only requests whose key was made at the entry's own revision; whether that
//! revision is still good enough is the caller's to know (see [`crate::check`]).

use std::sync::Arc;

use jiff::Timestamp;
use model::{Decision, Revision};

/// The most entries; when full, those least worth keeping make room (S3-FIFO).
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// Decisions by key. Keys are compared in full, never by hash alone.
#[derive(Debug)]
pub(crate) struct DecisionCache {
    entries: quick_cache::sync::Cache<Box<[u8]>, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    decision: Arc<Decision>,
    valid_until: Timestamp,
}

impl DecisionCache {
    /// An empty cache for at most `entries_max` decisions.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries: quick_cache::sync::Cache::new(entries_max) }
    }

    /// The decision for `key`, made with the atom set of `revision`, unless it is too old at `now`.
    pub(crate) fn get(&self, key: &[u8], revision: Revision, now: Timestamp) -> Option<Arc<Decision>> {
        let entry = self.entries.get(key)?;
        (entry.decision.revision == revision && now < entry.valid_until).then_some(entry.decision)
    }

    /// Keeps `decision` for as long as it says, counted from `asked_at`. What must not be reused is not kept.
    pub(crate) fn insert(&self, key: &[u8], decision: &Arc<Decision>, asked_at: Timestamp) {
        if decision.degraded || decision.valid_for.is_zero() {
            return;
        }
        // Counted from before the question was sent: the answer may have been on its way for a while.
        let valid_until = asked_at.checked_add(decision.valid_for).unwrap_or(Timestamp::MAX);
        self.entries.insert(key.into(), Entry { decision: Arc::clone(decision), valid_until });
    }

    /// The number of entries, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::Verdict;

    use super::*;

    fn at(number: u64) -> Revision {
        Revision { epoch: 1, number }
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn decision(revision: Revision, seconds: u64, degraded: bool) -> Arc<Decision> {
        Arc::new(Decision {
            verdict: Verdict::Allow,
            reasons: vec![],
            message: String::new(),
            limits: vec![],
            rules: vec![],
            valid_for: Duration::from_secs(seconds),
            revision,
            degraded,
            shadows: Vec::new(),
        })
    }

    #[test]
    fn an_entry_serves_its_key_its_revision_and_its_time() {
        let cache = DecisionCache::new(10);
        cache.insert(b"key", &decision(at(3), 10, false), second(100));
        let table = [
            (b"key".as_slice(), at(3), 100, true),
            (b"key", at(3), 109, true),
            (b"key", at(3), 110, false),
            (b"key", at(2), 100, false),
            (b"key", at(4), 100, false),
            (b"key", Revision { epoch: 2, number: 3 }, 100, false),
            (b"kez", at(3), 100, false),
            (b"ke", at(3), 100, false),
            (b"", at(3), 100, false),
        ];
        for (key, revision, now, expected) in table {
            assert_eq!(cache.get(key, revision, second(now)).is_some(), expected, "{key:?} {revision} {now}");
        }
    }

    #[test]
    fn what_must_not_be_reused_is_not_kept() {
        let cache = DecisionCache::new(10);
        cache.insert(b"a", &decision(at(1), 10, true), second(0));
        cache.insert(b"b", &decision(at(1), 0, false), second(0));
        assert_eq!(cache.len(), 0);
        cache.insert(b"c", &decision(at(1), u64::MAX, false), second(0));
        assert!(cache.get(b"c", at(1), second(1_000_000)).is_some());
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = DecisionCache::new(10);
        for key in 0..1000u32 {
            cache.insert(&key.to_be_bytes(), &decision(at(1), 10, false), second(0));
        }
        assert!(cache.len() <= 10, "{}", cache.len());
    }
}
