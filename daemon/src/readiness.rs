//! Whether a daemon can do its work yet, and if not, what it waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The things a daemon waits for before it is ready; all clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waits: Arc<watch::Sender<Waits>>,
}

/// Keeps the daemon from being ready until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it makes the daemon ready"]
pub struct BlockReady {
    id: u64,
    waits: Arc<watch::Sender<Waits>>,
}

#[derive(Debug, Default)]
struct Waits {
    next_id: u64,
    by_id: BTreeMap<u64, String>,
    remark: Option<String>,
}

impl Readiness {
    /// Ready, until something blocks it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the returned guard is dropped. `what` completes "waiting for", as in `a certificate`.
    pub fn block(&self, what: impl Into<String>) -> BlockReady {
        let mut id = 0;
        self.waits.send_modify(|waits| {
            id = waits.next_id;
            waits.next_id = waits.next_id.saturating_add(1);
            waits.by_id.insert(id, what.into());
        });
        BlockReady { id, waits: Arc::clone(&self.waits) }
    }

    /// Whether nothing blocks.
    pub fn is_ready(&self) -> bool {
        self.waits.borrow().by_id.is_empty()
    }

    /// What the daemon waits for, the longest wait first.
    pub fn waiting_for(&self) -> Vec<String> {
        self.waits.borrow().by_id.values().cloned().collect()
    }

    /// Sets what whoever asks whether the daemon is ready is to know besides: it works, but something is not as it should
    /// be. None when all is well.
    pub fn remark(&self, remark: Option<String>) {
        self.waits.send_modify(|waits| waits.remark = remark);
    }

    /// What was last set by [`Readiness::remark`].
    pub fn remarked(&self) -> Option<String> {
        self.waits.borrow().remark.clone()
    }

    /// Resolves when nothing blocks.
    pub async fn until_ready(&self) {
        let mut waits = self.waits.subscribe();
        // An error would mean that the sender is gone, but `self` holds it.
        let _ready = waits.wait_for(|waits| waits.by_id.is_empty()).await;
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        self.waits.send_modify(|waits| {
            waits.by_id.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_all_guards_are_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let certificate = readiness.block("a certificate");
        let policies = readiness.clone().block("the policies");
        assert_eq!(readiness.waiting_for(), ["a certificate", "the policies"]);
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.until_ready().await }
        });
        drop(certificate);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        assert_eq!(readiness.waiting_for(), ["the policies"]);
        drop(policies);
        waiter.await.unwrap();
        assert!(readiness.is_ready());
    }
}
