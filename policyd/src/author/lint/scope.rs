//! Policies for what is not there: callers, services, namespaces and groups that the bundle doesn't have.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use cedar_policy::EntityUid;
use cedar_policy_core::ast::{
    BinaryOp, EntityReference, Expr, ExprKind, Literal, PrincipalOrResourceConstraint, Var,
};
use daemon::finding::did_you_mean;
use model::{Principal, TrustDomain};

use super::name::Lint;
use super::source::{Report, Source};
use crate::bundle::Bundle;

/// Looks at the scopes of all policies, and at the entities that their conditions name.
pub(super) fn check(policies: &[Source<'_>], bundle: &Bundle, report: &mut Report) {
    let mut known = Known::of(bundle);
    for policy in policies {
        let principal = policy.tree().principal_constraint();
        let resource = policy.tree().resource_constraint();
        for (var, constraint) in
            [(Var::Principal, principal.as_inner()), (Var::Resource, resource.as_inner())]
        {
            let (uid, is_in) = match constraint {
                PrincipalOrResourceConstraint::In(EntityReference::EUID(uid))
                | PrincipalOrResourceConstraint::IsIn(_, EntityReference::EUID(uid)) => (uid, true),
                PrincipalOrResourceConstraint::Eq(EntityReference::EUID(uid)) => (uid, false),
                _ => continue,
            };
            let span = policy.span(uid.loc());
            let uid = EntityUid::from(uid.as_ref().clone());
            known.look(policy, &uid, is_in.then_some(var), span, report);
        }
        for expr in policy.condition().into_iter().flat_map(Expr::subexpressions) {
            let (literal, var) = match expr.expr_kind() {
                ExprKind::BinaryApp { op: BinaryOp::In, arg1, arg2 } => match arg1.expr_kind() {
                    ExprKind::Var(var) => (arg2.as_ref(), Some(*var)),
                    _ => continue,
                },
                _ => (expr, None),
            };
            if let ExprKind::Lit(Literal::EntityUID(uid)) = literal.expr_kind() {
                let uid = EntityUid::from(uid.as_ref().clone());
                known.look(policy, &uid, var, policy.span(literal.source_loc()), report);
            }
        }
    }
}

/// What the bundle has.
struct Known<'b> {
    bundle: &'b Bundle,
    /// The ids of each type.
    ids: HashMap<String, Vec<String>>,
    /// Everything that a caller, or a namespace with callers of all kinds, is in.
    with_callers: HashSet<&'b EntityUid>,
    /// Everything that a service is in.
    with_services: HashSet<&'b EntityUid>,
    /// What was told of unknown entities: the nearest known one is searched for once.
    told: HashMap<EntityUid, (String, String)>,
}

impl<'b> Known<'b> {
    fn of(bundle: &'b Bundle) -> Self {
        let mut known = Self {
            bundle,
            ids: HashMap::new(),
            with_callers: HashSet::new(),
            with_services: HashSet::new(),
            told: HashMap::new(),
        };
        for entity in bundle.entities.iter() {
            let uid = entity.uid();
            let ancestors = || bundle.entities.ancestors(&uid).into_iter().flatten();
            match uid.type_name().to_string().as_str() {
                "Workload" | "Namespace" => known.with_callers.extend(ancestors()),
                "Service" => known.with_services.extend(ancestors()),
                _ => {}
            }
            let ids = known.ids.entry(uid.type_name().to_string()).or_default();
            ids.push(uid.id().unescaped().to_owned());
        }
        known
    }

    /// Looks at `uid`, which `policy` names at `span`; with a `var`, it is what that has to be in.
    fn look(
        &mut self,
        policy: &Source<'_>,
        uid: &EntityUid,
        var: Option<Var>,
        span: Range<usize>,
        report: &mut Report,
    ) {
        let kind = uid.type_name().to_string();
        if kind == "Action" || kind.ends_with("::Action") {
            return; // The schema has all of them: the validator tells of others.
        }
        if self.bundle.entities.get(uid).is_none() {
            if let Some((message, help)) = self.unknown(uid, &kind) {
                report.add(policy, Lint::UnknownEntity, span, message, help);
            }
            return;
        }
        // Everybody is in themselves.
        let members = match var {
            Some(Var::Principal) if kind != "Workload" && kind != "Namespace" => &self.with_callers,
            Some(Var::Resource) if kind != "Service" => &self.with_services,
            _ => return,
        };
        if !members.contains(uid) {
            let who = if var == Some(Var::Principal) { "caller" } else { "service" };
            let message = format!("no {who} is in `{uid}`");
            let help = format!(
                "put its {who}s into it in entities.json: `\"parents\": [{{\"type\": …, \"id\": …}}]`"
            );
            report.add(policy, Lint::EmptyGroup, span, message, help);
        }
    }

    /// What is to be said of an entity that the bundle does not have; nothing of one that may well exist.
    fn unknown(&mut self, uid: &EntityUid, kind: &str) -> Option<(String, String)> {
        if let Some(told) = self.told.get(uid) {
            return Some(told.clone());
        }
        let id = uid.id().unescaped();
        let (message, otherwise) = match kind {
            "Workload" => unknown_caller(id, &self.bundle.mesh.trust_domain)?,
            "Service" => (format!("there is no service `{id}`"), "name a service of mesh.yaml".to_owned()),
            "Namespace" => (
                format!("no service of this mesh is in the namespace `{id}`"),
                "name the `namespace` of a service in mesh.yaml".to_owned(),
            ),
            _ => (format!("there is no `{uid}`"), "add it to entities.json, with its members".to_owned()),
        };
        let near = if self.told.len() < SEARCHES_MAX {
            did_you_mean(id, self.ids.get(kind).into_iter().flatten().map(String::as_str))
        } else {
            None
        };
        let help = near.map_or(otherwise, |near| format!("did you mean `{near}`?"));
        self.told.insert(uid.clone(), (message.clone(), help.clone()));
        Some((message, help))
    }
}

/// A caller of another trust domain, which the bundle can't know, is left alone.
fn unknown_caller(id: &str, domain: &TrustDomain) -> Option<(String, String)> {
    let written = "write `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` or `unauthenticated`";
    match id.parse::<Principal>() {
        Err(error) => {
            Some((format!("`{id}` is no SPIFFE ID, so that no caller has it: {error}"), written.to_owned()))
        }
        Ok(principal) if principal.as_str() != id => Some((
            format!("no caller has the identity `{id}`: scheme and trust domain are in lower case"),
            format!("write `{}`", principal.as_str()),
        )),
        Ok(principal) => {
            let is_ours = principal.spiffe_id().is_some_and(|id| id.trust_domain() == domain.as_str());
            is_ours.then(|| {
                let help = "correct it; a caller outside of the mesh may stand in entities.json";
                (format!("no service of this mesh has the identity `{id}`"), help.to_owned())
            })
        }
    }
}

/// For how many unknown entities the nearest known one is searched for, which looks at all that are known.
const SEARCHES_MAX: usize = 100;
