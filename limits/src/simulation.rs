//! Proxies and a policyd in a time that is made up: what a limit lets pass, before it is put to use.
//!
//! The same [`Pool`]s and [`Book`] as in the daemons, with a network between that takes its time, loses messages
//! and whose proxies crash. Everything follows from the seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use model::Limit;
use model::limit::Mode;

use crate::Nanos;
use crate::book::{Book, BookError, Charge};
use crate::page::Rules;
use crate::pool::{Pool, Question, Spent};

/// How long a proxy waits for an answer.
const DEADLINE: Nanos = 1_000_000_000;

/// A mesh that is made up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many proxies there are.
    pub proxies: usize,
    /// How long a question and its answer take together.
    pub round_trip: Nanos,
    /// How many questions of a thousand are lost, and as many answers.
    pub lost_per_mille: u64,
    /// Every so often a proxy, one after the other, crashes and forgets what it was lent; never if 0.
    pub crash_every: Nanos,
    /// What everything random follows from.
    pub seed: u64,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// When.
    pub at: Nanos,
    /// At which proxy; taken modulo their number.
    pub proxy: usize,
    /// How much it uses.
    pub amount: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was let in: when, and how much.
    pub admitted: Vec<(Nanos, u64)>,
    /// How many requests were refused.
    pub refused: u64,
    /// How many were decided without asking anybody, or waiting for one who asks.
    pub by_itself: u64,
    /// How many questions were asked.
    pub questions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Crash,
    /// A question reaches policyd.
    Asked(usize),
    /// An answer, or the end of waiting for it, reaches the proxy.
    Answered(usize, usize),
    Arrived(Arrival),
}

#[derive(Debug)]
struct Asked {
    question: Question,
    proxy: usize,
    /// How much was lent, for how long, and after which time there is more; none if no answer came.
    answer: Option<(u64, Nanos, Nanos)>,
    /// The requests that need it.
    needed_by: Vec<Arrival>,
    /// Whether it is of the proxy's life before a crash.
    life: u64,
}

#[derive(Debug)]
struct Proxy {
    pool: Pool,
    life: u64,
    waiting: VecDeque<Arrival>,
    local: Book,
}

struct Run<'a> {
    setup: &'a Setup,
    limit: Arc<Limit>,
    book: Book,
    proxies: Vec<Proxy>,
    asked: Vec<Asked>,
    events: BinaryHeap<Reverse<(Nanos, usize, Event)>>,
    sequence: usize,
    random: Random,
    outcome: Outcome,
}

/// Lets requests come to a limit, all of them of one key, in the order of their times.
///
/// # Errors
/// When the limit can't be measured.
pub fn run(
    setup: &Setup,
    limit: &Limit,
    arrivals: impl IntoIterator<Item = Arrival>,
) -> Result<Outcome, BookError> {
    let proxy = |number: usize| Proxy {
        pool: Pool::new(number as u64, 0),
        life: 0,
        waiting: VecDeque::new(),
        local: Book::new(),
    };
    let mut run = Run {
        setup,
        limit: Arc::new(limit.clone()),
        book: Book::new(),
        proxies: (0..setup.proxies.max(1)).map(proxy).collect(),
        asked: Vec::new(),
        events: BinaryHeap::new(),
        sequence: 0,
        random: Random::new(setup.seed),
        outcome: Outcome::default(),
    };
    Rules::new(Arc::clone(&run.limit))?;
    let mut last = 0;
    let mut first = None;
    for arrival in arrivals {
        first.get_or_insert(arrival.at);
        last = last.max(arrival.at);
        run.plan(arrival.at, Event::Arrived(arrival));
    }
    if setup.crash_every > 0 {
        let mut at = first.unwrap_or(0) + setup.crash_every;
        while at < last {
            run.plan(at, Event::Crash);
            at += setup.crash_every;
        }
    }
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        run.happen(event, now)?;
    }
    Ok(run.outcome)
}

impl Run<'_> {
    fn plan(&mut self, at: Nanos, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn happen(&mut self, event: Event, now: Nanos) -> Result<(), BookError> {
        match event {
            Event::Arrived(arrival) => self.arrive(arrival, now)?,
            Event::Asked(number) => self.answer(number, now)?,
            Event::Answered(proxy, number) => self.take_answer(proxy, number, now)?,
            Event::Crash => {
                let count = self.proxies.len();
                let crashes = usize::try_from(now / self.setup.crash_every.max(1)).unwrap_or(0) % count;
                if let Some(proxy) = self.proxies.get_mut(crashes) {
                    self.outcome.refused += proxy.waiting.len() as u64;
                    proxy.waiting.clear();
                    proxy.pool = Pool::new(crashes as u64, now);
                    proxy.life += 1;
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, arrival: Arrival, now: Nanos) -> Result<(), BookError> {
        let index = arrival.proxy % self.proxies.len();
        match self.limit.mode {
            Mode::Leased => {
                self.spend(index, arrival, true, now);
                self.ask_if_due(index, now);
                return Ok(());
            }
            Mode::Exact => self.outcome.questions += 1,
            Mode::Local => self.outcome.by_itself += 1,
        }
        let Some(proxy) = self.proxies.get_mut(index) else { return Ok(()) };
        let book = if self.limit.mode == Mode::Exact { &mut self.book } else { &mut proxy.local };
        let charge = Charge { limit: &self.limit, key: "", amount: arrival.amount };
        let (allowed, _) = book.take(&[charge], now)?;
        self.count(allowed, arrival.amount, now);
        Ok(())
    }

    fn count(&mut self, allowed: bool, amount: u64, now: Nanos) {
        if allowed {
            self.outcome.admitted.push((now, amount));
        } else {
            self.outcome.refused += 1;
        }
    }

    fn spend(&mut self, index: usize, arrival: Arrival, at_once: bool, now: Nanos) {
        let Some(proxy) = self.proxies.get_mut(index) else { return };
        match proxy.pool.spend(arrival.amount, now) {
            Spent::Empty => return proxy.waiting.push_back(arrival),
            Spent::Yes => self.count(true, arrival.amount, now),
            Spent::Dry(_) => self.count(false, arrival.amount, now),
        }
        self.outcome.by_itself += u64::from(at_once);
    }

    fn ask_if_due(&mut self, index: usize, now: Nanos) {
        if self.proxies.get(index).is_some_and(|proxy| !proxy.waiting.is_empty() || proxy.pool.is_low(now)) {
            self.ask(index, now);
        }
    }

    /// Asks for all who wait, unless something was asked already.
    fn ask(&mut self, index: usize, now: Nanos) {
        let Some(proxy) = self.proxies.get_mut(index) else { return };
        let need = proxy.waiting.iter().map(|waiting| waiting.amount).sum();
        let Some(question) = proxy.pool.ask(need, now) else { return };
        let needed_by = std::mem::take(&mut proxy.waiting).into();
        let number = self.asked.len();
        self.asked.push(Asked { question, proxy: index, answer: None, needed_by, life: proxy.life });
        self.outcome.questions += 1;
        if self.is_lost() {
            self.plan(now + DEADLINE, Event::Answered(index, number));
        } else {
            self.plan(now + self.setup.round_trip / 2, Event::Asked(number));
        }
    }

    /// policyd answers.
    fn answer(&mut self, number: usize, now: Nanos) -> Result<(), BookError> {
        let (lost, half) = (self.is_lost(), self.setup.round_trip / 2);
        let Some(asked) = self.asked.get_mut(number) else { return Ok(()) };
        let Question { need, want, unspent, unspent_age, owed, asked_at } = asked.question;
        if unspent > 0 {
            let unused = Charge { limit: &self.limit, key: "", amount: unspent };
            self.book.give_back(unused, now - unspent_age, now)?;
        }
        if owed > 0 {
            self.book.charge(Charge { limit: &self.limit, key: "", amount: owed }, now)?;
        }
        let loan = self.book.lend(&self.limit, "", need, want, now)?;
        let wait = Nanos::try_from(loan.balance.retry_after.as_nanos()).unwrap_or(Nanos::MAX);
        asked.answer = Some((loan.amount, loan.hold, wait)).filter(|_| !lost);
        let arrives = if lost { (asked_at + DEADLINE).max(now) } else { now + half };
        let proxy = asked.proxy;
        self.plan(arrives, Event::Answered(proxy, number));
        Ok(())
    }

    /// A proxy gets an answer, or gives up waiting for it.
    fn take_answer(&mut self, index: usize, number: usize, now: Nanos) -> Result<(), BookError> {
        let Some(proxy) = self.proxies.get_mut(index) else { return Ok(()) };
        let Some(asked) = self.asked.get_mut(number) else { return Ok(()) };
        let needed_by = std::mem::take(&mut asked.needed_by);
        if asked.life != proxy.life {
            // Whoever asked is no more, and so are they.
            self.outcome.refused += needed_by.len() as u64;
            return Ok(());
        }
        let mut there = match asked.answer {
            Some((amount, hold, wait)) => proxy.pool.lent(asked.question, amount, hold, wait, now),
            None => {
                proxy.pool.failed(asked.question);
                0
            }
        };
        let asked_at = asked.question.asked_at;
        let later = std::mem::take(&mut proxy.waiting);
        for arrival in needed_by {
            let is_there = arrival.amount <= there;
            there -= if is_there { arrival.amount } else { 0 };
            self.count(is_there, arrival.amount, now);
        }
        if there > 0
            && let Some(proxy) = self.proxies.get_mut(index)
        {
            proxy.pool.give_up(there, asked_at);
        }
        // All of them first: those for whom too little is left ask together.
        later.into_iter().for_each(|arrival| self.spend(index, arrival, false, now));
        self.ask_if_due(index, now);
        Ok(())
    }

    fn is_lost(&mut self) -> bool {
        self.setup.lost_per_mille > 0 && self.random.draw() % 1000 < self.setup.lost_per_mille
    }
}

/// Numbers that look random, from a seed (xorshift64*, Vigna 2016).
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    /// How long until the next of events that happen at a rate, by themselves (a Poisson process).
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a made-up time need not be exact"
    )]
    pub fn pause(&mut self, mean: Nanos) -> Nanos {
        let uniform = (self.draw() as f64 + 1.0) / (1_u64 << 53) as f64;
        (-uniform.ln() * mean as f64) as Nanos
    }
}

/// Requests that come at a rate, one by one or in bursts of so many, at proxies in turn by chance.
pub fn arrivals(mean: Nanos, burst: usize, from: Nanos, until: Nanos, seed: u64) -> Vec<Arrival> {
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    let mut at = from;
    while at < until {
        let proxy = usize::try_from(random.draw() % 1_000_003).unwrap_or(0);
        all.extend(std::iter::repeat_n(Arrival { at, proxy, amount: 1 }, burst.max(1)));
        at += random.pause(mean.saturating_mul(burst.max(1) as Nanos)).max(1);
    }
    all
}
