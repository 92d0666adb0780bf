//! One decision for one request: from the cache, from policyd, or from the fail mode.
//!
//! Never an error: a failure to decide becomes what the service's fail mode says, by name, and only here.
//!
//! What makes the cache sound:
//! - a key is made with the atom set of one revision of the service's decisions, and only entries of that very
//!   revision answer it;
//! - that revision must reach the floor, which policyd raises with every change that concerns the service;
//! - policyd must have stood by that floor not longer ago than the bundle's `stale_after`;
//! - an answer is kept only if it is of the revision its key was made with, and reaches the floor by then.
//!
//! Misses of one key share one question. It runs as a task of its own, so a caller that goes away takes
//! nobody else's answer with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::Clock;
use jiff::Timestamp;
pub(crate) use model::decision::Source;
use model::{Action, Attributes, Decision, Fact, Facts, FailMode, Name, Principal, Revision, Room, Verdict};
use tokio::sync::watch;

use crate::applied::{Applied, Current};
use crate::decision_cache::{DecisionCache, ENTRIES_MAX};
use crate::policy_client::{Policyd, Unavailable};

/// How long policyd may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// How often policyd is asked when its answers are older than the floor.
const QUESTIONS_MAX: usize = 2;

/// A decision, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// The decision to enforce.
    pub decision: Arc<Decision>,
    /// Where it came from.
    pub source: Source,
}

/// Decides on requests to one service: this proxy's own, or one outside of the mesh that its application calls. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policyd: Arc<dyn Policyd>,
    current: Current,
    cache: DecisionCache,
    flights: Mutex<HashMap<Question, watch::Receiver<Option<Answer>>>>,
    clock: Clock,
}

/// What callers that may share an answer have in common. The revision is part of it because the same bytes
/// mean something else under another atom set.
pub(crate) type Question = (Revision, Box<[u8]>);

/// Why a request's decision is not in the cache.
#[derive(Debug)]
pub(crate) enum Missing {
    /// There are no policies yet.
    Policies,
    /// It has to be asked for: the fail mode if that fails, and what others may ask too.
    Decision(FailMode, Option<Question>),
}

#[derive(Clone, Debug)]
struct Answer {
    result: Result<Arc<Decision>, Unavailable>,
    /// The floor when the question was asked.
    floor: Revision,
}

impl Checker {
    /// A checker with an empty cache.
    pub(crate) fn new(policyd: Arc<dyn Policyd>, current: Current, clock: Clock) -> Self {
        Self::of_at_most(ENTRIES_MAX, policyd, current, clock)
    }

    /// The same, which keeps fewer decisions.
    pub(crate) fn of_at_most(
        entries: usize,
        policyd: Arc<dyn Policyd>,
        current: Current,
        clock: Clock,
    ) -> Self {
        let cache = DecisionCache::new(entries);
        Self { shared: Arc::new(Shared { policyd, current, cache, flights: Mutex::default(), clock }) }
    }

    /// The number of cached decisions.
    pub(crate) fn cached(&self) -> usize {
        self.shared.cache.len()
    }

    /// Decides on one request, which arrived at `now`. If it has to be asked about, all its facts are needed: these
    /// are `whole`.
    pub(crate) async fn decide<F: Facts>(
        &self,
        facts: &F,
        now: Timestamp,
        whole: impl FnOnce(&F) -> Attributes,
    ) -> Checked {
        match self.look_up(facts, now) {
            Ok(decision) => Checked { decision, source: Source::Hit },
            Err(Missing::Policies) => {
                degraded(FailMode::Closed, "policyd has not sent this service's policies yet")
            }
            Err(Missing::Decision(fail_mode, question)) => self.ask(fail_mode, question, &whole(facts)).await,
        }
    }

    /// The decision on a request, if it is cached at `now`. Allocates nothing and locks nothing that threads share, unless
    /// this thread asks for the first time.
    pub(crate) fn look_up(&self, facts: &impl Facts, now: Timestamp) -> Result<Arc<Decision>, Missing> {
        let applied = self.shared.current.look();
        let enforced = applied.enforced.as_ref().ok_or(Missing::Policies)?;
        if !enforced.atoms.is_cacheable() {
            // No key says all that such a decision depends on, so nobody else's answer will do.
            return Err(Missing::Decision(enforced.fail_mode, None));
        }
        // Found with the configuration that the key is made with: another one may give the name to other requests.
        let (mut method, mut path) = (String::new(), String::new());
        let read = (facts.fact(&Name::Method, &mut method), facts.fact(&Name::Path, &mut path));
        let operation = match read {
            (Some(Fact::Text(method)), Some(Fact::Text(path))) => applied.operations.find(method, path),
            _ => None,
        };
        let facts = &Identified { facts, operation };
        let revision = enforced.revision;
        with_key(facts, &applied, |key| {
            let found = self.shared.lookup(key, revision, &applied, now);
            found.ok_or_else(|| Missing::Decision(enforced.fail_mode, Some((revision, Box::from(key)))))
        })
    }

    /// Asks policyd; alone without a question to share.
    async fn ask(&self, fail_mode: FailMode, question: Option<Question>, attributes: &Attributes) -> Checked {
        for _ in 0..QUESTIONS_MAX {
            let answer = match &question {
                Some(question) => self.shared.fly(question, attributes).await,
                None => self.shared.question(attributes).await,
            };
            match answer.result {
                Ok(decision) if answer_is_current(&decision, answer.floor, self.shared.current.floor()) => {
                    return Checked { decision, source: Source::Miss };
                }
                Ok(_older_than_the_floor) => {}
                Err(Unavailable(why)) => return degraded(fail_mode, &why),
            }
        }
        degraded(fail_mode, "policyd's answers are older than its latest policies")
    }
}

/// A request whose operation is known.
struct Identified<'r, F> {
    facts: &'r F,
    operation: Option<&'r str>,
}

impl<F: Facts> Facts for Identified<'_, F> {
    fn principal(&self) -> &Principal {
        self.facts.principal()
    }

    fn action(&self) -> Action {
        self.facts.action()
    }

    fn resource(&self) -> &str {
        self.facts.resource()
    }

    fn fact<'a>(&'a self, name: &Name, room: &'a mut String) -> Option<Fact<'a>> {
        match name {
            Name::Operation => self.operation.map(Fact::Text),
            name => self.facts.fact(name, room),
        }
    }
}

impl Shared {
    fn lookup(
        &self,
        key: &[u8],
        revision: Revision,
        applied: &Applied,
        now: Timestamp,
    ) -> Option<Arc<Decision>> {
        if !revision.reaches(self.current.floor()) || self.current.is_stale(applied, now) {
            return None;
        }
        self.cache.get(key, revision, now)
    }

    /// The answer to `question`, which may be on its way for somebody else already.
    async fn fly(self: &Arc<Self>, question: &Question, attributes: &Attributes) -> Answer {
        let mut flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(question) {
                Some(flight) => flight.clone(),
                None => {
                    let (landed, flight) = watch::channel(None);
                    flights.insert(question.clone(), flight.clone());
                    tokio::spawn(Arc::clone(self).pilot(question.clone(), attributes.clone(), landed));
                    flight
                }
            }
        };
        match flight.wait_for(Option::is_some).await.map(|answer| answer.clone()) {
            Ok(Some(answer)) => answer,
            _ => Answer {
                result: Err(Unavailable("the question was lost".to_owned())),
                floor: self.current.floor(),
            },
        }
    }

    async fn pilot(
        self: Arc<Self>,
        question: Question,
        attributes: Attributes,
        landed: watch::Sender<Option<Answer>>,
    ) {
        let asked_at = self.clock.now();
        // Removed even if the task is dropped half-way, lest all later callers wait for nothing.
        let _removed = Landing { flights: &self.flights, question: &question };
        let answer = self.question(&attributes).await;
        if let Ok(decision) = &answer.result
            && decision.revision == question.0
            && decision.revision.reaches(self.current.floor())
        {
            self.cache.insert(&question.1, decision, asked_at);
        }
        drop(_removed);
        landed.send_replace(Some(answer));
    }

    async fn question(&self, attributes: &Attributes) -> Answer {
        let floor = self.current.floor();
        let result = match tokio::time::timeout(DEADLINE, self.policyd.check(attributes)).await {
            Ok(result) => result.map(Arc::new),
            Err(_) => Err(Unavailable(format!("policyd did not answer within {DEADLINE:?}"))),
        };
        Answer { result, floor }
    }
}

struct Landing<'a> {
    flights: &'a Mutex<HashMap<Question, watch::Receiver<Option<Answer>>>>,
    question: &'a Question,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(self.question);
    }
}

/// Whether an answer may be used now. One of another epoch comes from a policyd that has just restarted and is
/// its present word, unless we have heard of a new epoch since we asked: then it may come from the life before.
fn answer_is_current(decision: &Decision, floor_when_asked: Revision, floor: Revision) -> bool {
    if decision.revision.epoch == floor.epoch {
        decision.revision.reaches(floor)
    } else {
        floor_when_asked.epoch == floor.epoch
    }
}

fn degraded(fail_mode: FailMode, why: &str) -> Checked {
    let decision = Decision {
        verdict: match fail_mode {
            FailMode::Closed => Verdict::Deny,
            FailMode::Open => Verdict::Allow,
        },
        reasons: Vec::new(),
        message: why.to_owned(),
        limits: Vec::new(),
        rules: Vec::new(),
        valid_for: Duration::ZERO,
        revision: Revision::default(),
        degraded: true,
        shadows: Vec::new(),
    };
    Checked { decision: Arc::new(decision), source: Source::Degraded }
}

/// Runs `then` on the request's key, in a buffer that each thread keeps.
fn with_key<T>(facts: &impl Facts, applied: &Applied, then: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        static ROOM: RefCell<Room> = RefCell::default();
    }
    ROOM.with_borrow_mut(|room| then(applied.keys().encode(facts, room)))
}

#[cfg(test)]
mod soundness;
#[cfg(test)]
mod tests;
