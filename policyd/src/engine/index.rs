//! Finds the few policies that may concern a request among any number of them, and asks Cedar about those.
//!
//! `cedar_policy::Authorizer` evaluates every policy of a set. But a policy begins with its scope: who, what
//! and on what. A scope that does not fit makes the policy false before anything else is looked at, and a
//! scope can't fail. So policies are sorted by their scopes, and those whose scope can't fit are left out:
//! each of them would have been false, without an error. This is Cedar's own theorem of sound policy slicing
//! (`Cedar/Thm/Authorization/PolicySlice.lean` in cedar-spec). What is left is evaluated by Cedar's evaluator.
//!
//! A scope names an entity or none, for each of principal, action and resource. A request is concerned by the
//! policies that name it, or an ancestor of it, or nothing: that is one look-up for each combination, however
//! many policies there are.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Effect, Entities, EntityUid, Policy, PolicySet, PrincipalConstraint, Request,
    ResourceConstraint,
};
use cedar_policy_core::ast::{Expr, Literal, SlotEnv, Value, ValueKind};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;

/// Policies, sorted by scope.
#[derive(Debug, Default)]
pub struct Index {
    /// Every entity that a scope names, by number. Number 0 stands for no entity.
    numbers: HashMap<EntityUid, u32>,
    /// By the numbers of principal, action and resource: which policies have this scope.
    by_scope: HashMap<[u32; 3], Bucket>,
    policies: Vec<Compiled>,
}

/// What the policies of an index say of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The ids of the `forbid`s that are satisfied, sorted.
    pub forbids: Vec<String>,
    /// The ids of the `permit`s that are satisfied, sorted.
    pub permits: Vec<String>,
    /// What failed: the policy's id, and why. In the order of evaluation.
    pub errors: Vec<(String, String)>,
}

/// How much is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What a decision needs: the first satisfied `forbid` ends it, for nothing can change a denial then.
    Serve,
    /// Everything.
    Explain,
}

/// Policies of one scope, by their place in [`Index::policies`].
#[derive(Debug, Default)]
struct Bucket {
    forbids: Vec<u32>,
    permits: Vec<u32>,
}

/// A policy ready for evaluation. Cedar would build this expression anew for every request.
#[derive(Debug)]
struct Compiled {
    id: String,
    condition: Expr,
    slots: SlotEnv,
}

/// The number that stands for no entity.
const ANY: u32 = 0;

impl Index {
    /// Sorts the policies of `set`, template links included. O(policies).
    pub fn new(set: &PolicySet) -> Self {
        let mut index = Self::default();
        for policy in set.policies() {
            index.add(policy);
        }
        index
    }

    /// How many policies there are.
    pub const fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// What the policies say of `request`, evaluated on `entities`.
    ///
    /// Of [`Depth::Explain`], `forbids`, `permits` and `errors` are those of all policies of the set, as
    /// `Authorizer::is_authorized` would find them. Of [`Depth::Serve`] too, unless a `forbid` is satisfied:
    /// then it holds that one, and the errors met before it.
    ///
    /// O(ancestors of the principal × ancestors of the resource + candidates), whatever the number of policies.
    pub fn answer(&self, request: &Request, entities: &Entities, depth: Depth) -> Answer {
        let buckets = self.buckets(request, entities);
        // In the order of the set: the first `forbid` is then the same one for equal requests.
        let in_order = |of: fn(&Bucket) -> &Vec<u32>| {
            let mut places: Vec<u32> = buckets.iter().flat_map(|bucket| of(bucket)).copied().collect();
            places.sort_unstable();
            places
        };
        let evaluator =
            Evaluator::new(request.as_ref().clone(), entities.as_ref(), Extensions::all_available());
        let mut answer = Answer::default();
        for place in in_order(|bucket| &bucket.forbids) {
            if let Some(id) = self.satisfied(place, &evaluator, &mut answer.errors) {
                answer.forbids.push(id);
                if depth == Depth::Serve {
                    return answer;
                }
            }
        }
        for place in in_order(|bucket| &bucket.permits) {
            if let Some(id) = self.satisfied(place, &evaluator, &mut answer.errors) {
                answer.permits.push(id);
            }
        }
        answer.forbids.sort();
        answer.permits.sort();
        answer
    }

    /// How many policies would be evaluated for `request`.
    pub fn candidates(&self, request: &Request, entities: &Entities) -> usize {
        let buckets = self.buckets(request, entities);
        buckets.iter().map(|bucket| bucket.forbids.len() + bucket.permits.len()).sum()
    }

    fn add(&mut self, policy: &Policy) {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => ANY,
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => self.number(uid),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => ANY,
            ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
                self.number(uid)
            }
        };
        let mut actions: Vec<u32> = match policy.action_constraint() {
            ActionConstraint::Any => vec![ANY],
            ActionConstraint::Eq(uid) => vec![self.number(uid)],
            ActionConstraint::In(uids) => uids.into_iter().map(|uid| self.number(uid)).collect(),
        };
        // An action named twice must not make the policy a candidate twice.
        actions.sort_unstable();
        actions.dedup();
        let place = u32::try_from(self.policies.len()).unwrap_or(u32::MAX);
        for action in actions {
            let bucket = self.by_scope.entry([principal, action, resource]).or_default();
            match policy.effect() {
                Effect::Forbid => bucket.forbids.push(place),
                Effect::Permit => bucket.permits.push(place),
            }
        }
        let core = policy.as_ref();
        self.policies.push(Compiled {
            id: policy.id().to_string(),
            condition: core.condition(),
            slots: core.env().clone(),
        });
    }

    fn number(&mut self, uid: EntityUid) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.numbers.entry(uid).or_insert(next)
    }

    /// The policies whose scope may fit.
    fn buckets(&self, request: &Request, entities: &Entities) -> Vec<&Bucket> {
        let principals = self.named(request.principal(), entities);
        let actions = self.named(request.action(), entities);
        let resources = self.named(request.resource(), entities);
        let mut found = Vec::new();
        for principal in &principals {
            for action in &actions {
                for resource in &resources {
                    found.extend(self.by_scope.get(&[*principal, *action, *resource]));
                }
            }
        }
        found
    }

    /// The numbers that stand for an entity in scopes: no entity, itself, its ancestors.
    fn named(&self, uid: Option<&EntityUid>, entities: &Entities) -> Vec<u32> {
        let mut numbers = vec![ANY];
        let Some(uid) = uid else { return numbers };
        numbers.extend(self.numbers.get(uid));
        let ancestors = entities.ancestors(uid).into_iter().flatten();
        // In a hierarchy with a cycle an entity would be its own ancestor.
        numbers.extend(
            ancestors.filter(|ancestor| *ancestor != uid).filter_map(|ancestor| self.numbers.get(ancestor)),
        );
        numbers
    }

    /// The policy's id, if it is satisfied.
    fn satisfied(
        &self,
        place: u32,
        evaluator: &Evaluator<'_>,
        errors: &mut Vec<(String, String)>,
    ) -> Option<String> {
        let policy = self.policies.get(usize::try_from(place).ok()?)?;
        let why = match evaluator.interpret(&policy.condition, &policy.slots) {
            Ok(Value { value: ValueKind::Lit(Literal::Bool(satisfied)), .. }) => {
                return satisfied.then(|| policy.id.clone());
            }
            // Strict validation leaves no such policy.
            Ok(other) => format!("its condition is `{other}`, which is no Bool"),
            Err(error) => error.to_string(),
        };
        errors.push((policy.id.clone(), why));
        None
    }
}
