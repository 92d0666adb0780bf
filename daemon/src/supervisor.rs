//! What a supervisor such as systemd is told, if there is one.

use sd_notify::NotifyState;

/// This daemon has started.
pub fn started() {
    tell(NotifyState::Ready);
}

/// From now on the service is the process with this id: the caller has given it its place, and is about to end.
pub fn replaced_by(process: u32) {
    tell(NotifyState::MainPid(process));
}

fn tell(state: NotifyState<'_>) {
    // Nothing is told, and nothing fails, where nobody has set `NOTIFY_SOCKET`.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the supervisor can't be told");
    }
}
