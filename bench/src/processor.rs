//! What the kernel says processes have used, and which processors they may use.

use std::fs;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Processor time, summed over processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// By the scheduler's account, in nanoseconds.
    pub nanoseconds: u64,
    /// Of which in user mode and in the kernel, in ticks of 10 ms.
    pub user_ticks: u64,
    pub system_ticks: u64,
}

impl Used {
    /// What `processes` have used since they started.
    pub(crate) fn by(processes: &[u32]) -> Result<Self> {
        let mut used = Self::default();
        for process in processes {
            let tasks = fs::read_dir(format!("/proc/{process}/task"))
                .with_context(|| format!("process {process} has ended"))?;
            for task in tasks {
                // A thread may end between the two looks; what it used is then lost to us.
                let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
                used.nanoseconds += first_number(&text);
            }
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            let (user, system) = ticks(&stat).with_context(|| format!("/proc/{process}/stat: `{stat}`"))?;
            used.user_ticks += user;
            used.system_ticks += system;
        }
        Ok(used)
    }

    /// What was used between `before` and this.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            nanoseconds: self.nanoseconds.saturating_sub(before.nanoseconds),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
        }
    }
}

/// How long the given processors have been busy since the machine started, in nanoseconds.
pub(crate) fn busy(processors: &[usize]) -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    Ok(processors
        .iter()
        .map(|processor| busy_ticks(&stat, *processor).unwrap_or_default() * 10_000_000)
        .sum())
}

/// What `processes` have in memory, in KiB.
pub(crate) fn resident_kib(processes: &[u32]) -> Result<u64> {
    let one = |process: &u32| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(first_number(line.with_context(|| format!("process {process} has no memory"))?))
    };
    processes.iter().map(one).sum()
}

/// Runs `work` on the given processors alone. Processes that it starts inherit them.
pub(crate) fn on<T>(processors: &[usize], work: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut only = CpuSet::new();
    processors.iter().for_each(|processor| only.set(*processor));
    sched_setaffinity(None, &only)
        .with_context(|| format!("processors {processors:?} can't be used; the bench needs two"))?;
    let done = work();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// User and system time of `/proc/PID/stat`. The name before may hold anything, spaces and brackets too.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// All but idle and waiting of `/proc/stat`. The guests' share is within the users'.
fn busy_ticks(stat: &str, processor: usize) -> Option<u64> {
    let name = format!("cpu{processor} ");
    let fields = stat.lines().find_map(|line| line.strip_prefix(name.as_str()))?.split_whitespace();
    let busy = fields.take(8).enumerate().filter(|(place, _)| !matches!(place, 3 | 4));
    Some(busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_whatever_the_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 40 0 0 20";
        assert_eq!(ticks(stat), Some((30, 40)));
        assert_eq!(ticks("7 a S 1"), None);
    }

    #[test]
    fn a_processor_is_busy_but_when_it_waits() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 1000 1000 4 5 6 1 0\ncpu10 7 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(
            [busy_ticks(stat, 0), busy_ticks(stat, 10), busy_ticks(stat, 1)],
            [Some(21), Some(7), None]
        );
    }

    #[test]
    fn a_process_uses_more_and_more() {
        let own = [std::process::id()];
        let before = Used::by(&own).unwrap();
        while Used::by(&own).unwrap().since(before).nanoseconds == 0 {}
        assert!(resident_kib(&own).unwrap() > 1000);
    }

    #[test]
    fn processors_are_given_back() {
        let before = sched_getaffinity(None).unwrap();
        let within = on(&[0], || sched_getaffinity(None).unwrap().count()).unwrap();
        assert_eq!((within, sched_getaffinity(None).unwrap()), (1, before));
    }
}
