//! Conditions that no request meets, or that every request does.

use std::collections::HashMap;

use cedar_policy::EntityUid;
use cedar_policy_core::ast::{
    BinaryOp, EntityReference, Expr, ExprKind, PatternElem, PrincipalOrResourceConstraint, Var,
};

use super::condition::{Part, chains, is_context, parts, span, text};
use super::fact::{Claim, Value};
use super::name::Lint;
use super::source::{Report, Source};

/// Looks at the condition of one policy, limit or rule.
pub(super) fn check(source: &Source<'_>, report: &mut Report) {
    let Some(condition) = source.condition() else { return };
    let whole = parts(condition, false);
    never_satisfied(source, &whole, report);
    // The outermost `&&` is the whole condition's, and has been looked at.
    for chain in whole.iter().flat_map(|part| chains(part.expr)) {
        if let [alone] = chain.parts.as_slice() {
            constant(source, alone, report);
        } else {
            contradictory_part(source, chain.expr, &chain.parts, report);
        }
    }
}

/// The scope and the outermost `&&` of a policy.
fn never_satisfied(source: &Source<'_>, whole: &[Part<'_>], report: &mut Report) {
    let scope = [
        (Var::Principal, source.tree().principal_constraint().as_inner().clone()),
        (Var::Resource, source.tree().resource_constraint().as_inner().clone()),
    ];
    let mut said: Vec<Said<'_>> =
        scope.iter().filter_map(|(var, constraint)| in_scope(*var, constraint)).collect();
    said.extend(whole.iter().map(Said::of));
    let Some((why, at)) = contradiction(&said) else { return };
    let message = format!("{} is never satisfied: {}", source.name(), why.of_all());
    report.add(source, Lint::ImpossibleCondition, span(source, at), message, HELP_ALL);
}

fn contradictory_part(source: &Source<'_>, expr: &Expr, parts: &[Part<'_>], report: &mut Report) {
    let is_or = matches!(expr.expr_kind(), ExprKind::Or { .. });
    // The parts of an `||` are here as what holds where it does not; they are shown as they are written.
    let said = parts.iter().map(|part| Said { text: text_of(part, is_or), ..Said::of(part) });
    let Some((why, at)) = contradiction(&said.collect::<Vec<_>>()) else { return };
    let span = span(source, at);
    if is_or {
        let message = format!("`{}` always holds: {}", text(expr), why.of_any());
        let help = "an `||` of `!=` excludes nothing: join them with `&&`, or write `!([…].contains(…))`";
        report.add(source, Lint::AlwaysTrue, span, message, help);
    } else {
        let message = format!("`{}` never holds: {}", text(expr), why.of_all());
        report.add(source, Lint::ImpossibleCondition, span, message, HELP_ALL);
    }
}

const HELP_ALL: &str = "take one of them out; where either may hold, join them with `||`";

fn text_of(part: &Part<'_>, is_or: bool) -> String {
    Part { negated: part.negated != is_or, ..*part }.text()
}

/// Why parts are never true together.
enum Why {
    /// Two of them exclude each other.
    Two(String, String),
    /// All values that this one lists are excluded by the others.
    List(String),
}

impl Why {
    /// Of the parts of an `&&`.
    fn of_all(&self) -> String {
        match self {
            Self::Two(one, two) => format!("`{one}` and `{two}` exclude each other"),
            Self::List(one) => format!("the other conditions exclude all that `{one}` lists"),
        }
    }

    /// Of the parts of an `||`, which were looked at negated.
    fn of_any(&self) -> String {
        match self {
            Self::Two(one, two) => format!("where `{one}` does not hold, `{two}` does"),
            Self::List(one) => format!("where `{one}` does not hold, another one does"),
        }
    }
}

/// What a part says, and how it is shown.
struct Said<'e> {
    claim: Claim,
    text: String,
    /// Where it stands; nothing for a scope.
    expr: Option<&'e Expr>,
}

impl<'e> Said<'e> {
    fn of(part: &Part<'e>) -> Self {
        Self { claim: Claim::of(part), text: part.text(), expr: Some(part.expr) }
    }
}

fn in_scope(var: Var, constraint: &PrincipalOrResourceConstraint) -> Option<Said<'static>> {
    let PrincipalOrResourceConstraint::Eq(EntityReference::EUID(uid)) = constraint else { return None };
    let claim = Claim::equals(Expr::var(var), EntityUid::from(uid.as_ref().clone()));
    Some(Said { claim, text: format!("{var} == {uid}"), expr: None })
}

/// Why all of `said` are never true together, and the last of those that tell it.
fn contradiction<'e>(said: &[Said<'e>]) -> Option<(Why, &'e Expr)> {
    let mut by_fact: HashMap<&Expr, Vec<&Said<'e>>> = HashMap::new();
    for one in said {
        let earlier = by_fact.entry(&one.claim.fact).or_default();
        if let (Some(other), Some(at)) =
            (earlier.iter().find(|other| other.claim.excludes(&one.claim)), one.expr)
        {
            return Some((Why::Two(other.text.clone(), one.text.clone()), at));
        }
        earlier.push(one);
    }
    let mut in_order: Vec<&Vec<&Said<'e>>> = by_fact.values().filter(|same| same.len() > 2).collect();
    in_order.sort_by_key(|same| same.first().map(|one| &one.text));
    in_order.into_iter().find_map(|same| {
        let claims: Vec<&Claim> = same.iter().map(|one| &one.claim).collect();
        let none_left = |one: &&&Said<'e>| one.claim.left_by(&claims).is_some_and(|left| left.is_empty());
        let one = same.iter().find(none_left)?;
        Some((Why::List(one.text.clone()), one.expr?))
    })
}

/// A part whose value is always the same.
fn constant(source: &Source<'_>, part: &Part<'_>, report: &mut Report) {
    let Some((always, why)) = value(part.expr) else { return };
    // A limit or rule without a condition has the condition `true`.
    if source.effect.is_none() && Value::of(part.expr).is_some() {
        return;
    }
    let (lint, how, help) = if always {
        (Lint::AlwaysTrue, "always", "take it out, or write what was meant")
    } else {
        (Lint::ImpossibleCondition, "never", "write what was meant")
    };
    let message = format!("`{}` {how} holds{why}", text(part.expr));
    report.add(source, lint, span(source, part.expr), message, help);
}

/// Whether an expression always or never holds, and why.
fn value(expr: &Expr) -> Option<(bool, &'static str)> {
    match expr.expr_kind() {
        ExprKind::Like { expr, pattern } => {
            let all_wild = pattern.iter().all(|element| *element == PatternElem::Wildcard);
            let path = is_context(expr, "path")
                && pattern.get_elems() == [PatternElem::Char('/'), PatternElem::Wildcard];
            match (all_wild && !pattern.is_empty(), path) {
                (true, _) => Some((true, ": `*` matches any text")),
                (_, true) => Some((true, ": every path starts with `/`, but for the `*` of `OPTIONS *`")),
                _ => None,
            }
        }
        ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => match (Value::of(arg1), Value::of(arg2)) {
            (Some(left), Some(right)) => Some((left == right, ": it compares two literals")),
            _ if arg1 == arg2 => Some((true, ": both sides are the same")),
            _ => None,
        },
        _ => match Value::of(expr)? {
            Value::Bool(value) => Some((value, "")),
            _ => None,
        },
    }
}
