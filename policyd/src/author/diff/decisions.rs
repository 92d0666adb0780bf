//! What two bundles say otherwise of the requests at their boundaries.

use std::collections::BTreeMap;

use model::{Attributes, Verdict};
use rayon::prelude::*;

use super::Progress;
use crate::author::boundary::Boundaries;
use crate::author::unit_test::Answer;
use crate::bundle::Bundle;

/// The most groups of requests that are told apart; what comes after is only counted.
const CHANGES_MAX: usize = 500;

/// What is decided otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// The requests that differ, grouped by service and by what is said of them; those with another verdict first.
    pub changes: Vec<Change>,
    /// How many requests differ that are in no group, for there are too many.
    pub more: usize,
    /// How many requests were compared.
    pub compared: usize,
    /// The services of whose requests only a sample was compared.
    pub sampled: Vec<String>,
}

/// Requests of one service that differ in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the old bundle says.
    pub old: Answer,
    /// What the new bundle says.
    pub new: Answer,
    /// One of the requests, as the new bundle sees it.
    pub example: Attributes,
    /// How many there are.
    pub count: usize,
}

impl Change {
    /// Whether the verdict differs, and not only who determined it, or the limits and rules.
    pub fn is_verdict(&self) -> bool {
        self.old.decision != self.new.decision
    }
}

/// Compares what both bundles say of the requests to every service.
pub(super) fn compare(old: &Bundle, new: &Bundle, progress: &(dyn Fn(Progress) + Sync)) -> Decisions {
    let boundaries = Boundaries::new(&[old, new]);
    let services = boundaries.services();
    progress(Progress::Services(services.len()));
    let mut decisions = Decisions::default();
    for service in services {
        let requests = boundaries.of(service).requests();
        decisions.compared += requests.requests.len();
        if !requests.exhaustive {
            decisions.sampled.push(service.to_owned());
        }
        let differing: Vec<(Attributes, Answer, Answer)> =
            requests.requests.into_par_iter().filter_map(|request| differing(old, new, request)).collect();
        decisions.add(differing);
        progress(Progress::Done);
    }
    // A stable sort: the services stay in order.
    decisions.changes.sort_by_key(|change| !change.is_verdict());
    decisions
}

fn differing(old: &Bundle, new: &Bundle, mut request: Attributes) -> Option<(Attributes, Answer, Answer)> {
    let (before, after) = (said(old, &request), said(new, &request));
    request.operation = new.mesh.operation(&request).map(str::to_owned);
    (before != after).then_some((request, before, after))
}

/// What a bundle says. Of a service that it doesn't have nobody says anything.
fn said(bundle: &Bundle, request: &Attributes) -> Answer {
    if bundle.mesh.services.contains_key(&request.resource) {
        return Answer::of(bundle, request);
    }
    Answer {
        decision: Verdict::Deny,
        policies: Default::default(),
        limits: Default::default(),
        rules: Default::default(),
        message: format!("there is no service `{}`", request.resource),
    }
}

impl Decisions {
    /// Adds what differs for one service.
    fn add(&mut self, differing: Vec<(Attributes, Answer, Answer)>) {
        let mut groups: BTreeMap<String, usize> = BTreeMap::new();
        for (example, old, new) in differing {
            let key = format!("{old:?} {new:?}");
            if let Some(change) = groups.get(&key).and_then(|place| self.changes.get_mut(*place)) {
                change.count += 1;
            } else if self.changes.len() < CHANGES_MAX {
                groups.insert(key, self.changes.len());
                self.changes.push(Change { old, new, example, count: 1 });
            } else {
                self.more += 1;
            }
        }
    }
}
