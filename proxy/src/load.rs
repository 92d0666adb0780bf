//! How many requests are under way at once.
//!
//! A proxy that takes on more than it can do makes all of them slow, and in the end holds more memory than there is.
//! Beyond its limit it says so at once, before it decides on anything, and callers may come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests under way, and how many there may be. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    under_way: Arc<AtomicUsize>,
    max: usize,
}

/// One request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a AtomicUsize);

impl Load {
    /// None so far, of at most `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self { under_way: Arc::default(), max }
    }

    /// One more is under way; none, if there are too many.
    pub(crate) fn begin(&self) -> Option<UnderWay<'_>> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let one = UnderWay(&self.under_way);
        (before < self.max).then_some(one)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_most_are_under_way_and_each_leaves_its_place() {
        let load = Load::new(2);
        let clone = load.clone();
        let (one, two) = (load.begin(), clone.begin());
        assert!(one.is_some() && two.is_some() && load.begin().is_none());
        drop(one);
        assert!(load.begin().is_some());
        drop(two);
        assert_eq!(load.under_way.load(Ordering::Relaxed), 0);
    }
}
