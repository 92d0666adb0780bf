//! The time that counts: what the kernel says at both ends of it.

use anyhow::Result;
use tokio::time::Instant;

use crate::load::{Load, Outcome};
use crate::processor::{self, Used};

/// What had been used when it was opened.
#[derive(Debug)]
pub(crate) struct Window {
    loaded: Used,
    others: Used,
    own: Used,
    busy: u64,
    opened: Instant,
}

impl Window {
    pub(crate) fn open(load: &Load) -> Result<Self> {
        Ok(Self {
            loaded: Used::by(&load.processes)?,
            others: Used::by(&load.others)?,
            own: Used::by(&[std::process::id()])?,
            busy: processor::busy(&load.processors)?,
            opened: Instant::now(),
        })
    }

    /// Puts into `outcome` what was used since.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn close(self, load: &Load, outcome: &mut Outcome) -> Result<()> {
        let now = Self::open(load)?;
        outcome.seconds = (now.opened - self.opened).as_secs_f64();
        outcome.used = now.loaded.since(self.loaded);
        outcome.used_by_others = now.others.since(self.others);
        outcome.own = now.own.since(self.own);
        let foreign = now.busy.saturating_sub(self.busy).saturating_sub(outcome.used.nanoseconds);
        outcome.foreign = foreign as f64 / 1e9 / outcome.seconds / load.processors.len() as f64;
        outcome.resident_kib = processor::resident_kib(&load.processes)?;
        Ok(())
    }
}
