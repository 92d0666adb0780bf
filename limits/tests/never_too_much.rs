//! No window holds more than a limit lets it, whatever the order of requests, questions, losses and crashes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::num::NonZeroU64;

use model::limit::{Mode, Period};
use model::{Allowance, Limit};
use proptest::prelude::*;
use tidegate_limits::book::Charge;
use tidegate_limits::simulation::{Arrival, Random, Setup, arrivals, run};
use tidegate_limits::{Book, Nanos};

const SECOND: Nanos = 1_000_000_000;
const MILLI: Nanos = 1_000_000;
/// Some time in 2026, in the middle of a day.
const START: Nanos = 1_795_600_000 * SECOND;

fn limit(allowance: Allowance, mode: Mode) -> Limit {
    Limit { allowance, ..Limit::of_rate("l", mode, "1/s".parse().unwrap(), vec![]) }
}

fn rate(text: &str, burst: u64) -> Allowance {
    Allowance::Rate { rate: text.parse().unwrap(), burst: NonZeroU64::new(burst).unwrap() }
}

/// The most that any window of so long holds.
fn most_in(window: Nanos, admitted: &[(Nanos, u64)]) -> u64 {
    let (mut most, mut sum, mut oldest) = (0, 0, 0);
    for (at, amount) in admitted {
        sum += amount;
        while admitted[oldest].0 <= at - window {
            sum -= admitted[oldest].1;
            oldest += 1;
        }
        most = most.max(sum);
    }
    most
}

/// Requests with gaps, proxies and amounts as they come.
fn some_arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (prop_oneof![Just(0), 0..2 * MILLI, 0..200 * MILLI], 0..16_usize, 1..4_u64);
    prop::collection::vec(one, 1..600).prop_map(|all| {
        let mut at = START;
        let next = |(gap, proxy, amount)| {
            at += gap;
            Arrival { at, proxy, amount }
        };
        all.into_iter().map(next).collect()
    })
}

fn some_setup() -> impl Strategy<Value = Setup> {
    (
        1..8_usize,
        0..20 * MILLI,
        prop_oneof![Just(0), 0..300_u64],
        prop_oneof![Just(0), 50 * MILLI..SECOND],
        any::<u64>(),
    )
        .prop_map(|(proxies, round_trip, lost_per_mille, crash_every, seed)| Setup {
            proxies,
            round_trip,
            lost_per_mille,
            crash_every,
            seed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// GCRA: in any time T no more than burst + rate × T, give or take the answer's way to the proxy for what
    /// is spent as it is lent.
    #[test]
    fn of_a_rate(arrivals in some_arrivals(), setup in some_setup(), burst in 1..40_u64, count in 1..400_u64) {
        for mode in [Mode::Leased, Mode::Exact] {
            let limit = limit(rate(&format!("{count}/s"), burst), mode);
            let outcome = run(&setup, &limit, arrivals.clone()).unwrap();
            for window in [0, 10 * MILLI, 100 * MILLI, SECOND, 10 * SECOND] {
                let time = window + setup.round_trip;
                let allowed = burst + u64::try_from(i128::from(time) * i128::from(count) / i128::from(SECOND)).unwrap();
                let most = most_in(window.max(1), &outcome.admitted);
                prop_assert!(most <= allowed, "{mode:?}: {most} in {window} ns, and {allowed} are allowed");
            }
        }
    }

    /// Rolling windows: never more than the count in any window.
    #[test]
    fn of_a_rolling_window(arrivals in some_arrivals(), setup in some_setup(), count in 3..60_u64) {
        for mode in [Mode::Leased, Mode::Exact] {
            let limit = limit(Allowance::Rolling(format!("{count}/s").parse().unwrap()), mode);
            let setup = Setup { round_trip: setup.round_trip.min(SECOND / 128), ..setup };
            let outcome = run(&setup, &limit, arrivals.clone()).unwrap();
            let most = most_in(SECOND - setup.round_trip, &outcome.admitted);
            prop_assert!(most <= count, "{mode:?}: {most} of {count}");
        }
    }

    /// Calendar: never more than the count in any period.
    #[test]
    fn of_a_period(arrivals in some_arrivals(), setup in some_setup(), count in 3..60_u64) {
        for mode in [Mode::Leased, Mode::Exact] {
            let count = NonZeroU64::new(count).unwrap();
            let limit = limit(Allowance::Calendar { count, period: Period::Second, zone: "UTC".into() }, mode);
            // What is spent as it is lent arrives a little later: without that, periods hold to the nanosecond.
            let setup = Setup { round_trip: 0, ..setup };
            let outcome = run(&setup, &limit, arrivals.clone()).unwrap();
            let mut periods = std::collections::BTreeMap::new();
            for (at, amount) in &outcome.admitted {
                *periods.entry(at.div_euclid(SECOND)).or_insert(0) += amount;
            }
            prop_assert!(periods.values().all(|used| *used <= count.get()), "{mode:?}: {periods:?} of {count}");
        }
    }

    /// What nobody else is in the way of is admitted as if there were no mesh at all.
    #[test]
    fn and_not_too_little_where_one_proxy_asks_for_each(arrivals in some_arrivals(), burst in 3..40_u64) {
        let setup = Setup { proxies: 1, round_trip: 0, lost_per_mille: 0, crash_every: 0, seed: 1 };
        let allowance = rate("50/s", burst);
        let local = run(&setup, &limit(allowance.clone(), Mode::Local), arrivals.clone()).unwrap();
        let exact = run(&setup, &limit(allowance, Mode::Exact), arrivals).unwrap();
        prop_assert_eq!(local.admitted, exact.admitted);
    }
}

/// At a steady load at most 2 % of what a limit allows goes unused, and hardly anybody waits for policyd.
#[test]
fn and_hardly_too_little() {
    for proxies in [2, 4, 16] {
        for (tenths, burst) in [(5, 1), (9, 1), (15, 1), (30, 10), (100, 1)] {
            let setup = Setup { proxies, round_trip: MILLI, lost_per_mille: 0, crash_every: 0, seed: 7 };
            let mean = 1_000_000 / tenths;
            // After two seconds the burst that there is at the beginning is used up.
            let (from, until) = (START + 2 * SECOND, START + 12 * SECOND);
            let all = arrivals(mean, burst, START, until, 3);
            let offered = all.len() as u64;
            let steady = all.iter().filter(|arrival| arrival.at >= from).count() as u64;
            let outcome = run(&setup, &limit(rate("10000/s", 10_000), Mode::Leased), all).unwrap();
            let admitted: u64 =
                outcome.admitted.iter().filter(|(at, _)| *at >= from).map(|(_, amount)| amount).sum();
            let admitted = admitted as f64 / steady.min(100_000) as f64;
            let alone = outcome.by_itself as f64 / offered as f64;
            println!(
                "{proxies} proxies, {tenths} tenths: {admitted:.4} of what is allowed, {alone:.4} by themselves, {} asked",
                outcome.questions
            );
            assert!(admitted >= 0.98, "{proxies} proxies, {tenths} tenths: {admitted}");
            assert!(tenths > 10 || alone >= 0.98, "{proxies} proxies, {tenths} tenths: {alone}");
        }
    }
}

/// Where what was used is lost, everybody is taken to have used all, and what was lent to be out still.
#[test]
fn after_a_loss_everybody_waits_for_what_may_have_been_used() {
    let limit = std::sync::Arc::new(limit(rate("2 per 10s", 2), Mode::Exact));
    let mut book = Book::after_a_loss(START);
    let mut taken = |millis: i64| {
        let charge = Charge { limit: &limit, key: "k", amount: 1 };
        book.take(&[charge], START + millis * MILLI).unwrap().0
    };
    assert_eq!([taken(0), taken(5_999), taken(6_000), taken(6_001)], [false, false, true, false]);
    assert_eq!([taken(11_000), taken(16_000)], [true, true]);
}

/// One by one, requests pass where the crate that most of Rust limits with lets them, too.
#[test]
fn as_governor_does() {
    use governor::clock::FakeRelativeClock;
    use governor::{Quota, RateLimiter};

    let (limit, clock) =
        (std::sync::Arc::new(limit(rate("7/s", 5), Mode::Local)), FakeRelativeClock::default());
    // governor rounds the time for one down to a nanosecond, and we round it up; so it gets ours.
    let interval = std::time::Duration::from_nanos(142_857_143);
    let quota = Quota::with_period(interval).unwrap().allow_burst(5.try_into().unwrap());
    let theirs = RateLimiter::direct_with_clock(quota, clock.clone());
    let (mut ours, mut now, mut random) = (Book::new(), START, Random::new(5));
    for _request in 0..5_000 {
        let pause = random.pause(100 * MILLI);
        now += pause;
        clock.advance(std::time::Duration::from_nanos(pause.unsigned_abs()));
        let charge = Charge { limit: &limit, key: "k", amount: 1 };
        assert_eq!(ours.take(&[charge], now).unwrap().0, theirs.check().is_ok(), "at {now}");
    }
}
