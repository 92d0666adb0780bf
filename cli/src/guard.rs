//! Sees to it that the services which `tidegate up` has started do not outlive it, however it ends.
//!
//! Who is killed can't end what he has started. So a second process, the guard, is told of each service, through a pipe
//! whose other end only `tidegate up` has: when that closes, whatever is still there is ended. The kernel could do the
//! same for a process (`PR_SET_PDEATHSIG`), but not for those that it has started in turn.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// The command by which this program is a guard.
pub(crate) const COMMAND: &str = "guard";
/// How often a guard looks whether services have ended by themselves, two seconds in all, before it kills them.
const LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The guard's process; clones are the same. It ends when the last of them is dropped, or with this process.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Mutex<Post>>);

#[derive(Debug)]
struct Post {
    /// Closing it is the signal.
    pipe: Option<ChildStdin>,
    guard: Child,
}

impl Guard {
    /// Starts one; `tidegate` is this program.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(tidegate: &Path) -> io::Result<Self> {
        let mut guard = Command::new(tidegate);
        // In a group of its own: what ends us by the terminal must not end it first.
        guard.arg(COMMAND).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut guard = guard.spawn()?;
        Ok(Self(Arc::new(Mutex::new(Post { pipe: guard.stdin.take(), guard }))))
    }

    /// From now on the process group `id` is guarded.
    pub(crate) fn watch(&self, id: u32) {
        self.tell('+', id);
    }

    /// It has ended.
    pub(crate) fn forget(&self, id: u32) {
        self.tell('-', id);
    }

    fn tell(&self, sign: char, id: u32) {
        let mut post = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = post.pipe.as_mut().map(|pipe| writeln!(pipe, "{sign}{id}"));
        if let Some(Err(error)) = told {
            tracing::warn!(%error, "the guard of the services has ended");
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.guard.wait() {
            tracing::debug!(%error, "the guard can't be waited for");
        }
    }
}

/// What a guard does: reads which groups to guard, and ends them when there is nothing more to read.
pub(crate) fn stand(orders: impl BufRead) {
    let mut groups = Vec::new();
    for order in orders.lines().map_while(Result::ok) {
        let Some((sign, id)) = order.split_at_checked(1) else { continue };
        let Some(id) = id.parse().ok().and_then(Pid::from_raw) else { continue };
        groups.retain(|group| *group != id);
        if sign == "+" {
            groups.push(id);
        }
    }
    groups.retain(|group| kill_process_group(*group, Signal::TERM).is_ok());
    for _ in 0..LOOKS {
        if groups.is_empty() {
            return;
        }
        thread::sleep(LOOK_AGAIN);
        groups.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in groups {
        // It has just ended, or it ends now.
        let _ended = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// A group of two processes.
    fn group(line: &str) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn what_is_guarded_ends_and_what_was_forgotten_does_not() {
        // Who does not want to end is killed, and so are its children. It says when it is that far.
        let mut stubborn = group("trap '' TERM; echo; sleep 1000 & wait; wait");
        let mut said = [0];
        io::Read::read_exact(stubborn.stdout.as_mut().unwrap(), &mut said).unwrap();
        let (mut guarded, mut forgotten) = (group("sleep 1000 & wait"), group("sleep 1000"));
        let orders =
            format!("+{}\n+{}\n+{}\nx\n-{}\n", stubborn.id(), forgotten.id(), guarded.id(), forgotten.id());
        // As nobody reaps them meanwhile, they are there until the last moment.
        stand(orders.as_bytes());
        assert_eq!(stubborn.wait().unwrap().signal(), Some(9));
        assert_eq!(guarded.wait().unwrap().signal(), Some(15));
        assert!(forgotten.try_wait().unwrap().is_none());
        forgotten.kill().unwrap();
        forgotten.wait().unwrap();
    }
}
