use std::sync::atomic::{AtomicUsize, Ordering};

use api::config::{Config, Enforced, Enforcement, Exposure, STALE_AFTER};
use async_trait::async_trait;
use jiff::Timestamp;
use model::{Action, Atom, AtomSet, Name, Principal, Test};
use tokio::sync::Semaphore;

use super::*;
use crate::applied::Applied;
use crate::policy_client::{Charge, Loan, Taken, Want};

type Answering = Box<dyn Fn(&Attributes) -> Result<Decision, Unavailable> + Send>;

/// A policyd that answers as a test says, when it says.
struct Double {
    answer: Mutex<Answering>,
    asked: AtomicUsize,
    /// One permit an answer.
    may_answer: Semaphore,
}

impl std::fmt::Debug for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Double")
    }
}

#[async_trait]
impl Policyd for Double {
    async fn check(&self, attributes: &Attributes) -> Result<Decision, Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = (self.answer.lock().unwrap())(attributes);
        self.may_answer.acquire().await.unwrap().forget();
        answer
    }

    async fn lend(&self, _service: &str, _want: Want) -> Result<Loan, Unavailable> {
        panic!("nothing is borrowed here")
    }

    async fn take(&self, _service: &str, _id: [u8; 16], _charges: Vec<Charge>) -> Result<Taken, Unavailable> {
        panic!("a check takes nothing")
    }
}

pub(super) struct Setting {
    pub(super) checker: Checker,
    policyd: Arc<Double>,
    pub(super) current: Current,
    pub(super) clock: Clock,
}

impl Setting {
    /// At revision 1.5, with the path as the only atom.
    pub(super) fn new() -> Self {
        let policyd = Arc::new(Double {
            answer: Mutex::new(Box::new(|_| Ok(allow(at(5))))),
            asked: AtomicUsize::new(0),
            may_answer: Semaphore::new(1000),
        });
        let current = Current::nothing();
        let clock = Clock::system();
        let checker = Checker::new(policyd.clone(), current.clone(), clock.clone());
        let setting = Self { checker, policyd, current, clock };
        setting.apply(at(5), AtomSet::new(vec![by_path()], true), FailMode::Closed);
        setting
    }

    pub(super) fn apply(&self, revision: Revision, atoms: AtomSet, fail_mode: FailMode) {
        let (service, denial_exposure, enforcement) = ("shop".into(), Exposure::Mesh, Enforcement::Enforce);
        let (decision_log, routes, issuers) = (None, Vec::new(), Vec::new());
        let enforced = Enforced {
            service,
            revision,
            atoms,
            fail_mode,
            denial_exposure,
            enforcement,
            decision_log,
            routes,
            issuers,
            merge_slashes: false,
        };
        let config = Config { revision, ..Config::default() };
        self.current.replace(Applied { config, enforced: Some(enforced), ..Applied::default() });
        self.current.heard(self.clock.now());
    }

    pub(super) fn will_answer(
        &self,
        answer: impl Fn(&Attributes) -> Result<Decision, Unavailable> + Send + 'static,
    ) {
        *self.policyd.answer.lock().unwrap() = Box::new(answer);
    }

    fn asked(&self) -> usize {
        self.policyd.asked.load(Ordering::SeqCst)
    }

    async fn until_asked(&self, count: usize) {
        let until = async {
            while self.asked() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), until).await.expect("as many questions");
    }

    async fn decide(&self, path: &str) -> Checked {
        self.checker.decide(&request(path), self.clock.now(), Attributes::clone).await
    }

    async fn source(&self, path: &str) -> Source {
        self.decide(path).await.source
    }
}

pub(super) fn at(number: u64) -> Revision {
    Revision { epoch: 1, number }
}

pub(super) fn by_path() -> Atom {
    Atom::new(Name::Path, Test::Value)
}

pub(super) fn allow(revision: Revision) -> Decision {
    let mut decision = (*degraded(FailMode::Open, "").decision).clone();
    decision.degraded = false;
    decision.valid_for = Duration::from_secs(60);
    decision.revision = revision;
    decision
}

pub(super) fn request(path: &str) -> Attributes {
    Attributes {
        principal: Principal::Unauthenticated,
        action: Action::Http,
        resource: "shop".into(),
        method: "GET".into(),
        path: path.into(),
        host: "shop".into(),
        headers: std::collections::BTreeMap::new(),
        query: std::collections::BTreeMap::new(),
        source_ip: "127.0.0.1".parse().unwrap(),
        tls: false,
        time: Timestamp::UNIX_EPOCH,
        ..Attributes::default()
    }
}

#[tokio::test]
async fn a_decision_is_reused_for_its_key_and_its_time() {
    let setting = Setting::new();
    let a_minute = Duration::from_secs(60);
    assert_eq!([setting.source("/a").await, setting.source("/a").await], [Source::Miss, Source::Hit]);
    assert_eq!(setting.source("/b").await, Source::Miss);
    setting.clock.advance(a_minute);
    setting.current.heard(setting.clock.now());
    assert_eq!([setting.source("/a").await, setting.source("/a").await], [Source::Miss, Source::Hit]);
    assert_eq!(setting.asked(), 3);
}

#[tokio::test]
async fn what_must_not_be_kept_is_used_once() {
    let change = |change: fn(&mut Decision)| {
        let mut decision = allow(at(5));
        change(&mut decision);
        decision
    };
    let table = [
        ("degraded", change(|decision| decision.degraded = true)),
        ("not to be reused", change(|decision| decision.valid_for = Duration::ZERO)),
        ("newer than the atoms", change(|decision| decision.revision = at(6))),
        (
            "of a policyd that restarted",
            change(|decision| decision.revision = Revision { epoch: 2, number: 1 }),
        ),
    ];
    for (what, decision) in table {
        let setting = Setting::new();
        setting.will_answer(move |_| Ok(decision.clone()));
        assert_eq!(
            [setting.source("/a").await, setting.source("/a").await],
            [Source::Miss, Source::Miss],
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_raised_floor_ends_every_older_entry_at_once() {
    let setting = Setting::new();
    assert_eq!([setting.source("/a").await, setting.source("/a").await], [Source::Miss, Source::Hit]);
    setting.current.raise_floor(at(6));
    setting.will_answer(|_| Ok(allow(at(6))));
    // Answers are of revision 6, keys still made with the atoms of 5: right, but not to be kept.
    assert_eq!([setting.source("/a").await, setting.source("/a").await], [Source::Miss, Source::Miss]);
    setting.apply(at(6), AtomSet::new(vec![by_path()], true), FailMode::Closed);
    assert_eq!([setting.source("/a").await, setting.source("/a").await], [Source::Miss, Source::Hit]);
}

#[tokio::test]
async fn an_answer_below_the_floor_is_asked_for_once_more() {
    let setting = Setting::new();
    let answers = Mutex::new(vec![at(5), at(4)]);
    setting.will_answer(move |_| Ok(allow(answers.lock().unwrap().pop().unwrap())));
    let checked = setting.decide("/a").await;
    assert_eq!((checked.source, checked.decision.revision, setting.asked()), (Source::Miss, at(5), 2));

    setting.will_answer(|_| Ok(allow(at(4))));
    let checked = setting.decide("/b").await;
    assert_eq!(
        (checked.source, checked.decision.verdict, setting.asked()),
        (Source::Degraded, Verdict::Deny, 4)
    );
}

#[tokio::test]
async fn a_late_answer_from_before_a_change_is_neither_used_nor_kept() {
    let setting = Setting::new();
    let current = setting.current.clone();
    let answers = Mutex::new(vec![at(6), at(5)]);
    setting.will_answer(move |_| {
        // The change becomes known here while the answer is on its way.
        current.raise_floor(at(6));
        Ok(allow(answers.lock().unwrap().pop().unwrap()))
    });
    let checked = setting.decide("/a").await;
    assert_eq!((checked.decision.revision, setting.checker.cached()), (at(6), 0));
}

#[tokio::test]
async fn an_answer_of_another_epoch_counts_unless_the_epoch_changed_meanwhile() {
    let restarted = Revision { epoch: 2, number: 1 };
    let setting = Setting::new();
    setting.will_answer(move |_| Ok(allow(restarted)));
    assert_eq!(setting.source("/a").await, Source::Miss);

    let current = setting.current.clone();
    setting.will_answer(move |_| {
        current.raise_floor(restarted);
        Ok(allow(at(9)))
    });
    let checked = setting.decide("/b").await;
    // The second time nothing changes meanwhile, and a policyd that says epoch 1 is the one we have.
    assert_eq!((checked.source, setting.asked()), (Source::Miss, 3));
}

#[tokio::test(start_paused = true)]
async fn without_a_decision_the_fail_mode_decides() {
    for (fail_mode, verdict) in [(FailMode::Closed, Verdict::Deny), (FailMode::Open, Verdict::Allow)] {
        let setting = Setting::new();
        setting.apply(at(5), AtomSet::new(vec![by_path()], true), fail_mode);
        assert_eq!(setting.source("/cached").await, Source::Miss);
        setting.will_answer(|_| Err(Unavailable("down".to_owned())));
        let checked = setting.decide("/a").await;
        assert_eq!((checked.source, checked.decision.verdict), (Source::Degraded, verdict));
        assert!(checked.decision.degraded);
        assert_eq!(checked.decision.message, "down");
        assert_eq!(setting.source("/cached").await, Source::Hit, "what was decided before still counts");
        setting.will_answer(|_| Ok(allow(at(5))));
        assert_eq!(setting.source("/a").await, Source::Miss, "and it recovers by itself");

        setting.policyd.may_answer.forget_permits(1000);
        let checked = setting.decide("/slow").await;
        assert_eq!((checked.source, checked.decision.verdict), (Source::Degraded, verdict));
    }
    let setting = Setting::new();
    setting.current.replace(Applied::default());
    let checked = setting.decide("/a").await;
    assert_eq!((checked.source, checked.decision.verdict), (Source::Degraded, Verdict::Deny));
}

#[tokio::test]
async fn while_policyd_is_silent_for_too_long_each_request_is_asked_for() {
    let setting = Setting::new();
    let just = STALE_AFTER - Duration::from_millis(100);
    assert_eq!(setting.source("/a").await, Source::Miss);
    setting.clock.advance(just);
    assert_eq!(setting.source("/a").await, Source::Hit);
    setting.clock.advance(STALE_AFTER - just);
    assert_eq!([setting.source("/a").await, setting.source("/a").await], [Source::Miss, Source::Miss]);
    setting.will_answer(|_| Err(Unavailable("down".to_owned())));
    let checked = setting.decide("/a").await;
    assert_eq!((checked.source, checked.decision.verdict), (Source::Degraded, Verdict::Deny));
    setting.current.heard(setting.clock.now());
    assert_eq!(setting.source("/a").await, Source::Hit, "nothing had changed meanwhile");
}

#[tokio::test]
async fn a_change_that_does_not_concern_the_service_leaves_its_decisions() {
    let setting = Setting::new();
    assert_eq!(setting.source("/a").await, Source::Miss);
    let applied = setting.current.applied();
    let config = Config { revision: at(9), ..applied.config.clone() };
    let enforced = applied.enforced.clone();
    setting.current.replace(Applied { config, enforced, ..Applied::default() });
    assert_eq!((setting.source("/a").await, setting.current.floor()), (Source::Hit, at(5)));
}

#[tokio::test]
async fn one_question_a_key_and_no_caller_takes_it_away() {
    let setting = Setting::new();
    setting.policyd.may_answer.forget_permits(1000);
    let ask = |path: &'static str| {
        let (checker, now) = (setting.checker.clone(), setting.clock.now());
        tokio::spawn(async move { checker.decide(&request(path), now, Attributes::clone).await.source })
    };
    let first = ask("/a");
    setting.until_asked(1).await;
    let others: Vec<_> = (0..10).map(|_| ask("/a")).collect();
    let other_key = ask("/b");
    setting.until_asked(2).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    setting.policyd.may_answer.add_permits(2);
    for other in others {
        assert_eq!(other.await.unwrap(), Source::Miss);
    }
    assert_eq!((other_key.await.unwrap(), setting.asked()), (Source::Miss, 2));
    assert_eq!(setting.source("/a").await, Source::Hit);
    assert!(setting.checker.shared.flights.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_no_key_can_hold_is_asked_each_time_and_shared_with_nobody() {
    let setting = Setting::new();
    setting.apply(at(5), AtomSet::new(vec![], false), FailMode::Closed);
    setting.policyd.may_answer.forget_permits(1000);
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (checker, now) = (setting.checker.clone(), setting.clock.now());
            tokio::spawn(async move { checker.decide(&request("/a"), now, Attributes::clone).await.source })
        })
        .collect();
    setting.until_asked(3).await;
    setting.policyd.may_answer.add_permits(3);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Source::Miss);
    }
    assert_eq!(setting.checker.cached(), 0);
}
