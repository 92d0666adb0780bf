//! Who may call what: of each caller and service whether every request is allowed, some, or none.
//!
//! The answer is found by evaluating requests at the boundaries of all conditions that concern the service. Where these
//! are all that policies can tell apart, `always` and `never` are proven; where they are a sample, two different outcomes
//! prove `conditionally`, and one alone proves nothing: then the answer is `conditionally`, too, and says so.

mod report;
mod scopes;

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Effect;
use cedar_policy_core::ast::{Expr, ExprKind, Template, Var};
use daemon::Findings;
use model::{Action, Attributes, Principal, Verdict};

pub use report::{details, json};

use crate::author::boundary::{Boundaries, Boundary, STRANGER};
use crate::bundle::clauses::{self, Clauses};
use crate::bundle::{Bundle, Files};
use crate::engine;
use scopes::{Scopes, Within};

/// Callers, services, and what the ones may do with the others.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The callers, by name.
    pub callers: Vec<Caller>,
    /// The services, by name.
    pub services: Vec<String>,
    /// The cells, row by row: of each caller, one for each service.
    pub cells: Vec<Cell>,
    /// Whether it is about one request of each caller, and not about all that it may send.
    pub one_request: bool,
}

/// Someone who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As policies see it. Of a caller that stands for others, an id that none has.
    pub principal: Principal,
    /// What it is called.
    pub name: String,
    /// Whether it stands for all callers of a namespace that the bundle does not name.
    pub is_stranger: bool,
}

/// What one caller may do with one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The answer.
    pub may: May,
    /// Whether it is sure. `always` and `never` are.
    pub proven: bool,
    /// The policies that allow or deny it.
    pub policies: Vec<Deciding>,
}

/// Whether requests are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum May {
    /// All of them.
    Always,
    /// It depends on the request.
    Conditionally,
    /// None.
    Never,
}

/// A policy that decides some of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deciding {
    /// Its id.
    pub id: String,
    /// Whether it permits or forbids.
    pub effect: Verdict,
    /// The file and the line it stands in.
    pub place: (String, usize),
    /// Its conditions, as they are written.
    pub conditions: Vec<String>,
}

/// Which callers and services are asked about: all unless one is named.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The caller.
    pub caller: Option<Principal>,
    /// The service.
    pub service: Option<String>,
}

/// How far the work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There are so many cells.
    Cells(usize),
    /// One more is done.
    Done,
}

/// Who may call what by `action`, in `bundle`, which was loaded from `files`. `progress` is told how many cells there are, and
/// then of each that is done.
///
/// # Errors
/// When the files do not hold the bundle's policies any more.
pub fn matrix(
    bundle: &Bundle,
    files: &Files,
    asked: &Asked,
    action: Action,
    progress: &dyn Fn(Progress),
) -> Result<Matrix, Findings> {
    let clauses = by_name(bundle, files)?;
    let boundaries = Boundaries::new(&[bundle]);
    let scopes = Scopes::of(bundle);
    let policies = bundle.policies.policies().map(|policy| policy.statement().template());
    let conditions = bundle.conditions.policies().map(|policy| policy.as_ref().template());
    let reads_callers = policies.chain(conditions).any(reads_caller);
    let services = services(bundle, asked);
    let Some(first) = services.first() else { return Ok(Matrix::empty()) };
    let callers = callers(bundle, &boundaries.of(first).principals, asked);
    progress(Progress::Cells(callers.len() * services.len()));
    let mut columns = Vec::new();
    for service in &services {
        let boundary = boundaries.of(service);
        let column = callers.iter().map(|caller| {
            let question = Question { bundle, boundary: &boundary, caller, action };
            let is_vague = caller.is_stranger && reads_callers;
            let cell = question.cell(&scopes.concerning(caller, service), is_vague, &clauses);
            progress(Progress::Done);
            cell
        });
        columns.push(column.collect::<Vec<Cell>>());
    }
    let row = |place: usize| columns.iter().filter_map(move |column| column.get(place).cloned());
    let cells = (0..callers.len()).flat_map(row).collect();
    Ok(Matrix { callers, services, cells, one_request: false })
}

/// Who may send one request: `request` makes it for each caller and service, and may refuse to.
///
/// # Errors
/// What `request` says, or that the files do not hold the bundle's policies any more.
pub fn of_request<E: From<Findings>>(
    bundle: &Bundle,
    files: &Files,
    asked: &Asked,
    request: impl Fn(&Principal, &str) -> Result<Attributes, E>,
) -> Result<Matrix, E> {
    let clauses = by_name(bundle, files)?;
    let services = services(bundle, asked);
    let Some(first) = services.first() else { return Ok(Matrix::empty()) };
    let callers = callers(bundle, &Boundaries::new(&[bundle]).of(first).principals, asked);
    let mut cells = Vec::new();
    for caller in &callers {
        for service in &services {
            let mut seen = Seen::default();
            seen.look(bundle, &request(&caller.principal, service)?);
            let may = if seen.allowed { May::Always } else { May::Never };
            cells.push(Cell { may, proven: true, policies: seen.policies(&clauses) });
        }
    }
    Ok(Matrix { callers, services, cells, one_request: true })
}

impl Matrix {
    const fn empty() -> Self {
        Self { callers: Vec::new(), services: Vec::new(), cells: Vec::new(), one_request: false }
    }

    /// Whether no caller may call anything.
    pub fn is_closed(&self) -> bool {
        self.cells.iter().all(|cell| cell.may == May::Never)
    }

    /// The rows: each caller, and its cells beside their services.
    pub fn rows(&self) -> impl Iterator<Item = (&Caller, impl Iterator<Item = (&str, &Cell)>)> {
        let rows = self.cells.chunks(self.services.len().max(1));
        self.callers
            .iter()
            .zip(rows)
            .map(|(caller, row)| (caller, self.services.iter().map(String::as_str).zip(row)))
    }

    /// A cell's answer in a word or two.
    pub const fn word(&self, cell: &Cell) -> &'static str {
        match (cell.may, self.one_request, cell.proven) {
            (May::Always, false, _) => "always",
            (May::Always, true, _) => "allowed",
            (May::Conditionally, _, true) => "conditionally",
            (May::Conditionally, _, false) => "conditionally?",
            (May::Never, false, _) => "never",
            (May::Never, true, _) => "denied",
        }
    }
}

/// One caller and one service.
struct Question<'b> {
    bundle: &'b Bundle,
    boundary: &'b Boundary<'b>,
    caller: &'b Caller,
    action: Action,
}

impl Question<'_> {
    /// `within` are the policies whose scopes may fit. If `is_vague`, the caller stands for others who may differ from it.
    fn cell(&self, within: &Within<'_>, is_vague: bool, clauses: &BTreeMap<String, Clauses>) -> Cell {
        if within.permits.is_empty() {
            // No permit can be satisfied, whatever is asked.
            return Cell { may: May::Never, proven: true, policies: Vec::new() };
        }
        let requests = self.boundary.requests_from(std::slice::from_ref(&self.caller.principal));
        let mut seen = Seen::default();
        for request in requests.requests.iter().filter(|request| self.can_be(request)) {
            seen.look(self.bundle, request);
        }
        let exhaustive = requests.exhaustive && !is_vague;
        let (may, proven) = match (seen.allowed, seen.denied) {
            (true, true) => (May::Conditionally, true),
            (true, false) if exhaustive => (May::Always, true),
            (false, true) if exhaustive => (May::Never, true),
            // No policy is about this action.
            (false, false) => (May::Never, true),
            _ => (May::Conditionally, false),
        };
        if !proven {
            seen.permits.extend(within.permits.iter().map(|policy| policy.id().to_string()));
            seen.forbids.extend(within.forbids.iter().map(|policy| policy.id().to_string()));
        }
        Cell { may, proven, policies: seen.policies(clauses) }
    }

    /// A caller with an identity comes by mutual TLS, one without comes in the clear.
    fn can_be(&self, request: &Attributes) -> bool {
        let in_the_clear = request.principal == Principal::Unauthenticated;
        request.action == self.action && request.tls != in_the_clear
    }
}

/// What came of some requests.
#[derive(Default)]
struct Seen {
    allowed: bool,
    denied: bool,
    permits: BTreeSet<String>,
    forbids: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, bundle: &Bundle, request: &Attributes) {
        // A request that can't be evaluated is denied.
        let opinion = engine::evaluate(bundle, request).map(|evaluation| evaluation.opinion);
        match opinion {
            Ok(opinion) if opinion.verdict == Verdict::Allow && !opinion.degraded => {
                self.allowed = true;
                self.permits.extend(opinion.reasons);
            }
            Ok(opinion) => {
                self.denied = true;
                self.forbids.extend(opinion.reasons);
            }
            Err(_) => self.denied = true,
        }
    }

    fn policies(self, clauses: &BTreeMap<String, Clauses>) -> Vec<Deciding> {
        let forbids = self.forbids.into_iter().map(|id| (id, Verdict::Deny));
        let permits = self.permits.into_iter().map(|id| (id, Verdict::Allow));
        permits.chain(forbids).filter_map(|(id, effect)| deciding(clauses.get(&id)?, effect)).collect()
    }
}

fn deciding(clauses: &Clauses, effect: Verdict) -> Option<Deciding> {
    let condition = |condition: &clauses::Condition| {
        let word = if condition.is_unless { "unless" } else { "when" };
        let alone = condition.parts.len() == 1;
        let shown = |part: &clauses::Part| match part.expr().expr_kind() {
            // The brackets that it stood in are no part of it.
            ExprKind::Or { .. } | ExprKind::If { .. } if !alone => format!("({})", part.text),
            _ => part.text.clone(),
        };
        let parts: Vec<String> = condition.parts.iter().map(shown).collect();
        format!("{word} {{ {} }}", parts.join(" && "))
    };
    Some(Deciding {
        id: clauses.name.clone(),
        effect,
        place: (clauses.place.file.clone(), clauses.place.line),
        conditions: clauses.conditions.iter().map(condition).collect(),
    })
}

fn by_name(bundle: &Bundle, files: &Files) -> Result<BTreeMap<String, Clauses>, Findings> {
    let is_enforced = |clauses: &Clauses| {
        matches!(clauses.kind, clauses::Kind::Permit | clauses::Kind::Forbid) && !clauses.is_shadow
    };
    let all = clauses::read(files, &bundle.mesh)?.into_iter().filter(is_enforced);
    Ok(all.map(|clauses| (clauses.name.clone(), clauses)).collect())
}

fn services(bundle: &Bundle, asked: &Asked) -> Vec<String> {
    let all = bundle.mesh.services.keys();
    all.filter(|name| asked.service.as_ref().is_none_or(|service| service == *name)).cloned().collect()
}

/// The callers that are asked about, services first, strangers last. One that the bundle does not know is itself.
fn callers(bundle: &Bundle, known: &[Principal], asked: &Asked) -> Vec<Caller> {
    let mut callers: Vec<Caller> = match &asked.caller {
        Some(principal) => {
            vec![Caller { name: name(bundle, principal), principal: principal.clone(), is_stranger: false }]
        }
        None => known.iter().map(|principal| caller(bundle, principal)).collect(),
    };
    callers.sort_by_key(|caller| {
        let is_service =
            bundle.mesh.services.values().any(|service| is(&caller.principal, service.spiffe_id.as_str()));
        (caller.is_stranger, !is_service, caller.name.clone())
    });
    callers
}

fn caller(bundle: &Bundle, principal: &Principal) -> Caller {
    let id = principal.spiffe_id().filter(|id| id.service_account() == Some(STRANGER));
    let is_known = || bundle.entities.iter().any(|entity| is(principal, entity.uid().id().unescaped()));
    let namespace = id.and_then(|id| id.namespace()).filter(|_| !is_known());
    let name = match namespace {
        None => name(bundle, principal),
        Some(STRANGER) => "others".to_owned(),
        Some(namespace) => format!("others in {namespace}"),
    };
    Caller { principal: principal.clone(), name, is_stranger: namespace.is_some() }
}

/// A service's name, or the caller's id.
fn name(bundle: &Bundle, principal: &Principal) -> String {
    let mut named =
        bundle.mesh.services.iter().filter(|(_, service)| is(principal, service.spiffe_id.as_str()));
    match (named.next(), named.next()) {
        (Some((name, _)), None) => name.clone(),
        _ => principal.as_str().to_owned(),
    }
}

fn is(principal: &Principal, id: &str) -> bool {
    principal.as_str() == id
}

/// Whether a policy reads attributes of the caller, by which strangers may differ.
fn reads_caller(policy: &Template) -> bool {
    let mut parts = policy.non_scope_constraints().into_iter().flat_map(Expr::subexpressions);
    parts.any(|expr| match expr.expr_kind() {
        ExprKind::GetAttr { expr, .. }
        | ExprKind::HasAttr { expr, .. }
        | ExprKind::ExtHasAttr { expr, .. } => {
            matches!(expr.expr_kind(), ExprKind::Var(Var::Principal))
        }
        _ => false,
    })
}

/// Whether a policy permits.
fn permits(policy: &cedar_policy::Policy) -> bool {
    policy.effect() == Effect::Permit
}

#[cfg(test)]
mod tests;
