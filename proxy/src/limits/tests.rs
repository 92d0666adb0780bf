use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use jiff::Timestamp;
use model::{Action, Attributes, Decision, Name, Principal, Value};

use super::*;
use crate::policy_client::{Held, Unavailable};

#[derive(Debug, Default)]
struct Double {
    answer: Mutex<Option<Taken>>,
    charges: Mutex<Vec<Charge>>,
}

#[async_trait]
impl Policyd for Double {
    async fn check(&self, _attributes: &Attributes) -> Result<Decision, Unavailable> {
        panic!("limits are not decided on")
    }

    async fn take(&self, service: &str, charges: Vec<Charge>) -> Result<Taken, Unavailable> {
        assert_eq!(service, "shop");
        *self.charges.lock().unwrap() = charges;
        self.answer.lock().unwrap().clone().ok_or_else(|| Unavailable("down".to_owned()))
    }
}

fn limit(name: &str, scope: Scope, rate: &str, burst: u32, fail_mode: FailMode) -> Limit {
    let key = vec![Operand::Context(Name::Header("user".into()))];
    Limit {
        name: name.into(),
        scope,
        rate: rate.parse().unwrap(),
        burst: burst.try_into().unwrap(),
        key,
        fail_mode,
    }
}

fn local(rate: &str, burst: u32) -> Limit {
    limit("local", Scope::Local, rate, burst, FailMode::Closed)
}

fn limits(limits: &[Limit]) -> Limits {
    Limits::after(&Limits::default(), limits).unwrap()
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

type Charged = Result<Vec<(String, u32)>, String>;

/// Charges once; `Ok` with what remains of each limit, `Err` with the wait or the reason.
async fn charge(limits: &Limits, user: &str, policyd: &Double) -> Charged {
    let names: Vec<String> = limits.by_name.keys().cloned().collect();
    match limits.charge(&names, &request(Some(user)), policyd).await {
        Outcome::Allowed(balances) => {
            Ok(balances.iter().map(|balance| (balance.limit.name.clone(), balance.remaining)).collect())
        }
        Outcome::Limited(over) => Err(format!("{} {:?}", over.limit.name, over.retry_after)),
        Outcome::Unavailable { limit, why } => Err(format!("{limit}: {why}")),
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_limit_admits_its_burst_and_then_its_rate() {
    let limits = limits(&[local("2 per 10s", 3)]);
    let none = Double::default();
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
    let Outcome::Allowed(balances) = limits.charge(&names, &request(None), &Double::default()).await else {
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
    let none = Double::default();
    assert!(charge(&first, "a", &none).await.is_ok());
    let same =
        Limits::after(&first, &[local("1/min", 1), limit("new", Scope::Local, "1/s", 1, FailMode::Closed)])
            .unwrap();
    assert!(same.charge(&["local".to_owned()], &request(Some("a")), &none).await.is_limited());
    let changed = Limits::after(&first, &[local("2/min", 1)]).unwrap();
    assert!(charge(&changed, "a", &none).await.is_ok());
}

impl Outcome {
    const fn is_limited(&self) -> bool {
        matches!(self, Self::Limited(_))
    }
}

fn held(remaining: u32, retry_after: u64) -> Held {
    Held { remaining, retry_after: Duration::from_secs(retry_after), reset: Duration::from_secs(60) }
}

#[tokio::test(start_paused = true)]
async fn mesh_limits_are_taken_together_and_the_tightest_comes_first() {
    let policyd = Double::default();
    let limits = limits(&[
        limit("one", Scope::Mesh, "5/s", 5, FailMode::Closed),
        limit("two", Scope::Mesh, "5/s", 5, FailMode::Closed),
        limit("three", Scope::Local, "5/s", 5, FailMode::Closed),
    ]);
    let names = ["one", "two", "three"].map(str::to_owned);
    *policyd.answer.lock().unwrap() = Some(Taken { allowed: true, balances: vec![held(9, 0), held(2, 0)] });
    let Outcome::Allowed(balances) = limits.charge(&names, &request(Some("a")), &policyd).await else {
        panic!()
    };
    let order: Vec<_> =
        balances.iter().map(|balance| (balance.limit.name.as_str(), balance.remaining)).collect();
    assert_eq!(order, [("two", 2), ("three", 4), ("one", 9)]);
    let charge = |limit: &str| Charge { limit: limit.to_owned(), key: "s1:a".to_owned() };
    assert_eq!(*policyd.charges.lock().unwrap(), [charge("one"), charge("two")]);

    *policyd.answer.lock().unwrap() = Some(Taken { allowed: false, balances: vec![held(0, 3), held(0, 7)] });
    let Outcome::Limited(over) = limits.charge(&names, &request(Some("a")), &policyd).await else { panic!() };
    assert_eq!((over.limit.name.as_str(), over.retry_after), ("two", Duration::from_secs(7)));
}

#[tokio::test(start_paused = true)]
async fn without_policyd_the_limits_fail_mode_decides() {
    let open = limit("open", Scope::Mesh, "5/s", 5, FailMode::Open);
    let closed = limit("closed", Scope::Mesh, "5/s", 5, FailMode::Closed);
    let short = Some(Taken { allowed: true, balances: vec![] });
    let table: [(&[Limit], Option<Taken>, Charged); 4] = [
        (std::slice::from_ref(&open), None, Ok(vec![])),
        (std::slice::from_ref(&closed), None, Err("closed: down".into())),
        (&[open.clone(), closed.clone()], None, Err("closed: down".into())),
        (std::slice::from_ref(&closed), short, Err("closed: policyd did not answer for each limit".into())),
    ];
    for (set, answer, expected) in table {
        let policyd = Double { answer: Mutex::new(answer), ..Double::default() };
        assert_eq!(charge(&limits(set), "a", &policyd).await, expected);
    }
    let unknown = limits(&[]).charge(&["x".to_owned()], &request(None), &Double::default()).await;
    assert!(matches!(unknown, Outcome::Unavailable { limit, .. } if limit == "x"));
}

#[test]
fn no_two_lists_of_values_share_a_key() {
    let user = Operand::Context(Name::Header("user".into()));
    let text = |text: &str| Operand::Literal(Value::Text(text.into()));
    let lists = [
        (vec![], None),
        (vec![user.clone()], None),
        (vec![user.clone()], Some("")),
        (vec![user.clone()], Some("-")),
        (vec![user.clone()], Some("1")),
        (vec![Operand::Literal(Value::Long(1))], None),
        (vec![text("a"), text("b")], None),
        (vec![text("as1:b")], None),
        (vec![text("ab")], None),
        (vec![text("a"), user.clone()], None),
    ];
    let keys: Vec<String> = lists.iter().map(|(operands, user)| key(operands, &request(*user))).collect();
    for (index, one) in keys.iter().enumerate() {
        assert!(!keys[index + 1..].contains(one), "{one}");
    }
}

#[test]
fn a_burst_beyond_counting_is_refused() {
    let error = Limits::after(&Limits::default(), &[local("1/30d", u32::MAX)]).unwrap_err();
    assert_eq!(error.to_string(), "the limit `local` has too large a burst for its window");
    assert!(Limits::after(&Limits::default(), &[local("4294967295/1ms", u32::MAX)]).is_ok());
}
