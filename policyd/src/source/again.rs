//! The same bundle again, under a new revision: with other candidates, or because a check adapter's answers changed.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::Source;
use crate::candidate::Candidates;

impl Source {
    /// The same, which also tries candidates.
    #[must_use]
    pub fn trying(mut self, candidates: watch::Receiver<Candidates>) -> Self {
        self.candidates = candidates;
        if !self.candidates.borrow().is_empty() {
            self.try_candidates();
        }
        self
    }

    /// The same bundle with the candidates of now.
    pub(super) fn try_candidates(&mut self) {
        let candidates = self.candidates.borrow_and_update().clone();
        let tried = candidates.len();
        let revision = self.publish(self.current.trying(candidates));
        info!(%revision, tried, "the candidates have changed");
    }

    /// The same bundle under a new revision: what an adapter answered before may no longer hold.
    pub(super) async fn republish(&mut self, handler: &str) {
        let before = self.current.get();
        let handlers = Arc::new(before.handlers.changed(handler));
        let revision = self.publish(self.current.next(before.bundle.clone(), handlers));
        info!(%revision, handler, "a check adapter's answers have changed");
        // A list that was edited is a part of what is in force: without it the last good bundle would be an older one.
        self.keep().await;
        self.stand().await;
    }
}
