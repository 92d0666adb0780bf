//! What a request goes on using until it has ended.

use std::sync::Arc;

use model::Allowance;
use model::limit::Cost;

use super::{Anchor, Charge, Counted};

/// A place among those under way, or bytes that are yet to be charged. Dropped when the request has ended, however
/// it ends.
#[derive(Debug)]
pub(crate) struct Usage {
    counted: Arc<Counted>,
    key: String,
    /// How many places it takes.
    places: u64,
    /// The bytes that passed.
    bytes: u64,
    clock: Anchor,
}

impl Usage {
    /// What the request uses of a local limit, if it is not over with admitting it.
    pub(super) fn of(charge: &Charge, clock: Anchor) -> Option<Self> {
        let limit = &charge.counted.limit;
        let is_slots = matches!(limit.allowance_of(&charge.key), Allowance::Concurrency(_));
        let places = if is_slots { charge.amount } else { 0 };
        (is_slots || limit.cost.is_known_after()).then(|| Self {
            counted: Arc::clone(&charge.counted),
            key: charge.key.clone(),
            places,
            bytes: 0,
            clock,
        })
    }

    /// So many bytes have passed.
    pub(crate) fn passed(&mut self, request: u64, response: u64) {
        self.bytes = match self.counted.limit.cost {
            Cost::RequestBytes => request,
            Cost::ResponseBytes => response,
            Cost::Bytes => request.saturating_add(response),
            Cost::Fixed(_) | Cost::Attribute(_) => 0,
        };
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        let Some(local) = self.counted.local() else { return };
        let now = self.clock.now();
        if self.places > 0 {
            local.give_back(&self.key, self.places, now);
        }
        if self.bytes > 0 {
            local.charge(&self.key, self.bytes, now);
        }
    }
}
