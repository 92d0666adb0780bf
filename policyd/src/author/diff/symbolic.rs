//! Whether the access policies of two bundles decide alike on *every* request: proven by a solver, or disproven by a
//! request that both bundles were asked about.
//!
//! For each kind of request that both bundles know, `cedar-policy-symcc` turns both sets of policies into formulas, and
//! the solver looks for a request that one set allows and the other does not. The solver knows what holds for all
//! requests to these bundles (see `world`), but not all of it: so what it finds is made a request and decided by both
//! bundles before it is told as a difference (see `witness`).
//!
//! Compared is who is allowed; not which policy says so, nor limits, rules and shadow policies.

mod addresses;
mod common;
mod entities;
mod report;
mod solver;
mod witness;
mod world;

use std::collections::BTreeSet;

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv};
use cedar_policy_symcc::CompiledPolicySet;
use futures_util::{StreamExt, stream};
use model::{Attributes, Principal};

use super::Side;
use crate::author::boundary::Boundaries;
use crate::author::unit_test::Answer;
use crate::bundle::Bundle;
use common::Common;
pub use report::{json, text};
pub use solver::Solver;
use world::World;

/// What came of the comparison.
#[derive(Debug)]
pub enum Symbolic {
    /// It was made.
    Done(Comparison),
    /// It was not: why, and what to do about it.
    NotDone(String),
}

/// What came of a comparison that was made.
#[derive(Debug)]
pub struct Comparison {
    /// The kinds of requests that both bundles know, each with what was found.
    pub environments: Vec<Environment>,
    /// What was not compared, and why.
    pub gaps: Vec<String>,
}

/// A kind of request, and what was found.
#[derive(Debug)]
pub struct Environment {
    /// The type of callers.
    pub principal: String,
    /// The action's id.
    pub action: String,
    /// The type of what is called.
    pub resource: String,
    /// A request that only the new bundle allows.
    pub gained: Proof,
    /// A request that only the old bundle allows.
    pub lost: Proof,
}

/// Whether there is a request of some sort.
#[derive(Debug)]
pub enum Proof {
    /// There is none: proven.
    None,
    /// There is one: both bundles were asked.
    Request(Box<Example>),
    /// The solver has one, but no request was found on which these bundles differ so: it, as the solver gave it.
    Unconfirmed(String),
    /// It is not known: why.
    Unknown(String),
}

/// A request, and what both bundles say of it.
#[derive(Debug)]
pub struct Example {
    /// The request, as the new bundle sees it.
    pub request: Attributes,
    /// What the old bundle says.
    pub old: Answer,
    /// What the new bundle says.
    pub new: Answer,
}

/// How far a comparison has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many environments are to be compared.
    Environments(usize),
    /// One more is done.
    Done,
}

/// How many environments are compared at a time, each with a process of the solver's.
const AT_A_TIME: usize = 2;
/// The most policies of a bundle that a solver is asked about: a formula nests as deep as there are policies.
const POLICIES_MAX: usize = 500;

/// Compares the access policies of two bundles by a solver. `progress` is told how many environments there are, and then
/// of each that is done.
pub async fn compare(
    old: Side<'_>,
    new: Side<'_>,
    solver: &Solver,
    progress: &(dyn Fn(Progress) + Sync),
) -> Symbolic {
    if let Err(why) = solver.check().await {
        return Symbolic::NotDone(why);
    }
    let common = match Common::of(old, new) {
        Ok(common) => common,
        Err(why) => return Symbolic::NotDone(why),
    };
    progress(Progress::Environments(common.environments.len()));
    let boundaries = Boundaries::new(&[old.bundle, new.bundle]);
    let callers = common.services.first().map(|service| boundaries.of(service).principals);
    let sets = [old.bundle, new.bundle].map(|bundle| bundle.policies.to_set());
    let task = Task {
        world: World::of(old.bundle, new.bundle, &common),
        changed: changed(&sets),
        sets,
        bundles: [old.bundle, new.bundle],
        callers: callers.unwrap_or_default(),
        common: &common,
        solver,
    };
    let done = stream::iter(&common.environments).map(|environment| async {
        let found = task.environment(environment).await;
        progress(Progress::Done);
        found
    });
    let found: Vec<(Environment, Vec<String>)> = done.buffered(AT_A_TIME).collect().await;
    let mut gaps = common.gaps.clone();
    let mut environments = Vec::new();
    for (environment, more) in found {
        environments.push(environment);
        gaps.extend(more.into_iter().filter(|gap| !gaps.contains(gap)).collect::<Vec<_>>());
    }
    Symbolic::Done(Comparison { environments, gaps })
}

impl Symbolic {
    /// Whether a request is known on which the bundles differ.
    pub fn differs(&self) -> bool {
        match self {
            Self::Done(comparison) => comparison.environments.iter().any(Environment::differs),
            Self::NotDone(_) => false,
        }
    }
}

impl Environment {
    /// Whether it is proven that both bundles allow the same requests.
    pub const fn is_equivalent(&self) -> bool {
        matches!((&self.gained, &self.lost), (Proof::None, Proof::None))
    }

    /// Whether a request is known on which the bundles differ.
    pub const fn differs(&self) -> bool {
        matches!(self.gained, Proof::Request(_)) || matches!(self.lost, Proof::Request(_))
    }
}

/// What is needed to compare one environment.
struct Task<'b> {
    common: &'b Common,
    world: World<'b>,
    /// The access policies of the old bundle, and of the new one.
    sets: [PolicySet; 2],
    /// Those of them that may tell a request apart, if that is not all.
    changed: Option<[PolicySet; 2]>,
    bundles: [&'b Bundle; 2],
    /// Who may call, as far as policies can tell.
    callers: Vec<Principal>,
    solver: &'b Solver,
}

impl Task<'_> {
    /// What is found for an environment, and what is not part of it.
    async fn environment(&self, environment: &RequestEnv) -> (Environment, Vec<String>) {
        let action: &str = environment.action().id().as_ref();
        let named = |gained, lost| Environment {
            principal: environment.principal().to_string(),
            action: action.to_owned(),
            resource: environment.resource().to_string(),
            gained,
            lost,
        };
        let mut proofs = self.proofs(environment, self.changed.as_ref().unwrap_or(&self.sets)).await;
        // What only the changed policies tell apart may be told alike by the others.
        let is_open = proofs.iter().any(|proof| matches!(proof, Proof::Unconfirmed(_)));
        if is_open && self.changed.is_some() {
            proofs = self.proofs(environment, &self.sets).await;
        }
        let [gained, lost] = proofs;
        let fallible = solver::fallible(&self.sets, environment, &self.common.schema, self.solver).await;
        let gaps = fallible.into_iter().map(|id| {
            format!("requests on which the evaluation of `{id}` fails: a number is too large there, and the request is denied")
        });
        (named(gained, lost), gaps.collect())
    }

    /// Whether there are requests that only the new one of two sets allows, and such that only the old one does.
    async fn proofs(&self, environment: &RequestEnv, sets: &[PolicySet; 2]) -> [Proof; 2] {
        let unknown = |why: String| [Proof::Unknown(why.clone()), Proof::Unknown(why)];
        if sets.iter().any(|set| set.num_of_policies() > POLICIES_MAX) {
            return unknown(format!("a solver is not asked about more than {POLICIES_MAX} policies"));
        }
        let facts = self.world.policies(environment, &self.common.schema);
        let compiled = sets.each_ref().map(|set| {
            let set = PolicySet::from_policies(set.policies().chain(&facts).cloned());
            set.ok().and_then(|set| CompiledPolicySet::compile(&set, environment, &self.common.schema).ok())
        });
        let [Some(old), Some(new)] = &compiled else {
            return unknown(self.not_encoded(environment, sets).await);
        };
        let gained = self.proof(environment, sets, [new, old], true).await;
        [gained, self.proof(environment, sets, [old, new], false).await]
    }

    /// Whether there is a request that `allowing` allows and `denying` does not: the new bundle's policies and the old
    /// one's if it is `gained`.
    async fn proof(
        &self,
        environment: &RequestEnv,
        sets: &[PolicySet; 2],
        [allowing, denying]: [&CompiledPolicySet; 2],
        gained: bool,
    ) -> Proof {
        match self.solver.counterexample(allowing, denying).await {
            Ok(None) => Proof::None,
            Ok(Some(found)) => {
                let witness = witness::Witness {
                    found: &found,
                    bundles: self.bundles,
                    action: environment.action().id().as_ref(),
                    gained,
                };
                match witness.confirmed(&self.common.services, &self.callers) {
                    Some(example) => Proof::Request(Box::new(example)),
                    None => Proof::Unconfirmed(found.to_string()),
                }
            }
            Err(solver::Failure::Encoding(_)) => Proof::Unknown(self.not_encoded(environment, sets).await),
            Err(failure) => Proof::Unknown(failure.to_string()),
        }
    }

    /// Which policies can't be told to the solver.
    async fn not_encoded(&self, environment: &RequestEnv, sets: &[PolicySet; 2]) -> String {
        let mut named = Vec::new();
        for policy in sets.iter().flat_map(PolicySet::policies) {
            if let Some(why) = solver::not_encoded(policy, environment, &self.common.schema).await {
                let told = format!("`{}` can't be told to the solver: {why}", id(policy));
                if !named.contains(&told) {
                    named.push(told);
                }
            }
        }
        if named.is_empty() {
            "the policies can't be told to the solver".to_owned()
        } else {
            named.join("; ")
        }
    }
}

/// The two sets without the permits that are in both: where all that is in one only is permits, too, they tell no
/// request apart. Nothing if that is not so, or they have none in common.
fn changed(sets: &[PolicySet; 2]) -> Option<[PolicySet; 2]> {
    let [old, new] =
        sets.each_ref().map(|set| set.policies().map(ToString::to_string).collect::<BTreeSet<_>>());
    let is_shared = |text: &String| old.contains(text) && new.contains(text);
    let forbids =
        sets.iter().flat_map(PolicySet::policies).filter(|policy| policy.effect() == Effect::Forbid);
    if !forbids.map(ToString::to_string).all(|text| is_shared(&text)) || !old.iter().any(&is_shared) {
        return None;
    }
    let kept = |policy: &&Policy| policy.effect() == Effect::Forbid || !is_shared(&policy.to_string());
    let kept = sets.each_ref().map(|set| PolicySet::from_policies(set.policies().filter(kept).cloned()).ok());
    match kept {
        [Some(old), Some(new)] => Some([old, new]),
        _ => None,
    }
}

fn id(policy: &Policy) -> &str {
    policy.id().as_ref()
}

#[cfg(test)]
mod tests;
