use std::collections::BTreeMap;
use std::sync::Mutex;

use model::{Allowance, Operand};

use async_trait::async_trait;
use jiff::Timestamp;
use model::{Action, Attributes, Decision, Name, Principal};

use super::*;
use crate::policy_client::{Charge, Loan, Taken, Unavailable, Want};

#[derive(Debug, Default)]
struct Double {
    answer: Mutex<Option<Taken>>,
    charges: Mutex<Vec<Charge>>,
    /// How much it lends at a time.
    lends: Mutex<Option<u64>>,
    /// What was needed, and given back.
    wants: Mutex<Vec<(u64, u64)>>,
}

#[async_trait]
impl Policyd for Double {
    async fn check(&self, _attributes: &Attributes) -> Result<Decision, Unavailable> {
        panic!("limits are not decided on")
    }

    async fn take(&self, service: &str, _id: [u8; 16], charges: Vec<Charge>) -> Result<Taken, Unavailable> {
        assert_eq!(service, "shop");
        *self.charges.lock().unwrap() = charges;
        self.answer.lock().unwrap().clone().ok_or_else(|| Unavailable("down".to_owned()))
    }

    async fn lend(&self, service: &str, want: Want) -> Result<Loan, Unavailable> {
        assert_eq!(service, "shop");
        let lent = (*self.lends.lock().unwrap()).ok_or_else(|| Unavailable("down".to_owned()))?;
        self.wants.lock().unwrap().push((want.need, want.unspent));
        // What is lent is asked for at once, so the clock of a test stands still meanwhile.
        tokio::task::yield_now().await;
        let balance = held(0, if lent < want.need { 3 } else { 0 });
        Ok(Loan { amount: lent, hold: 500_000_000, balance })
    }
}

fn limit(name: &str, mode: Mode, rate: &str, burst: u64, on_store_failure: OnStoreFailure) -> Limit {
    let key = vec![Operand::Context(Name::Header("user".into()))];
    let rate = rate.parse().unwrap();
    let allowance = Allowance::Rate { rate, burst: burst.try_into().unwrap() };
    Limit { allowance, on_store_failure, ..Limit::of_rate(name, mode, rate, key) }
}

fn local(rate: &str, burst: u64) -> Limit {
    limit("local", Mode::Local, rate, burst, OnStoreFailure::Closed)
}

fn limits(limits: &[Limit]) -> Limits {
    Limits::after(&Limits::default(), limits, 2).unwrap()
}

fn request(user: Option<&str>) -> Attributes {
    Attributes {
        principal: Principal::Unauthenticated,
        action: Action::Http,
        resource: "shop".into(),
        method: "GET".into(),
        path: "/".into(),
        host: "shop".into(),
        headers: user.map(|user| ("user".to_owned(), user.to_owned())).into_iter().collect(),
        query: BTreeMap::new(),
        source_ip: "127.0.0.1".parse().unwrap(),
        tls: false,
        time: Timestamp::UNIX_EPOCH,
        ..Attributes::default()
    }
}

fn shared(policyd: &Arc<Double>) -> Arc<dyn Policyd> {
    Arc::clone(policyd) as _
}

type Charged = Result<Vec<(String, u64)>, String>;

/// Charges once; `Ok` with what remains of each limit, `Err` with the wait or the reason.
async fn charge(limits: &Limits, user: &str, policyd: &Arc<Double>) -> Charged {
    let names: Vec<String> = limits.by_name.keys().cloned().collect();
    match limits.charge(&names, &request(Some(user)), &shared(policyd)).await {
        Outcome::Allowed(Permit { balances, .. }) => {
            Ok(balances.iter().map(|balance| (balance.limit.name.clone(), balance.remaining)).collect())
        }
        Outcome::Limited(over) => Err(format!("{} {:?}", over.limit.name, over.retry_after)),
        Outcome::Unavailable { limit, why } => Err(format!("{limit}: {why}")),
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_limit_admits_its_burst_and_then_its_rate() {
    let limits = limits(&[local("2 per 10s", 3)]);
    let none = Arc::<Double>::default();
    let left = |remaining| Ok(vec![("local".to_owned(), remaining)]);
    for remaining in [2, 1, 0] {
        assert_eq!(charge(&limits, "a", &none).await, left(remaining));
    }
    assert_eq!(charge(&limits, "a", &none).await, Err("local 5s".into()));
    assert_eq!(charge(&limits, "b", &none).await, left(2), "each key has an allowance of its own");
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(charge(&limits, "a", &none).await, Err("local 1s".into()));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(charge(&limits, "a", &none).await, left(0));
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(charge(&limits, "a", &none).await, left(2));
}

#[tokio::test(start_paused = true)]
async fn balances_say_when_the_burst_is_back() {
    let limits = limits(&[local("2 per 10s", 3)]);
    let names = ["local".to_owned()];
    let Outcome::Allowed(Permit { balances, .. }) =
        limits.charge(&names, &request(None), &shared(&Arc::default())).await
    else {
        panic!()
    };
    assert_eq!(
        (balances[0].remaining, balances[0].reset, balances[0].retry_after),
        (2, Duration::from_secs(5), Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_limit_keeps_its_count() {
    let first = limits(&[local("1/min", 1)]);
    let none = Arc::<Double>::default();
    assert!(charge(&first, "a", &none).await.is_ok());
    let same = Limits::after(
        &first,
        &[local("1/min", 1), limit("new", Mode::Local, "1/s", 1, OnStoreFailure::Closed)],
        2,
    )
    .unwrap();
    assert!(same.charge(&["local".to_owned()], &request(Some("a")), &shared(&none)).await.is_limited());
    let changed = Limits::after(&first, &[local("2/min", 1)], 2).unwrap();
    // What was used stays used, but no more than all that there is now.
    assert_eq!(charge(&changed, "a", &none).await, Err("local 30s".into()));
    let other_key = Limit { key: vec![Operand::Principal], ..local("2/min", 1) };
    let changed = Limits::after(&first, &[other_key], 2).unwrap();
    assert!(charge(&changed, "a", &none).await.is_ok());
}

impl Outcome {
    const fn is_limited(&self) -> bool {
        matches!(self, Self::Limited(_))
    }
}

fn held(remaining: u64, retry_after: u64) -> limits::Balance {
    limits::Balance {
        remaining,
        retry_after: Duration::from_secs(retry_after),
        reset: Duration::from_secs(60),
    }
}

#[tokio::test(start_paused = true)]
async fn mesh_limits_are_taken_together_and_the_tightest_comes_first() {
    let policyd = Arc::<Double>::default();
    let limits = limits(&[
        limit("one", Mode::Exact, "5/s", 5, OnStoreFailure::Closed),
        limit("two", Mode::Exact, "5/s", 5, OnStoreFailure::Closed),
        limit("three", Mode::Local, "5/s", 5, OnStoreFailure::Closed),
    ]);
    let names = ["one", "two", "three"].map(str::to_owned);
    *policyd.answer.lock().unwrap() = Some(Taken { allowed: true, balances: vec![held(9, 0), held(2, 0)] });
    let Outcome::Allowed(Permit { balances, .. }) =
        limits.charge(&names, &request(Some("a")), &shared(&policyd)).await
    else {
        panic!()
    };
    let order: Vec<_> =
        balances.iter().map(|balance| (balance.limit.name.as_str(), balance.remaining)).collect();
    assert_eq!(order, [("two", 2), ("three", 4), ("one", 9)]);
    let charge = |limit: &str| Charge { limit: limit.to_owned(), key: "s1:a".to_owned(), amount: 1 };
    assert_eq!(*policyd.charges.lock().unwrap(), [charge("one"), charge("two")]);

    *policyd.answer.lock().unwrap() = Some(Taken { allowed: false, balances: vec![held(0, 3), held(0, 7)] });
    let Outcome::Limited(over) = limits.charge(&names, &request(Some("a")), &shared(&policyd)).await else {
        panic!()
    };
    assert_eq!((over.limit.name.as_str(), over.retry_after), ("two", Duration::from_secs(7)));
}

#[tokio::test(start_paused = true)]
async fn without_policyd_the_limits_fail_mode_decides() {
    let open = limit("open", Mode::Exact, "5/s", 5, OnStoreFailure::Open);
    let closed = limit("closed", Mode::Exact, "5/s", 5, OnStoreFailure::Closed);
    let short = Some(Taken { allowed: true, balances: vec![] });
    let table: [(&[Limit], Option<Taken>, Charged); 4] = [
        (std::slice::from_ref(&open), None, Ok(vec![])),
        (std::slice::from_ref(&closed), None, Err("closed: down".into())),
        (&[open.clone(), closed.clone()], None, Err("closed: down".into())),
        (std::slice::from_ref(&closed), short, Err("closed: policyd did not answer for each limit".into())),
    ];
    for (set, answer, expected) in table {
        let policyd = Arc::new(Double { answer: Mutex::new(answer), ..Double::default() });
        assert_eq!(charge(&limits(set), "a", &policyd).await, expected);
    }
    let unknown = limits(&[]).charge(&["x".to_owned()], &request(None), &shared(&Arc::default())).await;
    assert!(matches!(unknown, Outcome::Unavailable { limit, .. } if limit == "x"));
}

#[tokio::test(start_paused = true)]
async fn what_is_lent_is_spent_without_asking_and_asked_for_together() {
    let policyd = Arc::new(Double { lends: Mutex::new(Some(3)), ..Double::default() });
    let limits = limits(&[limit("leased", Mode::Leased, "100/s", 100, OnStoreFailure::Closed)]);
    let charge = |user| charge(&limits, user, &policyd);
    let (one, two, three) = tokio::join!(charge("a"), charge("a"), charge("b"));
    assert!(one.is_ok() && two.is_ok() && three.is_ok(), "{one:?} {two:?} {three:?}");
    // The second waited for the answer to the first, and was served from it.
    assert_eq!(*policyd.wants.lock().unwrap(), [(1, 0), (1, 0)]);
    assert!(charge("a").await.is_ok());
    assert_eq!(policyd.wants.lock().unwrap().len(), 2, "nobody was asked");
    *policyd.lends.lock().unwrap() = Some(0);
    assert_eq!(charge("a").await, Err("leased 3s".into()));
    assert_eq!(charge("a").await, Err("leased 3s".into()));
    assert_eq!(policyd.wants.lock().unwrap().len(), 3, "nothing is to be had for three seconds");
    tokio::time::advance(Duration::from_secs(4)).await;
    *policyd.lends.lock().unwrap() = None;
    assert_eq!(charge("a").await, Err("leased: down".into()));
    *policyd.lends.lock().unwrap() = Some(1);
    assert!(charge("a").await.is_ok(), "it is asked again");
    // What was lent to `b` and not spent goes back.
    *policyd.lends.lock().unwrap() = Some(1);
    assert!(charge("b").await.is_ok());
    assert_eq!(policyd.wants.lock().unwrap().last(), Some(&(1, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_one_limit_refuses_is_charged_to_none() {
    let policyd = Arc::new(Double { lends: Mutex::new(Some(5)), ..Double::default() });
    let leased = |name| limit(name, Mode::Leased, "100/s", 100, OnStoreFailure::Closed);
    let exact = limit("exact", Mode::Exact, "1/s", 1, OnStoreFailure::Closed);
    // policyd takes from both or from none, and nothing is borrowed; nor is the local one charged.
    let asked = limits(&[exact, leased("leased"), local("10/s", 10)]);
    let answer = |allowed: bool| {
        let balance = held(0, u64::from(!allowed));
        Some(Taken { allowed, balances: vec![balance, balance] })
    };
    for _refused in 0..20 {
        *policyd.answer.lock().unwrap() = answer(false);
        assert!(charge(&asked, "a", &policyd).await.is_err_and(|why| why.ends_with(" 1s")));
    }
    assert!(policyd.wants.lock().unwrap().is_empty());
    *policyd.answer.lock().unwrap() = answer(true);
    let left: BTreeMap<String, u64> = charge(&asked, "a", &policyd).await.unwrap().into_iter().collect();
    assert_eq!((left["local"], left["exact"], left["leased"]), (9, 0, 0));

    // What one lease refuses is put back into the other.
    let both = limits(&[leased("first"), leased("second")]);
    assert!(charge(&both, "a", &policyd).await.is_ok());
    for _spent in 0..4 {
        assert!(charge(&both, "a", &policyd).await.is_ok());
    }
    assert_eq!(policyd.wants.lock().unwrap().len(), 2, "each had five");
    *policyd.lends.lock().unwrap() = Some(0);
    for _refused in 0..20 {
        assert!(charge(&both, "a", &policyd).await.is_err());
    }
    let asked = policyd.wants.lock().unwrap().len();
    assert!(asked <= 4, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn while_policyd_is_away_each_proxy_admits_its_share() {
    let policyd = Arc::<Double>::default();
    for mode in [Mode::Leased, Mode::Exact] {
        let limits = limits(&[limit("l", mode, "10/s", 10, OnStoreFailure::SafeShare)]);
        let mut admitted = 0;
        while charge(&limits, "a", &policyd).await.is_ok() {
            admitted += 1;
        }
        assert_eq!(admitted, 5, "{mode:?}: there are two of us");
        assert_eq!(charge(&limits, "a", &policyd).await, Err("l 200ms".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_in_shadow_refuses_nothing_and_overrides_hold_for_their_keys() {
    let none = Arc::<Double>::default();
    let shadow = Limit { shadow: true, ..local("1/h", 1) };
    let tried = limits(&[shadow]);
    assert_eq!(charge(&tried, "a", &none).await, Ok(vec![("local".to_owned(), 0)]));
    let names = ["local".to_owned()];
    let Outcome::Allowed(permit) = tried.charge(&names, &request(Some("a")), &shared(&none)).await else {
        panic!()
    };
    assert!(permit.balances.is_empty() && permit.would_limit.len() == 1);
    let gold = Allowance::Rate { rate: "5/h".parse().unwrap(), burst: 5.try_into().unwrap() };
    let gold = Limit { overrides: [("s4:gold".to_owned(), gold)].into(), ..local("1/h", 1) };
    let limits = limits(&[gold]);
    assert_eq!(charge(&limits, "gold", &none).await, Ok(vec![("local".to_owned(), 4)]));
    assert_eq!(charge(&limits, "iron", &none).await, Ok(vec![("local".to_owned(), 0)]));
}

#[tokio::test(start_paused = true)]
async fn places_are_given_back_and_bytes_are_charged_when_a_request_has_ended() {
    let none = Arc::<Double>::default();
    let two = Allowance::Concurrency(2.try_into().unwrap());
    let limits_of_two = limits(&[Limit { allowance: two, ..local("1/s", 1) }]);
    let names = ["local".to_owned()];
    let (facts, policyd) = (request(Some("a")), shared(&none));
    let one = limits_of_two.charge(&names, &facts, &policyd).await;
    let two = limits_of_two.charge(&names, &facts, &policyd).await;
    assert!(limits_of_two.charge(&names, &facts, &policyd).await.is_limited());
    drop(one);
    let three = limits_of_two.charge(&names, &facts, &policyd).await;
    assert!(matches!(three, Outcome::Allowed(_)));
    drop((two, three));

    let bytes = limits(&[Limit { cost: Cost::ResponseBytes, ..local("1000/s", 1000) }]);
    let Outcome::Allowed(mut permit) = bytes.charge(&names, &facts, &policyd).await else { panic!() };
    permit.usages.iter_mut().for_each(|usage| usage.passed(7, 5000));
    drop(permit);
    let Outcome::Limited(over) = bytes.charge(&names, &facts, &policyd).await else { panic!() };
    assert_eq!(over.retry_after, Duration::from_millis(4001), "a debt of 4000, and one");
}

#[test]
fn a_burst_beyond_counting_is_refused() {
    let error = Limits::after(&Limits::default(), &[local("1/30d", 4)], 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the limit `local` can't be counted: a burst of 4 takes more than 100 days to come back"
    );
    assert!(Limits::after(&Limits::default(), &[local("4294967295/1ms", 4_294_967_295)], 2).is_ok());
}
