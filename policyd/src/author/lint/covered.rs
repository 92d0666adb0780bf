//! Policies that change nothing, because another one says it already or denies it anyway.
//!
//! Policy *P* is covered by *Q* if *Q* is satisfied whenever *P* is: if the scope of *Q* is as wide or wider, and each
//! part of *Q*'s condition is a part of *P*'s. Where *P* is satisfied, all its parts are true, so *Q*'s are. For each
//! policy, an index by scope and rarest part finds those few that may cover it.

use std::collections::HashMap;

use cedar_policy::{Entities, EntityUid};
use cedar_policy_core::ast::{
    ActionConstraint, BinaryOp, Effect, EntityReference, Expr, ExprKind, PrincipalOrResourceConstraint,
    UnaryOp,
};

use super::condition::parts;
use super::fact::Value;
use super::name::Lint;
use super::source::{Report, Source};
use crate::bundle::Bundle;

/// Looks for each policy whether another one covers it.
pub(super) fn check(policies: &[Source<'_>], bundle: &Bundle, report: &mut Report) {
    let index = Index::new(policies, bundle);
    for (place, policy) in policies.iter().enumerate() {
        let Some(covering) = index.covering(place) else { continue };
        let Some(by) = policies.get(covering.place) else { continue };
        let (id, other) = (policy.id(), by.id());
        let stands = format!("`{other}` in {}", by.file());
        let (lint, message, help) = match covering.how {
            How::Forbidden => (
                Lint::CoveredByForbid,
                format!("`{id}` permits nothing: the forbid `{other}` denies all of it"),
                format!("remove it, or make an exception of it with `unless` in {stands}"),
            ),
            How::Same => (
                Lint::DuplicatePolicy,
                format!("`{id}` says the same as `{other}`"),
                format!("keep one of them; the other is {stands}"),
            ),
            How::Wider => (
                Lint::RedundantPolicy,
                format!("`{id}` adds nothing: `{other}` holds for all of its requests, and for more"),
                format!("remove it, or narrow {stands}"),
            ),
        };
        report.add(policy, lint, policy.head(), message, help);
    }
}

struct Index<'b> {
    bundle: &'b Bundle,
    /// The actions and their groups.
    actions: Entities,
    entries: Vec<Option<Entry>>,
    /// By scope, and by the part of the condition that the fewest policies have; no part for no condition.
    by_scope: HashMap<(Side, Side, Option<u32>), Vec<usize>>,
}

/// A policy, as far as it matters here.
struct Entry {
    effect: Effect,
    /// A policy that only tells what it would do is compared with its like.
    shadow: bool,
    principal: Side,
    resource: Side,
    /// The actions, unless they are all.
    actions: Option<Vec<EntityUid>>,
    /// The parts of its condition by number, sorted, each once.
    parts: Vec<u32>,
}

/// What a scope says of the principal or the resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Side {
    Any,
    Is(EntityUid),
    In(EntityUid),
}

struct Covering {
    place: usize,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Forbidden,
    Same,
    Wider,
}

impl<'b> Index<'b> {
    fn new(policies: &[Source<'_>], bundle: &'b Bundle) -> Self {
        let mut numbers: HashMap<Expr, u32> = HashMap::new();
        let entries: Vec<Option<Entry>> =
            policies.iter().map(|policy| Entry::of(policy, &mut numbers)).collect();
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for part in entries.iter().flatten().flat_map(|entry| &entry.parts) {
            *counts.entry(*part).or_default() += 1;
        }
        let mut by_scope: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, entry) in entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let rarest = entry.parts.iter().copied().min_by_key(|part| (counts.get(part).copied(), *part));
            let key = (entry.principal.clone(), entry.resource.clone(), rarest);
            by_scope.entry(key).or_default().push(place);
        }
        let actions = bundle.schemas.request.action_entities().unwrap_or_else(|_| Entities::empty());
        Self { bundle, actions, entries, by_scope }
    }

    /// The first policy that covers the one at `place`: a `forbid` before others.
    fn covering(&self, place: usize) -> Option<Covering> {
        let entry = self.entries.get(place)?.as_ref()?;
        let parts: Vec<Option<u32>> = entry.parts.iter().copied().map(Some).chain([None]).collect();
        let mut best: Option<Covering> = None;
        for principal in entry.principal.wider(self.bundle) {
            for resource in entry.resource.wider(self.bundle) {
                for part in &parts {
                    let key = (principal.clone(), resource.clone(), *part);
                    for &other in self.by_scope.get(&key).into_iter().flatten() {
                        let how = self.entries.get(other).and_then(Option::as_ref).and_then(|by| {
                            (other != place).then(|| by.covers(entry, other < place, &self.actions)).flatten()
                        });
                        if let Some(how) = how
                            && best.as_ref().is_none_or(|best| (how, other) < (best.how, best.place))
                        {
                            best = Some(Covering { place: other, how });
                        }
                    }
                }
            }
        }
        best
    }
}

impl Entry {
    fn of(policy: &Source<'_>, numbers: &mut HashMap<Expr, u32>) -> Option<Self> {
        let mut number = |expr: Expr| {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            *numbers.entry(expr).or_insert(next)
        };
        let condition = policy.condition().map(|condition| parts(condition, false)).unwrap_or_default();
        let mut parts: Vec<u32> =
            condition.iter().map(|part| number(in_one_form(part.expr, part.negated))).collect();
        parts.sort_unstable();
        parts.dedup();
        let uid = |uid: &std::sync::Arc<_>| EntityUid::from(cedar_policy_core::ast::EntityUID::clone(uid));
        Some(Self {
            effect: policy.tree().effect(),
            shadow: policy.annotation("shadow").is_some(),
            principal: Side::of(policy.tree().principal_constraint().as_inner(), "Workload")?,
            resource: Side::of(policy.tree().resource_constraint().as_inner(), "Service")?,
            actions: match policy.tree().action_constraint() {
                ActionConstraint::Any => None,
                ActionConstraint::Eq(action) => Some(vec![uid(action)]),
                ActionConstraint::In(actions) => Some(actions.iter().map(uid).collect()),
            },
            parts,
        })
    }

    /// How this policy, whose principal and resource are as wide as those of `other`, covers it, if it does.
    fn covers(&self, other: &Self, is_before: bool, actions: &Entities) -> Option<How> {
        let is_part = |part: &u32| other.parts.binary_search(part).is_ok();
        if self.shadow != other.shadow
            || !self.parts.iter().all(is_part)
            || !self.has_actions_of(other, actions)
        {
            return None;
        }
        if self.effect != other.effect {
            return (self.effect == Effect::Forbid).then_some(How::Forbidden);
        }
        let same = self.parts.len() == other.parts.len()
            && (&self.principal, &self.resource) == (&other.principal, &other.resource)
            && other.has_actions_of(self, actions);
        // Of two that say the same, the second is told.
        if same { is_before.then_some(How::Same) } else { Some(How::Wider) }
    }

    fn has_actions_of(&self, other: &Self, actions: &Entities) -> bool {
        let Some(ours) = &self.actions else { return true };
        let Some(theirs) = &other.actions else { return false };
        theirs.iter().all(|action| {
            let mut above = actions.ancestors(action).into_iter().flatten();
            ours.contains(action) || above.any(|above| ours.contains(above))
        })
    }
}

impl Side {
    /// Nothing for a scope that no principal, or no resource, is in: every one is of the type `kind`.
    fn of(constraint: &PrincipalOrResourceConstraint, kind: &str) -> Option<Self> {
        let uid = |reference: &EntityReference| match reference {
            EntityReference::EUID(uid) => Some(EntityUid::from(uid.as_ref().clone())),
            EntityReference::Slot(_) => None,
        };
        match constraint {
            PrincipalOrResourceConstraint::Any => Some(Self::Any),
            PrincipalOrResourceConstraint::Eq(one) => uid(one).map(Self::Is),
            PrincipalOrResourceConstraint::In(group) => uid(group).map(Self::In),
            PrincipalOrResourceConstraint::Is(of) => (of.to_string() == kind).then_some(Self::Any),
            PrincipalOrResourceConstraint::IsIn(of, group) => {
                (of.to_string() == kind).then(|| uid(group).map(Self::In)).flatten()
            }
        }
    }

    /// Itself and everything wider.
    fn wider(&self, bundle: &Bundle) -> Vec<Self> {
        let uid = match self {
            Self::Any => return vec![Self::Any],
            Self::Is(uid) | Self::In(uid) => uid,
        };
        let above = bundle.entities.ancestors(uid).into_iter().flatten().cloned().map(Self::In);
        let own = matches!(self, Self::Is(_)).then(|| self.clone());
        own.into_iter().chain([Self::In(uid.clone()), Self::Any]).chain(above).collect()
    }
}

/// `"GET" == context.method` is `context.method == "GET"`, and what is denied twice is said.
fn in_one_form(expr: &Expr, negated: bool) -> Expr {
    match expr.expr_kind() {
        ExprKind::UnaryApp { op: UnaryOp::Not, arg } => in_one_form(arg, !negated),
        ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 }
            if Value::of(arg1).is_some() && Value::of(arg2).is_none() =>
        {
            in_one_form(&Expr::is_eq(arg2.as_ref().clone(), arg1.as_ref().clone()), negated)
        }
        _ if negated => Expr::not(expr.clone()),
        _ => expr.clone(),
    }
}
