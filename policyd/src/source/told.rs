//! What a source tells: the log, metrics, readiness, `up`, the history, and operators through the state folder.

use std::sync::Arc;

use daemon::{Finding, Findings};
use model::Revision;
use tracing::{debug, error, info, warn};

use super::{Source, Status};
use crate::bundle::mesh;
use crate::delivery::Digest;
use crate::delivery::history::Why;
use crate::delivery::standing::Standing;

impl Source {
    /// Tells what is new of the source, the log last: whoever reads there of a change finds it everywhere. The same
    /// mistake is told once.
    pub(super) async fn tell(&mut self, result: Result<Option<Revision>, Arc<Findings>>) {
        let before = self.status.borrow().refused.clone();
        let is_new = match &result {
            Ok(None) => before.is_some(),
            Ok(Some(_)) => true,
            Err(findings) => before.as_ref() != Some(findings),
        };
        if is_new {
            self.surroundings.metrics.reloaded(result.is_ok());
            self.status.send_modify(|status| {
                status.reads += 1;
                status.refused = result.as_ref().err().cloned();
            });
        }
        self.stand().await;
        match result {
            _ if !is_new => {}
            Ok(None) if self.why == Why::Pinned => info!("the bundle is good again, and waits for a release"),
            Ok(None) => info!("the bundle is again the one in force"),
            Ok(Some(revision)) => info!(%revision, "the bundle was changed and is in force"),
            Err(findings) => error!(
                "the bundle was changed and is refused; what was in force stays so: {}\n{}",
                findings.summary(&self.delivery.source()),
                findings.render(false)
            ),
        }
    }

    /// Tells what is new of the pin.
    pub(super) fn tell_pin(&self, pinned: Option<Digest>, refused: Option<Arc<Findings>>) {
        let before = self.status.borrow().clone();
        if before.pinned == pinned && before.pin_refused == refused {
            return;
        }
        match &refused {
            Some(findings) => {
                error!("what is pinned is refused; what was in force stays so:\n{}", findings.render(false));
            }
            None if pinned.is_none() => {
                info!("nothing is pinned any more: the bundle is what the source has")
            }
            None => {}
        }
        self.status.send_modify(|status| (status.pinned, status.pin_refused) = (pinned, refused));
    }

    /// Keeps what is in force and writes it into the history, unless that was done.
    pub(super) async fn keep(&mut self) {
        let (before, why) = (self.kept, self.why);
        let revision = self.current.get().revision;
        let (delivered, now) = (self.in_force.clone(), self.surroundings.clock.now());
        let delivery = self.delivery.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let Some(label) = delivery.keep(&delivered)? else { return Ok(None) };
            if before != Some(label.digest) {
                delivery.record(&label, why, revision, now)?;
            }
            anyhow::Ok(Some(label.digest))
        });
        let error = match kept.await {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(digest))) => {
                (self.kept, self.keep_failed) = (Some(digest), false);
                if before != Some(digest) {
                    self.surroundings.metrics.kept(true);
                }
                return;
            }
            Ok(Err(error)) => error,
            Err(error) => error.into(),
        };
        if self.keep_failed {
            debug!("the bundle in force still can't be kept: {error:#}");
        } else {
            self.surroundings.metrics.kept(false);
            error!("the bundle is in force, but can't be kept for a restart or a rollback: {error:#}");
        }
        self.keep_failed = true;
    }

    /// Tells how things stand, if that has changed.
    pub(super) async fn stand(&mut self) {
        let status = self.status.borrow().clone();
        self.surroundings.metrics.in_force(self.why);
        self.surroundings.readiness.remark(self.remark(&status));
        if status.why != self.why {
            self.status.send_modify(|status| status.why = self.why);
        }
        let standing = Standing {
            at: self.surroundings.clock.now(),
            in_force: self.kept,
            why: self.why,
            revision: self.current.get().revision.to_string(),
            pinned: status.pinned,
            pin_refused: status.pin_refused.map(|findings| findings.to_string()),
            source: self.delivery.source(),
            source_refused: status.refused.map(|findings| findings.to_json()),
        };
        let news =
            self.stood.as_ref().is_none_or(|stood| Standing { at: standing.at, ..stood.clone() } != standing);
        if !news {
            return;
        }
        let delivery = self.delivery.clone();
        let told = standing.clone();
        match tokio::task::spawn_blocking(move || delivery.tell(&told)).await {
            Ok(Ok(())) => self.stood = Some(standing),
            Ok(Err(error)) => warn!(%error, "how things stand can't be written to the state folder"),
            Err(error) => warn!(%error, "how things stand can't be written to the state folder"),
        }
    }

    /// What is to be known besides that policyd is ready.
    fn remark(&self, status: &Status) -> Option<String> {
        let kept = self.kept.map(|digest| format!(" {}", digest.short())).unwrap_or_default();
        let source = match &status.refused {
            Some(findings) => {
                format!("the bundle is refused ({})", findings.summary(&self.delivery.source()))
            }
            None => "the bundle is good".to_owned(),
        };
        let unkept = if self.keep_failed { "; the bundle in force could not be kept" } else { "" };
        let remark = match self.why {
            Why::Pinned => format!("the bundle{kept} is pinned; {source}{unkept}"),
            Why::LastGood => format!("the last good bundle{kept} serves: {source}{unkept}"),
            Why::Source if status.refused.is_some() => format!("{source}, and the one before serves{unkept}"),
            Why::Source if self.keep_failed => "the bundle in force could not be kept".to_owned(),
            Why::Source => {
                return status.pin_refused.as_ref().map(|_| "what is pinned is refused".to_owned());
            }
        };
        Some(remark)
    }
}

/// A fault of ours, or of Cedar's, must not end the task: what is in force stays so.
pub(crate) fn crashed(error: &tokio::task::JoinError) -> Findings {
    Finding::in_file(mesh::FILE, format!("the bundle can't be checked, by a fault of Tidegate: {error}"))
        .into()
}

/// Tells what the author of a bundle in force may have meant otherwise.
pub(super) fn warn_of(findings: &Findings) {
    if !findings.is_empty() {
        warn!("the bundle is in force, but look at this:\n{}", findings.render(false));
    }
}
