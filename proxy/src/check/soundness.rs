//! The property that everything in `check` and `decision_cache` is for: a proxy with a cache answers as the
//! policies do, whatever the requests, the changes of policy and the order in which the proxy hears of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::config::{Config, STALE_AFTER};
use model::{
    Atom, AtomSet, Attributes, Decision, FailMode, Keys, Name, Revision, Room, Test, Value, Verdict,
};
use proptest::prelude::*;

use super::Source;
use super::tests::{Setting, allow, at, by_path, request};
use crate::applied::Applied;

/// One policy state: any function of its atoms' outcomes.
#[derive(Clone, Debug)]
struct State {
    revision: Revision,
    atoms: AtomSet,
    seed: u64,
}

impl State {
    /// What these policies say, without any cache.
    fn verdict(&self, attributes: &Attributes) -> Verdict {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut room = Room::default();
        let key = Keys::new(&self.atoms).encode(attributes, &mut room);
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        if hasher.finish().is_multiple_of(2) { Verdict::Allow } else { Verdict::Deny }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A request, and whether the proxy hears of the newest state while policyd's answer is on its way.
    Ask(Box<Attributes>, bool),
    /// policyd's policies change.
    Change(Vec<Atom>, u64, bool),
    /// policyd restarts, with the same policies.
    Restart,
    /// The proxy gets policyd's configuration.
    Deliver,
    /// The proxy hears of policyd's revision.
    Heartbeat,
    /// policyd's policies change, but not for this service; the proxy is told of the rest.
    ChangeElsewhere,
    /// Time passes.
    Wait(u64),
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let header = prop::option::of(prop::sample::select(vec!["", "1", "2"]));
    (prop::sample::select(vec!["/a", "/ab", "/b"]), header, any::<bool>(), any::<bool>()).prop_map(
        |(path, header, tls, post)| {
            let headers = header.map(|value| ("x".to_owned(), value.to_owned())).into_iter().collect();
            let method = if post { "POST" } else { "GET" }.to_owned();
            Attributes { headers, tls, method, ..request(path) }
        },
    )
}

fn atom() -> impl Strategy<Value = Atom> {
    let name = prop::sample::select(vec![Name::Path, Name::Method, Name::Header("x".into()), Name::Tls]);
    let like = |pieces: &[&str]| {
        Test::Like(pieces.iter().map(|piece| (*piece).to_owned()).collect::<Vec<_>>().try_into().unwrap())
    };
    let tests = vec![
        Test::Value,
        Test::Present,
        Test::Equals(Value::Text("GET".into())),
        Test::Equals(Value::Bool(true)),
        Test::OneOf(vec![Value::Text("1".into()), Value::Text("/a".into())]),
        like(&["/a", ""]),
        like(&["", "b"]),
    ];
    (name, prop::sample::select(tests)).prop_map(|(name, test)| Atom::new(name, test))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (attributes(), prop::bool::weighted(0.1)).prop_map(|(attributes, meanwhile)| Step::Ask(Box::new(attributes), meanwhile)),
        2 => (prop::collection::vec(atom(), 1..3), any::<u64>(), prop::bool::weighted(0.9)).prop_map(|(atoms, seed, cacheable)| Step::Change(atoms, seed, cacheable)),
        1 => Just(Step::Restart),
        2 => Just(Step::Deliver),
        1 => Just(Step::Heartbeat),
        1 => Just(Step::ChangeElsewhere),
        1 => (1u64..100).prop_map(Step::Wait),
    ]
}

/// Runs `steps` and compares every decision with the policies' own.
async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let setting = Setting::new();
    let first = State { revision: at(5), atoms: AtomSet::new(vec![by_path()], true), seed: 0 };
    let states = Arc::new(Mutex::new(vec![first]));
    let newest = || states.lock().unwrap().last().unwrap().clone();
    let meanwhile = Arc::new(Mutex::new(false));
    setting.will_answer({
        let (states, meanwhile, current) =
            (Arc::clone(&states), Arc::clone(&meanwhile), setting.current.clone());
        move |attributes| {
            let mut states = states.lock().unwrap();
            let now = states.last().unwrap().clone();
            if std::mem::take(&mut *meanwhile.lock().unwrap()) {
                let next = State { revision: now.revision.next(), seed: now.seed ^ 1, ..now.clone() };
                current.raise_floor(next.revision);
                states.push(next);
            }
            Ok(Decision { verdict: now.verdict(attributes), ..allow(now.revision) })
        }
    });
    let (mut elsewhere, mut heard) = (0, setting.clock.now());
    for step in steps {
        match step {
            Step::Ask(attributes, changes_meanwhile) => {
                *meanwhile.lock().unwrap() = changes_meanwhile;
                let now = setting.clock.now();
                let checked = setting.checker.decide(&*attributes, now, Attributes::clone).await;
                *meanwhile.lock().unwrap() = false;
                let revision = checked.decision.revision;
                let is_stale = now.duration_since(heard) >= STALE_AFTER.try_into().unwrap();
                prop_assert!(!(is_stale && checked.source == Source::Hit), "a hit though stale");
                let states = states.lock().unwrap();
                let is_it = |state: &&State| state.revision == revision;
                let state = states.iter().find(is_it).expect("a state of policyd");
                prop_assert_eq!(checked.decision.verdict, state.verdict(&attributes), "{:?}", checked);
                let is_newest = revision == states.last().unwrap().revision;
                let floor = setting.current.floor();
                prop_assert!(is_newest || revision.reaches(floor), "{} below {}", revision, floor);
            }
            Step::Change(atoms, seed, cacheable) => {
                let revision = newest().revision.next();
                states.lock().unwrap().push(State { revision, atoms: AtomSet::new(atoms, cacheable), seed });
            }
            Step::Restart => {
                let revision = Revision { epoch: newest().revision.epoch + 1, number: 1 };
                let restarted = State { revision, ..newest() };
                states.lock().unwrap().push(restarted);
            }
            Step::Deliver => {
                setting.apply(newest().revision, newest().atoms, FailMode::Closed);
                heard = setting.clock.now();
            }
            Step::Heartbeat => {
                setting.current.raise_floor(newest().revision);
                heard = setting.clock.now();
                setting.current.heard(heard);
            }
            Step::ChangeElsewhere => {
                elsewhere += 1;
                let applied = setting.current.applied();
                let revision = Revision { number: 1000 + elsewhere, ..applied.config.revision };
                let config = Config { revision, ..applied.config.clone() };
                let enforced = applied.enforced.clone();
                setting.current.replace(Applied { config, enforced, ..Applied::default() });
            }
            Step::Wait(seconds) => setting.clock.advance(Duration::from_secs(seconds)),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cached_decisions_are_those_of_the_policies(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
