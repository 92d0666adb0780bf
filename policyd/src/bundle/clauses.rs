//! Policies taken apart into their clauses, each with its place in the bundle and an expression to evaluate.
//!
//! The conditions of limits and rules are policies, too. A `when` or `unless` is taken apart at its outermost `&&`,
//! whose value is the values of both sides. The places are those of Cedar's own parser.

use cedar_policy::Expression;
use cedar_policy_core::ast::{Effect, Expr, ExprBuilder, ExprKind, Template};
use cedar_policy_core::parser::{Loc, cst, text_to_cst};
use daemon::finding::{Finding, Findings};
use model::Value;
use serde::Serialize;

use super::cedar_file::Spot;
use super::conditions::Conditions;
use super::{Files, Loader, Mesh, Policy, cedar_text, limits, rules};
use crate::engine::{Evaluation, InputError};

/// A policy, or the condition of a limit or rule.
#[derive(Clone, Debug)]
pub struct Clauses {
    /// The policy's id, or the name of the limit or rule.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it is tried and not enforced.
    pub is_shadow: bool,
    /// Where it stands.
    pub place: Place,
    /// What its scope asks for, in the order in which Cedar evaluates it. A part that takes anything is left out.
    pub scope: Vec<Part>,
    /// Its `when` and `unless`, in their order.
    pub conditions: Vec<Condition>,
}

/// A `when` or `unless`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Whether it wants that not all of its parts hold.
    pub is_unless: bool,
    /// The sides of its outermost `&&`, in their order: one at least.
    pub parts: Vec<Part>,
}

/// A part of a policy that holds or does not hold.
#[derive(Clone, Debug)]
pub struct Part {
    /// `principal`, `action`, `resource`, `when` or `unless`.
    pub word: &'static str,
    /// As its author wrote it, on one line and without comments.
    pub text: String,
    /// Where it stands.
    pub place: Place,
    /// For evaluation.
    pub expression: Expression,
}

/// What a part comes to on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CameTo {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Its evaluation fails: why.
    Error(String),
}

/// What [`Clauses`] are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A policy that denies.
    Forbid,
    /// A policy that allows.
    Permit,
    /// The `when` of a limit.
    Limit,
    /// The `match` of a rule.
    Rule,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, relative to the bundle.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// Takes all policies of a bundle apart: those of `*.cedar` first, by id, then those of them that are tried and not
/// enforced, then the conditions of limits and rules.
///
/// # Errors
/// Every mistake of the files that keeps them from being read. There is none if they make a [`Bundle`](super::Bundle).
pub fn read(files: &Files, mesh: &Mesh) -> Result<Vec<Clauses>, Findings> {
    let mut findings = Findings::new();
    let policies = Loader::default().read_policies(files, &mut findings);
    let mut conditions = Conditions::default();
    super::read_conditions(files, mesh, &mut conditions, &mut findings);
    let mut clauses = Vec::new();
    let enforced = policies.by_id().map(|policy| (policy, false));
    for (policy, is_shadow) in enforced.chain(policies.shadows().map(|policy| (policy, true))) {
        match of_policy(policy) {
            Some(taken) => clauses.push(Clauses { is_shadow, ..taken }),
            None => findings.push(policy.spot().finding(format!("`{}` can't be taken apart", policy.id()))),
        }
    }
    for (condition, place) in conditions.iter() {
        match of_condition(condition, &place) {
            Some(taken) => clauses.push(taken),
            None => findings.push(place.finding(format!("`{}` can't be taken apart", condition.id()))),
        }
    }
    if findings.has_errors() { Err(findings) } else { Ok(clauses) }
}

impl Clauses {
    /// The parts of scope and conditions, in the order in which Cedar evaluates them.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.scope.iter().chain(self.conditions.iter().flat_map(|condition| &condition.parts))
    }
}

impl Part {
    /// What it comes to on a request.
    pub fn came_to(&self, evaluation: &Evaluation<'_>) -> CameTo {
        match evaluation.input(&self.expression) {
            Ok(Value::Bool(true)) => CameTo::True,
            Ok(Value::Bool(false)) => CameTo::False,
            Ok(other) => CameTo::Error(format!("it is `{other}`, and neither true nor false")),
            Err(InputError::Evaluation(error)) => CameTo::Error(error.to_string()),
            Err(error @ InputError::NotSimple(_)) => CameTo::Error(error.to_string()),
        }
    }

    /// The expression as Cedar's evaluator has it.
    pub fn expr(&self) -> &Expr {
        self.expression.as_ref()
    }

    /// Whether it is `true` or `false`, whatever the request.
    pub fn is_constant(&self) -> bool {
        matches!(self.expr().expr_kind(), ExprKind::Lit(_))
    }
}

impl Kind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbid => "forbid",
            Self::Permit => "permit",
            Self::Limit => "limit",
            Self::Rule => "rule",
        }
    }

    /// The words for it where policies that are tried and not enforced stand among the others.
    pub const fn marked(self, is_shadow: bool) -> &'static str {
        match self {
            Self::Forbid if is_shadow => "shadow forbid",
            Self::Permit if is_shadow => "shadow permit",
            other => other.as_str(),
        }
    }
}

/// A link is taken apart where its template stands; its scope says what its slots stand for.
fn of_policy(policy: &Policy) -> Option<Clauses> {
    let spot = policy.written();
    let kind = if policy.effect() == Effect::Forbid { Kind::Forbid } else { Kind::Permit };
    let text = cedar_text::Place::file("", spot.text());
    let source = Source { text: &text, offset: 0, spot: Some(spot) };
    let template = policy.to_ast();
    let mut taken = source.take_apart(policy.id(), kind, &template, spot.text())?;
    if policy.slots().is_some() {
        for part in &mut taken.scope {
            part.text = match part.word {
                "principal" => template.principal_constraint().to_string(),
                "resource" => template.resource_constraint().to_string(),
                _ => continue,
            };
        }
    }
    Some(taken)
}

/// Nothing if the condition was not read from text, which no condition of a bundle is.
fn of_condition(condition: &cedar_policy::Policy, text: &cedar_text::Place<'_>) -> Option<Clauses> {
    let whole = condition.as_ref().loc()?;
    let id = condition.id().to_string();
    let (kind, name) = match id.strip_prefix(limits::ID_PREFIX) {
        Some(name) => (Kind::Limit, name),
        None => (Kind::Rule, id.strip_prefix(rules::ID_PREFIX)?),
    };
    let source = Source { text, offset: whole.start(), spot: None };
    source.take_apart(name, kind, condition.as_ref().template(), whole.snippet()?)
}

/// The text of one policy.
struct Source<'a> {
    /// Where Cedar's text stands in the bundle.
    text: &'a cedar_text::Place<'a>,
    /// Where the policy starts in Cedar's text.
    offset: usize,
    /// Where that text stands in its file, unless it knows that itself. The lines of a file of many policies must not be
    /// counted for each of them.
    spot: Option<&'a Spot>,
}

impl Source<'_> {
    /// `text` is what `template` was made of.
    fn take_apart(&self, name: &str, kind: Kind, template: &Template, text: &str) -> Option<Clauses> {
        let parsed = text_to_cst::parse_policy(text).ok()?;
        let cst::Policy::Policy(written) = parsed.node.as_ref()?;
        let scope = [
            ("principal", template.principal_constraint().as_expr()),
            ("action", template.action_constraint().as_expr()),
            ("resource", template.resource_constraint().as_expr()),
        ];
        let scope = scope.into_iter().zip(&written.variables);
        let scope = scope.map(|((word, expr), written)| self.part(word, expr, written.loc.as_ref()?));
        let scope = scope.collect::<Option<Vec<Part>>>()?;
        let conditions = written.conds.iter().map(|condition| self.condition(condition.node.as_ref()?));
        Some(Clauses {
            name: name.to_owned(),
            kind,
            is_shadow: false,
            place: self.place(0..text.len()),
            scope: scope.into_iter().filter(|part| !part.is_constant()).collect(),
            conditions: conditions.collect::<Option<_>>()?,
        })
    }

    fn condition(&self, written: &cst::Cond) -> Option<Condition> {
        let expr = written.expr.as_ref()?.to_expr::<ExprBuilder<()>>().ok()?;
        let is_unless = matches!(written.cond.node.as_ref()?, cst::Ident::Unless);
        let word = if is_unless { "unless" } else { "when" };
        let mut sides = Vec::new();
        conjuncts(&expr, &mut sides);
        let part = |expr: &Expr| self.part(word, expr.clone(), expr.source_loc()?);
        let parts = sides.into_iter().map(part).collect::<Option<_>>()?;
        Some(Condition { is_unless, parts })
    }

    fn part(&self, word: &'static str, expr: Expr, at: &Loc) -> Option<Part> {
        let text = on_one_line(at.snippet()?);
        Some(Part { word, text, place: self.place(at.start()..at.end()), expression: expr.into() })
    }

    /// The place of some bytes of the policy.
    fn place(&self, span: std::ops::Range<usize>) -> Place {
        let span = self.text.to_file(Some(span.start + self.offset..span.end + self.offset));
        let within = Finding::at(self.text.file, self.text.source, span, "");
        let Finding { file, line, column, span, .. } = match self.spot {
            Some(spot) => spot.placed(within),
            None => within,
        };
        Place { file, line, column, start: span.start, end: span.end }
    }
}

/// The sides of the outermost `&&` of an expression, from left to right.
fn conjuncts<'e>(expr: &'e Expr, into: &mut Vec<&'e Expr>) {
    match expr.expr_kind() {
        // `a is T in b` is an `&&` for Cedar, too, both of whose sides stand where it stands.
        ExprKind::And { left, right } if span(left) != span(right) => {
            conjuncts(left, into);
            conjuncts(right, into);
        }
        _ => into.push(expr),
    }
}

fn span(expr: &Expr) -> Option<(usize, usize)> {
    expr.source_loc().map(|loc| (loc.start(), loc.end()))
}

/// A text without line breaks and comments. What stands within a line is left as it is.
fn on_one_line(text: &str) -> String {
    let lines = text.lines().map(|line| without_comment(line).trim()).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

fn without_comment(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (place, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            '/' if !quoted && line.get(place..).is_some_and(|rest| rest.starts_with("//")) => {
                return line.get(..place).unwrap_or(line);
            }
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests;
