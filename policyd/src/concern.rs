//! Whom a change concerns: for each service, what the decisions on it are made from, as digests to compare.
//!
//! Every decision carries the revision of its service, and that is the number of the snapshot in which one of
//! the digests below last changed. What makes this sound is one rule:
//!
//! **As long as a service's revision is the same, so are its atoms and every decision on it, the names of the
//! limits to charge and of the rules that fire included.**
//!
//! The rule holds because a decision on a service is a function of the request and of
//! - the policies, shadows included, and the conditions of limits and rules, whose scope names the service, an
//!   ancestor of it, or nothing: no other is a candidate ([`crate::engine::index`]). The engine looks at them in the
//!   order of their ids, so policies that come or go elsewhere don't even change which `forbid` is named;
//! - what the rules behind those conditions hand to their check adapters, and the adapters' answers, which have a
//!   version each ([`crate::handlers`]);
//! - the service's own entity and its ancestors;
//! - its operations and their groups;
//! - the caller's entity: what its SPIFFE ID implies, which never changes, and what `entities.json` says of it,
//!   of namespaces and of groups;
//! - any other entity only where an expression starts from one by name (`Service::"a".namespace`), or the author's
//!   schema lets an attribute lead to one; then all entities count;
//! - the author's schema, and `decision_validity`;
//! - the names of headers and parameters that others read, only where the context is read as a whole.
//!
//! Atoms are derived from those same policies and inputs, so they need no digest of their own.
//!
//! A digest says more than is needed where that is simpler: a policy's annotations count, and so does a report's
//! rule that becomes a check's. The work grows with the policies and the services, not with their product.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::PolicySet;
use cedar_policy_core::ast::{BinaryOp, EntityUID, Expr, ExprKind, Literal};

use crate::bundle::expression::Input;
use crate::bundle::limits::ServiceLimit;
use crate::bundle::mesh::{Instance, Mesh, Service};
use crate::bundle::operations::Actions;
use crate::bundle::rules::{ID_PREFIX, Rule, Rules};
use crate::bundle::{Bundle, Policies, Statement, scope};
use crate::digest::Digest;

/// What each service's decisions, and what its proxies are told besides, are made from.
#[derive(Debug)]
pub struct Concerns {
    /// By the service's name.
    pub services: BTreeMap<String, Concern>,
    /// What every proxy is told of every service.
    pub mesh: Digest,
}

/// What one service depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// What decisions on it are made from, but for the answers of check adapters.
    pub decisions: Digest,
    /// The handlers of the check adapters that may be asked.
    pub handlers: BTreeSet<String>,
    /// What its proxies are told of it besides.
    pub told: Digest,
}

/// What the policies of one scope come to.
#[derive(Debug, Default)]
struct Scoped {
    policies: Vec<Digest>,
    handlers: BTreeSet<String>,
    reads_any_entity: bool,
}

/// The content of a bundle, by the service that it concerns; none stands for all.
struct Gathered<'b> {
    /// Policies and conditions, by the resource of their scope.
    scopes: HashMap<Option<EntityUID>, (Digest, Scoped)>,
    /// What proxies are told: limits and reports.
    told: HashMap<Option<&'b str>, Digest>,
    /// What all proxies are told of their services.
    told_of_all: Digest,
    /// All that every decision depends on.
    of_all: Digest,
    /// All entities.
    entities: Digest,
    /// Every name that is declared.
    declared: Digest,
    /// Every operation, and its groups.
    actions: Actions,
}

impl Concerns {
    /// The digests of `bundle`. O(its size).
    pub fn of(bundle: &Bundle) -> Self {
        let gathered = Gathered::of(bundle);
        let services = bundle.mesh.services.iter();
        let of_service = |(name, service)| (String::clone(name), gathered.of_service(bundle, name, service));
        Self { services: services.map(of_service).collect(), mesh: mesh(&bundle.mesh) }
    }
}

impl<'b> Gathered<'b> {
    fn of(bundle: &'b Bundle) -> Self {
        // A field that is added doesn't compile until someone says here whom it concerns.
        let Bundle {
            folder: _,
            mesh,
            policies,
            conditions,
            policies_index: _,
            shadows_index,
            conditions_index: _,
            schemas,
            entities: _,
            said,
            limits,
            rules,
            atoms: _,
            // Made of entities and conditions.
            strangers: _,
            warnings: _,
        } = bundle;
        let Mesh {
            trust_domain: _,
            certificate_ttl: _,
            decision_validity,
            decision_log,
            stale_after,
            services,
            key_files: _,
            tries: _,
        } = mesh;
        let mut scopes = HashMap::new();
        gather_policies(policies, &mut scopes);
        gather_conditions(conditions, rules, &mut scopes);
        let scopes = scopes.into_iter().map(|(named, mut scoped)| {
            let policies = Digest::of_all(std::mem::take(&mut scoped.policies));
            (named, (policies, scoped))
        });
        let implied: Vec<_> =
            services.iter().map(|(name, service)| (name, &service.namespace, &service.spiffe_id)).collect();
        Self {
            scopes: scopes.collect(),
            told: told(limits, rules),
            // A number between 0 and 1 has no `Hash`, but its text says all of it.
            told_of_all: Digest::of(&(stale_after, format!("{decision_log:?}"))),
            of_all: Digest::of(&(
                (decision_validity, &schemas.author, said.of_others),
                // Whether anything is tried at all is told with every decision.
                shadows_index.is_empty(),
            )),
            entities: Digest::of(&(implied, &said.of_services, said.of_others)),
            declared: Digest::of(&schemas.declared),
            actions: mesh.actions(),
        }
    }

    fn of_service(&self, bundle: &Bundle, name: &str, service: &Service) -> Concern {
        // Here too: whom does a new field concern?
        let Service {
            namespace,
            spiffe_id,
            timeout: _,
            idle_timeout: _,
            protocol: _,
            merge_slashes,
            // Who calls is an input of decisions, however proxies come to know it.
            mtls: _,
            fail_mode,
            denial_exposure,
            enforcement,
            decision_log,
            ingress: _,
            operations,
            openapi: _,
            // Decisions are made from claims, however proxies come by them.
            issuers,
            // Told with the mesh.
            external: _,
            instances: _,
        } = service;
        // A service of another name may put an operation of the same name into more groups.
        let actions: Vec<_> = operations.groups.keys().map(|name| self.actions.get_key_value(name)).collect();
        let operations = (operations.operations.routes(), actions);
        let mut scopes = scope::of_service(name, &bundle.entities);
        scopes.sort();
        let mut policies = Vec::new();
        let mut handlers = BTreeSet::new();
        let mut reads_any_entity = bundle.schemas.author.is_some();
        for (digest, scoped) in scopes.iter().filter_map(|scope| self.scopes.get(scope)) {
            policies.push(*digest);
            handlers.extend(scoped.handlers.iter().cloned());
            reads_any_entity |= scoped.reads_any_entity;
        }
        let reads_whole_context = bundle.atoms.get(name).is_none_or(|atoms| !atoms.is_cacheable());
        let own_entity = (namespace, spiffe_id, &scopes, bundle.said.of_services.get(name));
        let others =
            (reads_any_entity.then_some(self.entities), reads_whole_context.then_some(self.declared));
        let (told_of_all, told_of_it) = (self.told.get(&None), self.told.get(&Some(name)));
        Concern {
            decisions: Digest::of(&(self.of_all, policies, own_entity, operations, others)),
            handlers,
            told: Digest::of(&(
                (fail_mode, denial_exposure, enforcement, decision_log, issuers, merge_slashes),
                (self.told_of_all, told_of_all, told_of_it),
            )),
        }
    }
}

/// Adds the access policies to their scopes.
fn gather_policies(policies: &Policies, scopes: &mut HashMap<Option<EntityUID>, Scoped>) {
    // Links share their template, so it is looked at once.
    let mut statements: HashMap<*const Statement, (Digest, bool)> = HashMap::new();
    let enforced = policies.policies().map(|policy| ("policy", policy));
    for (what, policy) in enforced.chain(policies.shadows().map(|policy| ("shadow", policy))) {
        let statement = policy.statement();
        let (digest, reads_any_entity) = *statements.entry(Arc::as_ptr(statement)).or_insert_with(|| {
            let condition = statement.template().non_scope_constraints();
            (Digest::of(statement.template()), condition.is_some_and(starts_from_an_entity))
        });
        let slots = policy.slots().map(|link| (&link.principal, &link.resource));
        let slot = slots.and_then(|(_, resource)| resource.as_deref());
        let named = scope::named_resource(statement.template(), slot).cloned();
        let scoped = scopes.entry(named).or_default();
        scoped.policies.push(Digest::of(&(what, policy.id(), digest, slots)));
        scoped.reads_any_entity |= reads_any_entity;
    }
}

/// Adds the conditions of limits and rules, with what stands behind those of rules.
fn gather_conditions(conditions: &PolicySet, rules: &Rules, scopes: &mut HashMap<Option<EntityUID>, Scoped>) {
    for condition in conditions.policies() {
        let core = condition.as_ref();
        let scoped = scopes.entry(scope::named_resource(core.template(), None).cloned()).or_default();
        let id = condition.id().to_string();
        let rule = id.strip_prefix(ID_PREFIX).and_then(|name| rules.get(name));
        scoped.policies.push(Digest::of(&("condition", core.template(), rule.map(check_of))));
        for action in rule.into_iter().flat_map(Rule::check_actions) {
            scoped.handlers.insert(action.handler.clone());
            let mut fields = action.instances.iter().flat_map(|instance| &instance.fields);
            // An expression may start anywhere.
            scoped.reads_any_entity |= fields.any(|(_, input)| matches!(input, Input::Expression { .. }));
        }
        scoped.reads_any_entity |= core.non_scope_constraints().is_some_and(starts_from_an_entity);
    }
}

/// What a rule has to do with decisions.
fn check_of(rule: &Rule) -> Digest {
    let input = |input: &Input| match input {
        Input::Operand(operand) => Digest::of(operand),
        Input::Expression { expression, .. } => Digest::of(expression.as_ref().as_ref()),
    };
    let actions: Vec<_> = rule
        .check_actions()
        .map(|action| {
            let instances = action.instances.iter().map(|instance| {
                let fields = instance.fields.iter().map(|(name, field)| (name, input(field)));
                (&instance.name, fields.collect::<Vec<_>>())
            });
            (&action.handler, instances.collect::<Vec<_>>())
        })
        .collect();
    Digest::of(&(rule.reports(), actions))
}

/// Whether something is read of an entity that the expression names: then it may be any.
///
/// To be compared with, or to be the group that something is in, reads nothing of it.
fn starts_from_an_entity(condition: &Expr) -> bool {
    let is_named = |expr: &Expr| matches!(expr.expr_kind(), ExprKind::Lit(Literal::EntityUID(_)));
    let in_set = |expr: &Expr| match expr.expr_kind() {
        ExprKind::Set(members) => members.iter().filter(|member| is_named(member)).count(),
        _ => usize::from(is_named(expr)),
    };
    let harmless = |expr: &Expr| match expr.expr_kind() {
        ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => {
            usize::from(is_named(arg1)) + usize::from(is_named(arg2))
        }
        ExprKind::BinaryApp { op: BinaryOp::In, arg2, .. } => in_set(arg2),
        _ => 0,
    };
    let named = condition.subexpressions().filter(|expr| is_named(expr)).count();
    named > condition.subexpressions().map(harmless).sum()
}

/// What the proxies of a service are told, besides what decisions are made from.
fn told<'b>(limits: &'b [ServiceLimit], rules: &'b Rules) -> HashMap<Option<&'b str>, Digest> {
    let mut told: HashMap<Option<&str>, Vec<Digest>> = HashMap::new();
    for ServiceLimit { limit, service } in limits {
        told.entry(service.as_deref()).or_default().push(Digest::of(limit));
    }
    for rule in rules.iter().filter(|rule| rule.reports()) {
        let report = rule.report();
        let handlers = report.actions.iter().filter_map(|action| rules.report_handler(&action.handler));
        let handlers: Vec<_> =
            handlers.map(|handler| (handler.name, handler.adapter, handler.config.to_string())).collect();
        told.entry(rule.service.as_deref()).or_default().push(Digest::of(&(report, handlers)));
    }
    // In their order: a proxy is told of them in that order.
    told.into_iter().map(|(service, digests)| (service, Digest::of(&digests))).collect()
}

/// What every proxy is told of every service.
fn mesh(mesh: &Mesh) -> Digest {
    let instance = |instance: &Instance| Digest::of(&(&instance.name, &instance.version, instance.inbound));
    let service = |(name, service): (&String, &Service)| {
        let instances: Vec<Digest> = service.instances.iter().map(instance).collect();
        Digest::of(&(
            name,
            &service.spiffe_id,
            service.timeout,
            service.protocol,
            service.mtls,
            &service.external,
            instances,
        ))
    };
    Digest::of(&mesh.services.iter().map(service).collect::<Vec<_>>())
}
