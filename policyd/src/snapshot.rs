//! The state that decides: immutable, numbered, replaced whole.

use std::sync::Arc;

use model::Revision;
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::handlers::Handlers;

/// Everything a decision is made from, at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of this state.
    pub revision: Revision,
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// The check adapters, running.
    pub handlers: Arc<Handlers>,
}

/// Where the current snapshot is published, and where everyone reads it.
#[derive(Clone, Debug)]
pub struct Current(watch::Sender<Arc<Snapshot>>);

impl Current {
    /// Publishes a first snapshot.
    pub fn new(bundle: Arc<Bundle>, handlers: Arc<Handlers>, epoch: u64) -> Self {
        let revision = Revision { epoch, number: 1 };
        Self(watch::Sender::new(Arc::new(Snapshot { revision, bundle, handlers })))
    }

    /// The current snapshot.
    pub fn get(&self) -> Arc<Snapshot> {
        self.0.borrow().clone()
    }

    /// The current snapshot and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }

    /// Replaces bundle and handlers. Every decision made before is out of date from here on.
    pub fn publish(&self, bundle: Arc<Bundle>, handlers: Arc<Handlers>) -> Revision {
        let mut revision = Revision::default();
        // Read and written under one lock: two calls at once never give one number to two states.
        self.0.send_modify(|snapshot| {
            revision = snapshot.revision.next();
            *snapshot = Arc::new(Snapshot { revision, bundle, handlers });
        });
        revision
    }
}
