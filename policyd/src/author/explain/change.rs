//! What would have to change for a request to be decided the other way.
//!
//! A denied request needs a permit whose unmet parts hold, and of each satisfied forbid a part that does not; an allowed
//! one needs a forbid whose unmet parts hold, or of each satisfied permit a part that does not. Requests that differ only
//! in what such parts read are evaluated, until one is decided the other way: that verifies the change.

use std::collections::BTreeSet;

use cedar_policy::pst;
use model::{Attributes, Name, Verdict};

use super::phrase::{self, Phrase};
use super::{reads, value};
use crate::atoms::{Derived, meaning};
use crate::author::boundary::{Boundaries, Boundary};
use crate::author::unit_test::{Answer, RequestText};
use crate::bundle::Bundle;
use crate::bundle::clauses::{CameTo, Clauses, Kind, Part, Place};
use crate::engine::Evaluation;

/// A change that would turn the decision.
#[derive(Clone, Debug)]
pub struct Change {
    /// What would have to be so, all of it.
    pub wants: Vec<Want>,
    /// A request that is decided the other way, if one was found: it verifies the change.
    pub verified: Option<Verified>,
}

/// A request that is decided the other way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The request.
    pub request: RequestText,
    /// What is otherwise in it, by its key in a test, in YAML.
    pub differences: Vec<(&'static str, String)>,
}

/// Something that would have to be so.
#[derive(Clone, Debug)]
pub struct Want {
    /// The attribute, or the condition if that is about several.
    pub subject: String,
    /// What would have to be so of it: `be "GET"`.
    pub wanted: String,
    /// What it is now.
    pub is: String,
    /// The policy whose part this is.
    pub policy: String,
    /// Where the part stands.
    pub place: Place,
}

/// The most changes that are told.
const CHANGES_MAX: usize = 3;
/// The most changes that are looked into, those of the fewest parts first.
const WAYS_MAX: usize = 12;
/// The most requests that are evaluated for one change.
const REQUESTS_MAX: usize = 2_000;

/// A part, and what it would have to come to.
#[derive(Clone, Copy, Debug)]
struct Turn<'c> {
    clauses: &'c Clauses,
    part: &'c Part,
    holds: bool,
}

type Way<'c> = Vec<Turn<'c>>;

/// The smallest changes that would turn the decision, verified ones first. `clauses` are the policies that concern the
/// service. None if the request could not be decided.
pub(super) fn changes(
    bundle: &Bundle,
    clauses: &[Clauses],
    attributes: &Attributes,
    evaluation: &Evaluation<'_>,
) -> Vec<Change> {
    if evaluation.opinion.degraded {
        return Vec::new();
    }
    let ways = ways(clauses, evaluation);
    if ways.is_empty() {
        return Vec::new();
    }
    let boundary = Boundaries::new(&[bundle]).of(&attributes.resource);
    let mut changes: Vec<Change> = Vec::new();
    for way in ways.into_iter().take(WAYS_MAX) {
        let wants = wants(&way, evaluation);
        let Ok(verified) = verify(&way, &boundary, bundle, attributes, evaluation.opinion.verdict) else {
            continue;
        };
        let covers =
            |change: &Change| change.wants.iter().all(|want| wants.iter().any(|other| want.says(other)));
        if !changes.iter().any(covers) {
            changes.push(Change { wants, verified });
        }
    }
    changes.sort_by_key(|change| change.verified.is_none());
    changes.truncate(CHANGES_MAX);
    changes
}

impl Want {
    fn says(&self, other: &Self) -> bool {
        (&self.subject, &self.wanted) == (&other.subject, &other.wanted)
    }
}

/// All ways to turn the decision, those of the fewest parts first.
fn ways<'c>(clauses: &'c [Clauses], evaluation: &Evaluation<'_>) -> Vec<Way<'c>> {
    let of = |kind: Kind, satisfied: bool| {
        let fits = move |clauses: &&Clauses| {
            clauses.kind == kind && unmet(clauses, evaluation).is_empty() == satisfied
        };
        clauses.iter().filter(fits).collect::<Vec<&Clauses>>()
    };
    let fulfilled = |kind: Kind| -> Vec<Way<'c>> {
        of(kind, false).into_iter().flat_map(|clauses| every(unmet(clauses, evaluation))).collect()
    };
    let broken =
        |kind: Kind| every(of(kind, true).into_iter().map(|clauses| broken(clauses, evaluation)).collect());
    let mut ways = match evaluation.opinion.verdict {
        Verdict::Deny if of(Kind::Permit, true).is_empty() => {
            every(vec![fulfilled(Kind::Permit), broken(Kind::Forbid)])
        }
        Verdict::Deny => broken(Kind::Forbid),
        Verdict::Allow => [fulfilled(Kind::Forbid), broken(Kind::Permit)].concat(),
    };
    ways.retain(|way| way.iter().all(|turn| turn.can_be_made()));
    ways.sort_by_key(|way| (way.len(), way.iter().filter(|turn| turn.part.word == "principal").count()));
    ways
}

/// What would have to be so for a policy to be satisfied: all of it, each in one of several ways.
fn unmet<'c>(clauses: &'c Clauses, evaluation: &Evaluation<'_>) -> Vec<Vec<Way<'c>>> {
    let holds = |part: &&Part| part.came_to(evaluation) == CameTo::True;
    let turn = |part: &'c Part, holds: bool| Turn { clauses, part, holds };
    let whens = clauses.conditions.iter().filter(|condition| !condition.is_unless);
    let parts = clauses.scope.iter().chain(whens.flat_map(|condition| &condition.parts));
    let mut all: Vec<Vec<Way<'c>>> =
        parts.filter(|part| !holds(part)).map(|part| vec![vec![turn(part, true)]]).collect();
    for condition in clauses.conditions.iter().filter(|condition| condition.is_unless) {
        // A part that is false keeps Cedar from reaching those behind it.
        let stop = condition.parts.iter().find(|part| !holds(part));
        if stop.is_none_or(|part| part.came_to(evaluation) != CameTo::False) {
            all.push(condition.parts.iter().map(|part| vec![turn(part, false)]).collect());
        }
    }
    all
}

/// What would keep a satisfied policy from being satisfied: any of it. Another service, or another kind of exchange, would
/// be another request.
fn broken<'c>(clauses: &'c Clauses, evaluation: &Evaluation<'_>) -> Vec<Way<'c>> {
    let turn = |part: &'c Part, holds: bool| Turn { clauses, part, holds };
    let principal = clauses.scope.iter().filter(|part| part.word == "principal");
    let mut all: Vec<Way<'c>> = Vec::new();
    for condition in &clauses.conditions {
        if condition.is_unless {
            let parts = condition.parts.iter().filter(|part| part.came_to(evaluation) != CameTo::True);
            all.push(parts.map(|part| turn(part, true)).collect());
        } else {
            all.extend(condition.parts.iter().map(|part| vec![turn(part, false)]));
        }
    }
    all.extend(principal.map(|part| vec![turn(part, false)]));
    all
}

/// One way of each, in all combinations; the smallest ones if there are many.
fn every<'c>(choices: Vec<Vec<Way<'c>>>) -> Vec<Way<'c>> {
    choices.into_iter().fold(vec![Vec::new()], |ways, choices| {
        let with = |way: &Way<'c>| {
            choices.iter().map(|choice| [way.as_slice(), choice].concat()).collect::<Vec<_>>()
        };
        let mut ways: Vec<Way<'c>> = ways.iter().flat_map(with).collect();
        ways.sort_by_key(Vec::len);
        ways.truncate(COMBINATIONS_MAX);
        ways
    })
}

/// The most combinations of ways that are kept.
const COMBINATIONS_MAX: usize = 256;

impl Turn<'_> {
    fn tree(&self) -> Option<pst::Expr> {
        self.part.expr().clone().try_into().ok()
    }

    /// Whether it reads anything that another request to this service may have otherwise.
    fn can_be_made(&self) -> bool {
        self.tree().is_none_or(|tree| reads::of(&tree).iter().any(|name| !name.starts_with("resource")))
    }
}

fn wants(way: &[Turn<'_>], evaluation: &Evaluation<'_>) -> Vec<Want> {
    let want = |turn: &Turn<'_>| {
        let phrase = turn.tree().and_then(|tree| phrase::of(&tree, turn.holds));
        let is = match &phrase {
            Some(phrase) => value(&phrase.subject, evaluation),
            None => (turn.part.came_to(evaluation) == CameTo::True).to_string(),
        };
        let whole = || Phrase { subject: turn.part.text.clone(), wanted: format!("be {}", turn.holds) };
        let Phrase { subject, wanted } = phrase.unwrap_or_else(whole);
        Want { subject, wanted, is, policy: turn.clauses.name.clone(), place: turn.part.place.clone() }
    };
    let mut wants: Vec<Want> = Vec::new();
    for want in way.iter().map(want) {
        if !wants.iter().any(|other| other.says(&want)) {
            wants.push(want);
        }
    }
    // That something has to be there goes without saying where it is said what it has to be.
    let subjects: Vec<String> = wants.iter().map(|want| want.subject.clone()).collect();
    let said_twice = |want: &Want| subjects.iter().filter(|subject| **subject == want.subject).count() > 1;
    wants.retain(|want| want.wanted != phrase::THERE || !said_twice(want));
    wants
}

/// The request with the fewest differences that is not decided as `verdict`, if one is found; `Err` if there can be none.
fn verify(
    way: &[Turn<'_>],
    boundary: &Boundary<'_>,
    bundle: &Bundle,
    attributes: &Attributes,
    verdict: Verdict,
) -> Result<Option<Verified>, Impossible> {
    let mut derived = Derived::default();
    let mut read: BTreeSet<&str> = BTreeSet::new();
    for tree in way.iter().filter_map(Turn::tree) {
        derived.expr(&tree, &meaning);
        let names = reads::of(&tree);
        let variables = ["principal", "action"].into_iter();
        read.extend(variables.filter(|variable| names.iter().any(|name| name.starts_with(variable))));
    }
    let facts: BTreeSet<Name> = derived.atoms.into_iter().map(|atom| atom.name).collect();
    let (variants, all) = boundary.variants(
        attributes,
        &facts,
        read.contains("principal"),
        read.contains("action"),
        REQUESTS_MAX,
    );
    let turned = variants.iter().filter_map(|variant| {
        // As text and back, so that it is a request that can be, and that what follows from it does.
        let request = RequestText::of(variant);
        let variant = request.attributes(&bundle.mesh).ok()?;
        let differences = RequestText::differences(attributes, &variant);
        (Answer::of(bundle, &variant).decision != verdict).then_some(Verified { request, differences })
    });
    match turned.min_by_key(Verified::size) {
        None if all && !derived.reads_everything => Err(Impossible),
        found => Ok(found),
    }
}

/// No request to this service is decided the other way by this change.
struct Impossible;

impl Verified {
    /// How many things are otherwise, and how long they are: what is short is easy to read.
    fn size(&self) -> (usize, usize) {
        (self.differences.len(), self.differences.iter().map(|(_, text)| text.len()).sum())
    }
}
