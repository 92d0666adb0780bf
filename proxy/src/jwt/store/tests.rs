use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use http::StatusCode;
use serde_json::json;

use super::*;
use crate::jwt::fetch::FetchError;
use crate::jwt::issuer::Issuer;
use crate::jwt::test_tokens::*;
use crate::jwt::token::Wrong;
use crate::jwt::{Claims, Refused};

/// What an issuer's server answers, one after the other; the last answer stays.
#[derive(Debug)]
struct Server {
    answers: Mutex<VecDeque<Result<Fetched, StatusCode>>>,
    asked: watch::Sender<usize>,
}

#[async_trait]
impl Source for Server {
    async fn fetch(&self, url: &str) -> Result<Fetched, FetchError> {
        assert_eq!(url, URL);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        self.asked.send_modify(|count| *count += 1);
        answer.map_err(FetchError::Status)
    }
}

const URL: &str = "https://accounts.example/jwks";
const AWAY: Result<Fetched, StatusCode> = Err(StatusCode::BAD_GATEWAY);

fn keys(keys: &[serde_json::Value], max_age: Option<u64>) -> Result<Fetched, StatusCode> {
    Ok(Fetched { text: key_set(keys).into(), max_age: max_age.map(Duration::from_secs) })
}

fn text(text: &'static str) -> Result<Fetched, StatusCode> {
    Ok(Fetched { text: text.into(), max_age: None })
}

/// An issuer whose keys are fetched from a server, and the time.
struct Setting {
    server: Arc<Server>,
    clock: Clock,
    issuer: Issuer,
    shown: daemon::Metrics,
}

impl Setting {
    fn new(answers: impl IntoIterator<Item = Result<Fetched, StatusCode>>) -> Self {
        let server = Arc::new(Server {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: watch::Sender::default(),
        });
        let clock = Clock::starting_at("2026-06-01T12:00:00Z".parse().unwrap());
        let shown = daemon::Metrics::new();
        let environment = Environment {
            source: server.clone(),
            clock: clock.clone(),
            lifecycle: Lifecycle::new(),
            metrics: Metrics::new(&shown),
        };
        let issuer = Issuer::new(issuer(KeySource::Url(URL.to_owned())), &environment);
        Self { server, clock, issuer, shown }
    }

    async fn check(&self, token: &str) -> Result<Arc<Claims>, Refused> {
        self.issuer.claims(token, self.clock.now()).await
    }

    /// A token of `signer` that is good for an hour from now.
    fn token(&self, signer: &Signer, id: &str) -> String {
        signer.sign(id, &claims(self.clock.now()))
    }

    fn asked(&self) -> usize {
        *self.server.asked.borrow()
    }

    /// Lets time pass, and whatever is due then be done.
    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

const SECOND: Duration = Duration::from_secs(1);
const UNKNOWN: Result<Arc<Claims>, Refused> = Err(Refused::Token(Wrong::UnknownKey));

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_keys_and_is_refused_if_none_come() {
    let setting = Setting::new([keys(&[EC.jwk("a")], None)]);
    assert!(setting.check(&setting.token(&EC, "a")).await.is_ok());
    assert_eq!(setting.asked(), 1);
    let setting = Setting::new([AWAY]);
    let token = setting.token(&EC, "a");
    assert_eq!(setting.check(&token).await, Err(Refused::NoKeys("accounts".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn keys_come_as_soon_as_the_server_is_back() {
    let setting = Setting::new([AWAY, text("<html>"), text("{\"keys\": []}"), keys(&[EC.jwk("a")], None)]);
    let token = setting.token(&EC, "a");
    assert!(setting.check(&token).await.is_err());
    setting.pass(120 * SECOND).await;
    assert!(setting.check(&token).await.is_ok());
    assert_eq!(setting.asked(), 4);
    let shown = setting.shown.render();
    assert!(
        shown.contains("tidegate_jwks_fetches_total{issuer=\"accounts\",outcome=\"failed\"} 3"),
        "{shown}"
    );
    assert!(shown.contains("tidegate_jwks_fetches_total{issuer=\"accounts\",outcome=\"ok\"} 1"), "{shown}");
    assert!(
        shown.contains("tidegate_jwks_fetched_timestamp_seconds{issuer=\"accounts\"} 17803152"),
        "{shown}"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_without_a_refused_token() {
    let both = [EC.jwk("a"), OTHER_EC.jwk("b")];
    let setting =
        Setting::new([keys(&both[..1], Some(600)), keys(&both, Some(600)), keys(&both[1..], Some(600))]);
    let (old, new) = (setting.token(&EC, "a"), setting.token(&OTHER_EC, "b"));
    assert!(setting.check(&old).await.is_ok());
    setting.pass(20 * SECOND).await;
    // The first token by the new key has the keys fetched.
    assert!(setting.check(&new).await.is_ok());
    assert!(setting.check(&old).await.is_ok());
    assert_eq!(setting.asked(), 2);
    setting.pass(479 * SECOND).await;
    assert!(setting.check(&old).await.is_ok());
    // Before the ten minutes are over they are fetched again, and the old key is gone, though it was known to be good.
    setting.pass(2 * SECOND).await;
    assert_eq!(setting.asked(), 3);
    assert_eq!(setting.check(&old).await, UNKNOWN);
    assert!(setting.check(&new).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_in_its_bad_times_turns_no_good_key_bad() {
    let good = keys(&[EC.jwk("a")], None);
    let bad = [
        AWAY,
        text(""),
        text("{\"keys\": []}"),
        text("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}"),
        AWAY,
    ];
    let setting = Setting::new([good].into_iter().chain(bad));
    for hour in 0..48 {
        let token = setting.token(&EC, "a");
        assert!(setting.check(&token).await.is_ok(), "{hour}");
        setting.pass(3600 * SECOND).await;
    }
    assert!(setting.asked() > 40, "{}", setting.asked());
}

#[tokio::test(start_paused = true)]
async fn whatever_strangers_send_keys_are_not_fetched_all_the_time() {
    let setting = Setting::new([keys(&[EC.jwk("a")], Some(86_400))]);
    assert!(setting.check(&setting.token(&EC, "a")).await.is_ok());
    for number in 0..600 {
        let token = setting.token(&OTHER_EC, &format!("key-{number}"));
        assert_eq!(setting.check(&token).await, UNKNOWN);
        setting.pass(SECOND / 10).await;
    }
    // In a minute: the first time, and every ten seconds.
    assert!((6..=8).contains(&setting.asked()), "{}", setting.asked());
    // Another issuer's tokens have nothing fetched at all.
    let asked = setting.asked();
    setting.pass(20 * SECOND).await;
    let others = claims_with(setting.clock.now(), &json!({"iss": "https://other.example"}));
    assert_eq!(setting.check(&OTHER_EC.sign("b", &others)).await, Err(Refused::Token(Wrong::Issuer)));
    assert_eq!(setting.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn many_requests_with_a_new_key_wait_for_one_fetch() {
    let setting = Setting::new([keys(&[EC.jwk("a")], None), keys(&[EC.jwk("a"), OTHER_EC.jwk("b")], None)]);
    assert!(setting.check(&setting.token(&EC, "a")).await.is_ok());
    setting.pass(60 * SECOND).await;
    let new = setting.token(&OTHER_EC, "b");
    let all = futures_util::future::join_all((0..20).map(|_| setting.check(&new))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(setting.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_known_token_ends_when_it_says() {
    let setting = Setting::new([keys(&[EC.jwk("a")], None)]);
    let token = setting.token(&EC, "a");
    assert!(setting.check(&token).await.is_ok());
    let first = setting.check(&token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &setting.check(&token).await.unwrap()), "it was verified again");
    setting.pass(3659 * SECOND).await;
    assert!(setting.check(&token).await.is_ok());
    setting.pass(SECOND).await;
    assert_eq!(setting.check(&token).await, Err(Refused::Token(Wrong::Expired)));
}

#[test]
fn keys_are_fetched_again_before_they_are_too_old() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (max_age, pause) in [
        (None, minutes(8)),
        (Some(minutes(0)), Duration::from_secs(48)),
        (Some(minutes(10)), minutes(8)),
        (Some(minutes(60)), minutes(48)),
        (Some(minutes(60 * 24)), minutes(48)),
    ] {
        assert_eq!(fresh_for(max_age), pause, "{max_age:?}");
    }
}
