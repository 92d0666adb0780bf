//! Closes connections to upstreams that nobody has used for a while.

use std::sync::Arc;
use std::time::Duration;

use daemon::Lifecycle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::request::Proxy;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(10);

/// Looks again and again, until the proxy stops.
pub(crate) async fn until_stopped(proxy: Arc<Proxy>, lifecycle: Lifecycle) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = lifecycle.stopping() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        proxy.application.sweep(now);
        proxy.interception.sweep(now);
        proxy.current.applied().services.values().for_each(|service| service.sweep(now));
    }
}
