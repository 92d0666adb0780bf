//! Limits of which this proxy has borrowed a part from policyd.
//!
//! A request spends what is there, and waits for nobody. When too little is left, one question goes out for all who
//! wait; when little is left, one goes out before anybody has to.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use limits::pool::{Question, Spent};
use limits::{Balance, Nanos, Pool};
use model::Limit;
use tokio::sync::oneshot;

use super::{Anchor, DEADLINE};
use crate::policy_client::{Loan, Policyd, Unavailable, Want};

/// The most keys of one limit of which something is borrowed. When full, what was lent for those least worth keeping
/// is lost until it has come back by itself.
const KEYS_MAX: usize = 100_000;

/// Sets this proxy apart from others, so that they do not all ask at once.
static JITTER: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// What was borrowed of one limit, by key.
#[derive(Debug)]
pub(super) struct Leases {
    limit: Arc<Limit>,
    lanes: quick_cache::sync::Cache<String, Arc<Mutex<Lane>>>,
}

/// What was borrowed for one key, and who waits for more.
#[derive(Debug)]
struct Lane {
    pool: Pool,
    waiting: Vec<Waiting>,
    /// What policyd said last.
    told: Balance,
}

#[derive(Debug)]
struct Waiting {
    amount: u64,
    tell: oneshot::Sender<Result<Balance, NotSpent>>,
}

/// Why nothing was spent.
#[derive(Clone, Debug)]
pub(super) enum NotSpent {
    /// The limit is used up.
    Over(Balance),
    /// policyd could not be asked.
    Failed(String),
}

/// What one question is about.
#[derive(Clone)]
struct Asking {
    limit: Arc<Limit>,
    key: String,
    service: String,
    lane: Arc<Mutex<Lane>>,
    clock: Anchor,
    policyd: Arc<dyn Policyd>,
}

impl Leases {
    pub(super) fn new(limit: &Arc<Limit>) -> Self {
        Self { limit: Arc::clone(limit), lanes: quick_cache::sync::Cache::new(KEYS_MAX) }
    }

    /// Spends what was borrowed, or borrows it.
    pub(super) async fn spend(
        &self,
        key: &str,
        amount: u64,
        service: &str,
        clock: Anchor,
        policyd: &Arc<dyn Policyd>,
    ) -> Result<Balance, NotSpent> {
        let now = clock.now();
        let lane = self.lane(key, now);
        let asking = || Asking {
            limit: Arc::clone(&self.limit),
            key: key.to_owned(),
            service: service.to_owned(),
            lane: Arc::clone(&lane),
            clock,
            policyd: Arc::clone(policyd),
        };
        let answer = {
            let mut lane = lock(&lane);
            match lane.pool.spend(amount, now) {
                Spent::Yes => {
                    if lane.pool.is_low(now) {
                        asking().ask(&mut lane, now);
                    }
                    return Ok(lane.balance(now));
                }
                Spent::Dry(wait) => return Err(NotSpent::Over(lane.over(wait))),
                Spent::Empty => {
                    let (tell, answer) = oneshot::channel();
                    lane.waiting.push(Waiting { amount, tell });
                    asking().ask(&mut lane, now);
                    answer
                }
            }
        };
        let late = || NotSpent::Failed(format!("policyd did not answer within {DEADLINE:?}"));
        match tokio::time::timeout(2 * DEADLINE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err(late()),
            Err(_elapsed) => Err(late()),
        }
    }

    /// Puts back what a request has spent that another limit refused.
    pub(super) fn put_back(&self, key: &str, amount: u64, now: Nanos) {
        lock(&self.lane(key, now)).pool.put_back(amount, now);
    }

    fn lane(&self, key: &str, now: Nanos) -> Arc<Mutex<Lane>> {
        let nothing = Balance { remaining: 0, retry_after: Duration::ZERO, reset: Duration::ZERO };
        let new = || {
            let lane = Lane { pool: Pool::new(*JITTER, now), waiting: Vec::new(), told: nothing };
            Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(lane)))
        };
        match self.lanes.get_or_insert_with(key, new) {
            Ok(lane) => lane,
            Err(never) => match never {},
        }
    }
}

impl Lane {
    fn balance(&self, now: Nanos) -> Balance {
        Balance { remaining: self.told.remaining.saturating_add(self.pool.left(now)), ..self.told }
    }

    fn over(&self, wait: Nanos) -> Balance {
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(0));
        Balance { remaining: 0, retry_after: wait.max(Duration::from_millis(1)), ..self.told }
    }
}

impl Asking {
    /// Asks for all who wait, unless something was asked already.
    fn ask(self, lane: &mut Lane, now: Nanos) {
        let need = lane.waiting.iter().map(|waiting| waiting.amount).fold(0, u64::saturating_add);
        let Some(question) = lane.pool.ask(need, now) else { return };
        let needed_by = std::mem::take(&mut lane.waiting);
        // A task of its own: whoever asks may go away, and all others wait for the answer.
        tokio::spawn(self.run(question, needed_by));
    }

    async fn run(self, mut question: Question, mut needed_by: Vec<Waiting>) {
        loop {
            let want = Want {
                limit: self.limit.name.clone(),
                key: self.key.clone(),
                need: question.need,
                want: question.want,
                unspent: question.unspent,
                unspent_age: question.unspent_age,
                owed: question.owed,
            };
            let late = || Unavailable(format!("policyd did not answer within {DEADLINE:?}"));
            let answer = tokio::time::timeout(DEADLINE, self.policyd.lend(&self.service, want)).await;
            let answer = answer.unwrap_or_else(|_elapsed| Err(late()));
            let mut lane = lock(&self.lane);
            let now = self.clock.now();
            match answer {
                Ok(loan) => lane.lent(question, &loan, needed_by, now),
                Err(unavailable) => {
                    lane.pool.failed(question);
                    let all = needed_by.into_iter().chain(std::mem::take(&mut lane.waiting));
                    all.for_each(|one| drop(one.tell.send(Err(NotSpent::Failed(unavailable.0.clone())))));
                    return;
                }
            }
            let need = lane.waiting.iter().map(|waiting| waiting.amount).fold(0, u64::saturating_add);
            if need == 0 {
                return;
            }
            let Some(next) = lane.pool.ask(need, now) else { return };
            (question, needed_by) = (next, std::mem::take(&mut lane.waiting));
        }
    }
}

impl Lane {
    /// Hands out what was lent: first to those for whom it was asked, then to those who came meanwhile.
    fn lent(&mut self, question: Question, loan: &Loan, needed_by: Vec<Waiting>, now: Nanos) {
        self.told = loan.balance;
        let wait = Nanos::try_from(loan.balance.retry_after.as_nanos()).unwrap_or(Nanos::MAX);
        let mut there = self.pool.lent(question, loan.amount, loan.hold, wait, now);
        for waiting in needed_by {
            let is_there = waiting.amount <= there;
            let answer = if is_there { Ok(self.balance(now)) } else { Err(NotSpent::Over(self.over(wait))) };
            // Whoever went away meanwhile has used nothing.
            if waiting.tell.send(answer).is_ok() && is_there {
                there -= waiting.amount;
            }
        }
        if there > 0 {
            self.pool.give_up(there, question.asked_at);
        }
        for waiting in std::mem::take(&mut self.waiting) {
            let answer = match self.pool.spend(waiting.amount, now) {
                Spent::Empty => {
                    self.waiting.push(waiting);
                    continue;
                }
                Spent::Yes => Ok(self.balance(now)),
                Spent::Dry(wait) => Err(NotSpent::Over(self.over(wait))),
            };
            let was_spent = answer.is_ok();
            if waiting.tell.send(answer).is_err() && was_spent {
                self.pool.put_back(waiting.amount, now);
            }
        }
    }
}

fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}
