//! Policies that no longer concern requests which have an operation.
//!
//! The action of a request that is for an operation is the operation's, which is *in* `Action::"http"` but not equal to
//! it. So a `forbid` with `action == Action::"http"` would forbid such requests no longer, in silence.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{Entities, EntityUid};
use cedar_policy_core::ast::{ActionConstraint, BinaryOp, EntityUID, Expr, ExprKind, Literal, Template};
use cedar_policy_core::parser::parse_policy_or_template;
use daemon::finding::{Finding, Findings};
use model::Action;

use super::cedar_text::Place;
use super::conditions::Conditions;
use super::mesh::Mesh;
use super::policies::Policies;
use super::scope::named_resource;
use crate::engine::request::{Kind, uid};

/// Adds each comparison with `Action::"http"` for equality that may concern a service with operations.
pub(super) fn check(
    policies: &Policies,
    conditions: &Conditions<'_>,
    mesh: &Mesh,
    entities: Option<&Entities>,
    findings: &mut Findings,
) {
    let concerned = concerned(mesh, entities);
    let Ok(http) = uid(Kind::Action, Action::Http.as_str()) else { return };
    if concerned.is_empty() {
        return;
    }
    let http = http.as_ref();
    let is_narrowed = |template: &Template, slot| {
        let named = named_resource(template, slot);
        named.is_none_or(|named| concerned.contains(named)) && !comparisons(template, http).is_empty()
    };
    // Each link of a template that is wrong would tell the same.
    let mut told = HashSet::new();
    for policy in policies.policies() {
        let slot = policy.slots().and_then(|link| link.resource.as_deref());
        if is_narrowed(policy.statement().template(), slot) && told.insert(Arc::as_ptr(policy.statement())) {
            let spot = policy.written();
            // Once more, with the places.
            let Ok(template) = parse_policy_or_template(None, spot.text()) else { continue };
            let wrong = told_of(policy.id(), &template, http, Place::file("", spot.text()));
            findings.extend(wrong.into_iter().map(|finding| spot.placed(finding)));
        }
    }
    for (condition, place) in conditions.iter() {
        let template = condition.as_ref().template();
        if is_narrowed(template, None) {
            findings.extend(told_of(condition.id().as_ref(), template, http, place));
        }
    }
}

/// What a scope may name to concern a service with operations: it, or what it is in.
fn concerned(mesh: &Mesh, entities: Option<&Entities>) -> HashSet<EntityUID> {
    let services = mesh.services.iter().filter(|(_, service)| !service.operations.operations.is_empty());
    let services = services.filter_map(|(name, _)| uid(Kind::Service, name).ok());
    let with_ancestors = |service: EntityUid| {
        let ancestors = entities.and_then(|entities| entities.ancestors(&service)).into_iter().flatten();
        ancestors.cloned().chain([service.clone()]).map(Into::into).collect::<Vec<EntityUID>>()
    };
    services.flat_map(with_ancestors).collect()
}

fn told_of(id: &str, template: &Template, http: &EntityUID, place: Place<'_>) -> Vec<Finding> {
    let one = |span: Option<Range<usize>>| {
        let message = format!(
            "`{id}` does not concern requests that are for an operation: their action is in `{http}`, but not equal to it"
        );
        place.finding_at(span, message).with_help(format!("write `action in {http}`"))
    };
    comparisons(template, http).into_iter().map(one).collect()
}

/// Where `template` compares with `http` for equality; nothing for a place that Cedar does not know.
fn comparisons(template: &Template, http: &EntityUID) -> Vec<Option<Range<usize>>> {
    let in_scope = match template.action_constraint() {
        ActionConstraint::Eq(uid) if **uid == *http => Some(scope(template, http)),
        _ => None,
    };
    let conditions = template.non_scope_constraints().into_iter().flat_map(Expr::subexpressions);
    let spans = conditions.filter(|expr| compares(expr, http)).map(|expr| {
        expr.source_loc().map(|place| place.span.offset()..place.span.offset() + place.span.len())
    });
    in_scope.into_iter().chain(spans).collect()
}

/// Whether an expression holds for `http` but not for what is in it.
fn compares(expr: &Expr, http: &EntityUID) -> bool {
    let is_http =
        |expr: &Expr| matches!(expr.expr_kind(), ExprKind::Lit(Literal::EntityUID(uid)) if **uid == *http);
    let holds_http =
        |expr: &Expr| matches!(expr.expr_kind(), ExprKind::Set(members) if members.iter().any(is_http));
    match expr.expr_kind() {
        ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => is_http(arg1) || is_http(arg2),
        ExprKind::BinaryApp {
            op: BinaryOp::Contains | BinaryOp::ContainsAll | BinaryOp::ContainsAny,
            arg1,
            arg2,
        } => holds_http(arg1) || is_http(arg2) || holds_http(arg2),
        _ => false,
    }
}

/// Where the scope of a policy names `http`: Cedar's syntax tree does not say it.
fn scope(template: &Template, http: &EntityUID) -> Option<Range<usize>> {
    let place = template.loc()?;
    let start = place.span.offset();
    let text = place.src.get(start..start + place.span.len())?;
    let name = http.to_string();
    let found = text.find(&name)?;
    Some(start + found..start + found + name.len())
}

#[cfg(test)]
mod tests;
