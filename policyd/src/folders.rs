//! Folders that others edit: news of them, and when to believe what is read there.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A change counts once the files have stayed the same for this long,
const QUIET: Duration = Duration::from_millis(20);
/// or once they were read this often.
const READS_MAX: usize = 10;
/// Folders are looked at this often even if the system tells of no change, as network file systems don't.
pub const POLL: Duration = Duration::from_secs(5);

/// What the system watches folders with, and where it tells that something has changed in one of them.
pub fn news() -> (notify::Result<RecommendedWatcher>, mpsc::Receiver<()>) {
    let (told, changes) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may be all there is of a change. A full queue already holds the news.
        if event.map_or(true, |event| !event.kind.is_access()) && told.try_send(()).is_err() {}
    });
    (watcher, changes)
}

/// Watches `folder`, and not what is below it. A folder that took the place of the one watched so far has to be watched
/// anew, so this is called before each look.
///
/// # Errors
/// When the system can't tell of changes.
pub fn watch(watcher: &mut RecommendedWatcher, folder: &Path) -> notify::Result<()> {
    watcher.watch(folder, RecursiveMode::NonRecursive)
}

/// What `read` finds, once it finds the same again a moment later, or what `is_known`. Many programs empty a file before
/// they write it, and an empty file forbids nothing.
pub async fn settled<T: PartialEq, F: Future<Output = T>>(
    is_known: impl Fn(&T) -> bool,
    mut read: impl FnMut() -> F,
) -> T {
    let mut found = read().await;
    for _ in 1..READS_MAX {
        if is_known(&found) {
            break;
        }
        tokio::time::sleep(QUIET).await;
        let again = read().await;
        if again == found {
            break;
        }
        found = again;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is believed of what is found in turn, and how often it was looked.
    async fn believed(found: &[u8]) -> (u8, usize) {
        let mut looks = 0;
        let settled = settled(
            |found| *found == 0,
            || {
                let found = found.get(looks).copied().unwrap_or(u8::MAX);
                looks += 1;
                std::future::ready(found)
            },
        );
        (settled.await, looks)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_twice_is_believed() {
        assert_eq!(believed(&[0, 1]).await, (0, 1), "what is known needs no second look");
        assert_eq!(believed(&[1, 1]).await, (1, 2));
        assert_eq!(believed(&[1, 2, 3, 3]).await, (3, 4));
        assert_eq!(believed(&[1, 0, 2]).await, (0, 2), "it was an edit that was undone");
        assert_eq!(believed(&[1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]).await, (2, 10), "it never rests");
    }
}
