//! Recorded decisions, made again by another bundle: what would change.
//!
//! A line of a decision log holds all that was decided on. Lines with equal keys under the bundle's atoms get equal
//! answers (see [`model::key`]), so each key is evaluated once, and a million lines take seconds.
//!
//! Nothing is left out in silence: a line that can't be read, or that does not hold what the bundle reads, is
//! counted, with the reason. Check adapters are not asked, for what they say depends on the world outside of the
//! bundle; one that denied a request then is taken to deny it still, if the bundle would ask it.

mod blocks;
mod report;
mod tally;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::decision::Source;
use model::decision_line::{DecisionLine, Knowledge};
use model::{AtomSet, Attributes, Keys, Name, Room, Verdict};
use quick_cache::sync::Cache;
use rayon::iter::{ParallelBridge, ParallelIterator};

pub use blocks::{Log, ReadError};
pub use report::{json, text};
pub use tally::{Change, Counted, Example, GROUPS_MAX, Place, Said, Skip, Tally};

use crate::bundle::Bundle;
use crate::engine;
use blocks::{Block, Blocks};

/// The most answers that are remembered. When there are more keys, those least worth keeping are evaluated again.
const ANSWERS_MAX: usize = 500_000;
/// The reason of a denial for a service that the bundle does not have.
const NO_SUCH_SERVICE: &str = "no such service";
/// Before the name of a rule whose check adapter has denied a request.
const ADAPTER_PREFIX: &str = "adapter/";

/// Makes the decisions of `logs` again by `bundle`, on all cores. `progress` is told of each so many bytes read.
///
/// Memory is bounded by the limits of this module, whatever the length of the logs.
///
/// # Errors
/// When a log can't be read.
pub fn replay(bundle: &Bundle, logs: &[Log], progress: &(dyn Fn(u64) + Sync)) -> Result<Tally, ReadError> {
    run(&Replayer::new(bundle), logs, progress)
}

/// Makes the decisions of `logs` again by both bundles, and tells what `new` says otherwise than `old`, whatever was
/// decided then. A line that one of them can't decide on is left out.
///
/// # Errors
/// When a log can't be read.
pub fn compare(
    old: &Bundle,
    new: &Bundle,
    logs: &[Log],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Tally, ReadError> {
    run(&Replayer { before: Some(Box::new(Replayer::new(old))), ..Replayer::new(new) }, logs, progress)
}

fn run(replayer: &Replayer<'_>, logs: &[Log], progress: &(dyn Fn(u64) + Sync)) -> Result<Tally, ReadError> {
    let mut tally = Blocks::new(logs, progress)
        .par_bridge()
        .try_fold(Tally::default, |tally, block| Ok(replayer.block(tally, &block?)))
        .try_reduce(Tally::default, |one, other| Ok(one.and(other)))?;
    tally.evaluated = replayer.evaluated.load(Ordering::Relaxed);
    Ok(tally)
}

/// A bundle made ready to answer lines.
struct Replayer<'b> {
    /// The bundle whose answers it is compared with; without one, with those in the lines.
    before: Option<Box<Self>>,
    bundle: &'b Bundle,
    services: HashMap<&'b str, Plan<'b>>,
    answers: Cache<Box<[u8]>, Arc<Answer>>,
    evaluated: AtomicU64,
}

/// What is looked at to answer for one service.
struct Plan<'b> {
    atoms: &'b AtomSet,
    keys: Keys,
    /// Every fact that the answer may depend on.
    reads: Vec<Name>,
}

/// What the bundle says of all requests with one key.
struct Answer {
    said: Said,
    /// The rules by which check adapters would be asked.
    checks: Vec<String>,
}

impl<'b> Replayer<'b> {
    fn new(bundle: &'b Bundle) -> Self {
        let plan = |(name, atoms): (&'b String, &'b AtomSet)| (name.as_str(), Plan::new(bundle, name, atoms));
        Self {
            before: None,
            bundle,
            services: bundle.atoms.iter().map(plan).collect(),
            answers: Cache::new(ANSWERS_MAX),
            evaluated: AtomicU64::new(0),
        }
    }

    /// Adds the lines of `block` to `tally`.
    fn block(&self, mut tally: Tally, block: &Block) -> Tally {
        if block.is_too_long {
            tally.skip(Skip::TooLong, block.place(0));
            return tally;
        }
        let mut room = Room::default();
        for (line, offset) in block.text.split(|byte| *byte == b'\n').zip(0..) {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Err(skip) = self.line(line, block.place(offset), &mut room, &mut tally) {
                tally.skip(skip, block.place(offset));
            }
        }
        tally
    }

    fn line(&self, text: &[u8], place: Place, room: &mut Room, tally: &mut Tally) -> Result<(), Skip> {
        let mut line: DecisionLine = serde_json::from_slice(text).map_err(|_error| Skip::Unreadable)?;
        if line.source == Source::Degraded {
            return Err(Skip::Undecided);
        }
        for replayer in std::iter::once(self).chain(self.before.as_deref()) {
            if let Some(plan) = replayer.services.get(line.service.as_str()) {
                plan.is_known(&line)?;
            }
        }
        let mut attributes = line.take_attributes().map_err(|_error| Skip::Unreadable)?;
        let before = match &self.before {
            Some(before) => before.answer(&mut attributes, room).said.clone(),
            None => {
                Said { verdict: line.verdict, reasons: line.reasons, limits: line.limits, rules: line.rules }
            }
        };
        let answer = self.answer(&mut attributes, room);
        let after = answer.after(&before);
        tally.replayed += 1;
        tally.to_ask += u64::from(after.verdict == Verdict::Allow && !answer.checks.is_empty());
        if before.does_as(&after) {
            tally.for_other_reasons += u64::from(before.reasons != after.reasons);
        } else {
            let change = Change {
                service: line.service,
                principal: attributes.principal.as_str().to_owned(),
                before,
                after: after.into_owned(),
            };
            let example = Example {
                place,
                ts: attributes.time,
                request_id: line.request_id,
                method: attributes.method,
                path: attributes.path,
            };
            tally.change(change, example);
        }
        Ok(())
    }

    fn answer(&self, attributes: &mut Attributes, room: &mut Room) -> Arc<Answer> {
        let Some(plan) = self.services.get(attributes.resource.as_str()) else {
            return Arc::new(Answer::denied(vec![NO_SUCH_SERVICE.to_owned()]));
        };
        // Another bundle may have known other operations.
        attributes.operation = self.bundle.mesh.operation(attributes).map(str::to_owned);
        if !plan.atoms.is_cacheable() {
            return Arc::new(self.evaluate(attributes).0);
        }
        let key = plan.keys.encode(attributes, room);
        if let Some(answer) = self.answers.get(key) {
            return answer;
        }
        let (answer, failed) = self.evaluate(attributes);
        let answer = Arc::new(answer);
        if !failed {
            self.answers.insert(key.into(), Arc::clone(&answer));
        }
        answer
    }

    /// The bundle's answer, and whether something failed, so that it is for this request alone.
    fn evaluate(&self, attributes: &Attributes) -> (Answer, bool) {
        self.evaluated.fetch_add(1, Ordering::Relaxed);
        let evaluation = match engine::evaluate(self.bundle, attributes) {
            Ok(evaluation) => evaluation,
            Err(_no_request) => return (Answer::denied(Vec::new()), true),
        };
        let opinion = evaluation.opinion;
        let known = &self.bundle.rules;
        let asks = |rule: &String| known.get(rule).is_some_and(|rule| rule.check_actions().next().is_some());
        let checks = evaluation.rules.iter().filter(|rule| asks(rule)).cloned().collect();
        let allowed = opinion.verdict == Verdict::Allow && !opinion.degraded;
        let said = Said {
            verdict: if allowed { Verdict::Allow } else { Verdict::Deny },
            reasons: opinion.reasons,
            limits: if allowed { evaluation.limits } else { Vec::new() },
            rules: evaluation.rules.into_iter().filter(|rule| known.reports(rule)).collect(),
        };
        (Answer { said, checks }, opinion.degraded)
    }
}

impl<'b> Plan<'b> {
    fn new(bundle: &'b Bundle, name: &str, atoms: &'b AtomSet) -> Self {
        let mut reads: BTreeSet<Name> = atoms.atoms().iter().map(|atom| atom.name.clone()).collect();
        // The bundle finds the operation by itself, by these.
        reads.remove(&Name::Operation);
        if bundle.mesh.services.get(name).is_some_and(|service| !service.operations.operations.is_empty()) {
            reads.extend([Name::Method, Name::Path]);
        }
        if !atoms.is_cacheable() {
            // Something reads what no atom stands for: it may be anything.
            reads.extend([Name::Method, Name::Path, Name::Host, Name::SourceIp, Name::Sni]);
            reads.extend(bundle.schemas.declared.keys().cloned());
        }
        Self { atoms, keys: Keys::new(atoms), reads: reads.into_iter().collect() }
    }

    /// Whether the line holds all that the bundle reads. The caller is read by the scope of any policy.
    fn is_known(&self, line: &DecisionLine) -> Result<(), Skip> {
        if line.principal.plain().is_none() {
            return Err(Skip::MaskedCaller);
        }
        for name in &self.reads {
            match line.knowledge_of(name) {
                Knowledge::Known => {}
                Knowledge::Masked => return Err(Skip::Masked(name.clone())),
                Knowledge::NotLogged => return Err(Skip::NotLogged(name.clone())),
            }
        }
        Ok(())
    }
}

impl Answer {
    const fn denied(reasons: Vec<String>) -> Self {
        let said = Said { verdict: Verdict::Deny, reasons, limits: Vec::new(), rules: Vec::new() };
        Self { said, checks: Vec::new() }
    }

    /// The answer to a request of which `before` was said.
    fn after(&self, before: &Said) -> Cow<'_, Said> {
        let still_asked = |reason: &String| {
            reason.strip_prefix(ADAPTER_PREFIX).is_some_and(|rule| self.checks.iter().any(|ask| ask == rule))
        };
        let denied_by_adapter = before.verdict == Verdict::Deny && before.reasons.iter().any(still_asked);
        if self.said.verdict == Verdict::Allow && denied_by_adapter {
            let reasons = before.reasons.iter().filter(|reason| still_asked(reason)).cloned().collect();
            let rules = self.said.rules.clone();
            return Cow::Owned(Said { verdict: Verdict::Deny, reasons, limits: Vec::new(), rules });
        }
        Cow::Borrowed(&self.said)
    }
}

#[cfg(test)]
mod tests;
