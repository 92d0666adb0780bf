//! Decides on calls to services outside of the mesh. No sidecar stands before those, so their callers' decide, by the
//! same policies, limits and cache as on requests to their own service.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use daemon::Clock;
use jiff::Timestamp;
use model::Revision;

use crate::applied::{Applied, ApplyError, Current};
use crate::check::Checker;
use crate::policy_client::Policyd;

/// The most decisions that are cached of one service.
const ENTRIES_MAX: usize = 10_000;

/// What decides on calls to each service outside of the mesh. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Egress {
    policyd: Arc<dyn Policyd>,
    clock: Clock,
    gates: Arc<ArcSwap<HashMap<String, Arc<Gate>>>>,
}

/// What decides on requests to one service.
#[derive(Debug)]
pub(crate) struct Gate {
    /// What policyd said last of it.
    pub current: Current,
    pub checker: Checker,
}

impl Egress {
    /// With no service so far.
    pub(crate) fn new(policyd: Arc<dyn Policyd>, clock: Clock) -> Self {
        Self { policyd, clock, gates: Arc::default() }
    }

    /// Decides from now on by `applied` on all services that it enforces for but `own`. What did not change keeps its
    /// state; what is no service any more has no policies. `heard` is when policyd last stood by what is known.
    ///
    /// # Errors
    /// When a part of it can't be used. What was in use stays.
    pub(crate) fn apply(&self, applied: &Applied, own: &str, heard: Timestamp) -> Result<(), ApplyError> {
        let before = self.gates.load_full();
        let enforced = applied.config.policies.services.iter().filter(|enforced| enforced.service != own);
        let next = enforced.map(|enforced| {
            let gate = before.get(&enforced.service).cloned().unwrap_or_else(|| Arc::new(self.gate(heard)));
            let said = Applied::of_gate(&gate.current.applied(), applied, enforced)?;
            Ok((enforced.service.clone(), gate, said))
        });
        let next = next.collect::<Result<Vec<_>, ApplyError>>()?;
        let gates = next.into_iter().map(|(service, gate, said)| {
            gate.current.replace(said);
            (service, gate)
        });
        let gates: HashMap<_, _> = gates.collect();
        let gone = before.iter().filter(|(service, _)| !gates.contains_key(*service));
        gone.for_each(|(_, gate)| gate.current.replace(Applied::default()));
        self.gates.store(Arc::new(gates));
        Ok(())
    }

    fn gate(&self, heard: Timestamp) -> Gate {
        let current = Current::nothing();
        current.heard(heard);
        let checker =
            Checker::of_at_most(ENTRIES_MAX, self.policyd.clone(), current.clone(), self.clock.clone());
        Gate { current, checker }
    }

    /// What decides on calls to `service`, if policyd has said so.
    pub(crate) fn of(&self, service: &str) -> Option<Arc<Gate>> {
        self.gates.load().get(service).cloned()
    }

    /// Decisions on `service` from before `floor` are not to be used again.
    pub(crate) fn raise_floor(&self, service: &str, floor: Revision) {
        if let Some(gate) = self.gates.load().get(service) {
            gate.current.raise_floor(floor);
        }
    }

    /// What is known has become stale, or fresh again.
    pub(crate) fn aged(&self) {
        self.gates.load().values().for_each(|gate| gate.current.aged());
    }

    /// policyd stood by all it had said at the time `at`.
    pub(crate) fn heard(&self, at: Timestamp) {
        self.gates.load().values().for_each(|gate| gate.current.heard(at));
    }
}
