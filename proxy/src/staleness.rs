//! Says when policyd has been silent for too long, and when it speaks again.
//!
//! Whether a cached decision may be used is looked at anew for each request ([`Current::is_stale`]); this task only
//! tells of it, once.

use daemon::{Clock, Lifecycle};

use crate::applied::Current;
use crate::egress::Egress;
use crate::metrics::Metrics;

/// Tells until the proxy stops.
pub(crate) async fn tell_until_stopped(
    (current, egress): (Current, Egress),
    clock: Clock,
    metrics: Metrics,
    lifecycle: Lifecycle,
) {
    tokio::select! {
        () = lifecycle.stopping() => {}
        () = tell(&current, &egress, &clock, &metrics) => {}
    }
}

async fn tell(current: &Current, egress: &Egress, clock: &Clock, metrics: &Metrics) {
    let mut heard = current.hearing();
    // Before the first word there is nothing to be stale.
    if heard.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let applied = current.applied();
        let is_stale = || current.is_stale(&current.applied(), clock.now());
        tokio::select! {
            () = clock.sleep_until(current.fresh_until(&applied)) => {}
            Ok(()) = heard.changed() => continue,
        }
        if !is_stale() {
            continue;
        }
        metrics.stale(true);
        current.aged();
        egress.aged();
        let stale_after = applied.config.policies.stale_after;
        tracing::warn!(
            ?stale_after,
            "policyd is silent: no decision is used again, each request is asked for"
        );
        while is_stale() && heard.changed().await.is_ok() {}
        metrics.stale(false);
        current.aged();
        egress.aged();
        tracing::info!("policyd speaks again");
    }
}
