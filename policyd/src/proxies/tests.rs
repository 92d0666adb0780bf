use std::time::Duration;

use super::*;

struct Setting {
    proxies: Arc<Proxies>,
    shown: daemon::Metrics,
}

impl Setting {
    fn new() -> Self {
        let shown = daemon::Metrics::new();
        let metrics = Arc::new(Metrics::new(&shown));
        Self { proxies: Arc::new(Proxies::new(Clock::system(), metrics)), shown }
    }

    fn proxy(&self, instance: &str) -> Place {
        self.proxies.place(instance.into(), "spiffe://a/b".into(), vec!["s".into()])
    }

    fn counts(&self) -> [usize; 3] {
        self.proxies.count().map(|(_, count)| count)
    }

    /// How many changes have reached the last proxy, and how long they took.
    fn rolled_out(&self) -> (String, String) {
        let text = self.shown.render();
        let sample = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        let name = "tidegate_policyd_rollout_seconds";
        (sample(&format!("{name}_count")), sample(&format!("{name}_sum")))
    }
}

fn at(number: u64) -> Revision {
    Revision { epoch: 1, number }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_out_with_the_last_acknowledgement_of_those_it_concerns() {
    let setting = Setting::new();
    setting.proxies.publishing(at(1));
    let (one, two, three) = (setting.proxy("one"), setting.proxy("two"), setting.proxy("three"));
    [&one, &two, &three].into_iter().for_each(|proxy| proxy.in_step(at(1)));
    assert_eq!((setting.counts(), setting.rolled_out().0), ([3, 0, 0], "0".into()), "a start is no change");

    setting.proxies.publishing(at(2));
    assert_eq!(setting.counts(), [0, 3, 0]);
    let late = setting.proxy("late");
    late.acknowledged(at(2), Some(at(2)));
    tokio::time::advance(Duration::from_secs(1)).await;
    one.acknowledged(at(2), Some(at(2)));
    tokio::time::advance(Duration::from_secs(1)).await;
    two.acknowledged(at(2), Some(at(2)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(setting.rolled_out().0, "0");
    three.in_step(at(2));
    assert_eq!(setting.rolled_out(), ("1".into(), "2.0".into()), "it did not concern the third");
    assert_eq!(setting.counts(), [4, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_or_refuses_is_not_waited_for_and_one_acknowledgement_may_end_two_changes() {
    let setting = Setting::new();
    setting.proxies.publishing(at(1));
    let (one, two, three) = (setting.proxy("one"), setting.proxy("two"), setting.proxy("three"));
    setting.proxies.publishing(at(2));
    setting.proxies.publishing(at(3));
    tokio::time::advance(Duration::from_secs(1)).await;
    one.acknowledged(at(3), Some(at(3)));
    two.refused(at(3), "no such folder".into());
    assert_eq!((setting.counts(), setting.rolled_out().0), ([1, 1, 1], "0".into()));
    let rows = setting.proxies.list();
    assert_eq!(rows.revision, "1.3");
    assert_eq!(rows.proxies[0].revision.as_deref(), Some("1.3"));
    assert_eq!(rows.proxies[1].error.as_deref(), Some("no such folder"));
    drop(three);
    assert_eq!(setting.rolled_out(), ("2".into(), "2.0".into()));

    setting.proxies.publishing(at(4));
    one.in_step(at(4));
    two.acknowledged(at(4), Some(at(4)));
    assert_eq!((setting.counts(), setting.rolled_out().0), ([2, 0, 0], "3".into()));
    assert_eq!(setting.proxies.list().proxies[1].error, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_later_is_still_waited_for() {
    let setting = Setting::new();
    setting.proxies.publishing(at(1));
    let one = setting.proxy("one");
    one.acknowledged(at(1), None);
    assert_eq!(setting.counts(), [0, 1, 0]);
    let instances = ["one".to_owned()];
    let waiting = setting.proxies.until_in_step(&instances, at(1));
    let waiting = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    assert!(waiting.is_err(), "it has not acknowledged the last it was sent");
    one.acknowledged(at(1), Some(at(1)));
    setting.proxies.until_in_step(&instances, at(1)).await;
}

#[test]
fn only_so_many_changes_are_followed() {
    let setting = Setting::new();
    let _slow = setting.proxy("slow");
    (1..500).for_each(|number| setting.proxies.publishing(at(number)));
    assert_eq!(setting.proxies.watching().rollouts.len(), ROLLOUTS_MAX);
}
