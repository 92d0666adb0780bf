//! Conditions taken apart at `&&`, `||` and `!`.

use std::ops::Range;

use cedar_policy_core::ast::{Expr, ExprKind, UnaryOp};

use super::source::Source;

/// A part of a chain: an expression that holds wherever the chain does, or that does not, if it is negated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'e> {
    pub(super) expr: &'e Expr,
    pub(super) negated: bool,
}

/// An `&&` or `||` of parts.
#[derive(Clone, Debug)]
pub(super) struct Chain<'e> {
    pub(super) expr: &'e Expr,
    /// The parts of an `&&`; of an `||`, the parts that hold wherever it does not.
    pub(super) parts: Vec<Part<'e>>,
}

/// The parts that all hold where `expr` does or, if `negated`, where it does not.
pub(super) fn parts(expr: &Expr, negated: bool) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    split(expr, negated, &mut parts);
    parts
}

fn split<'e>(expr: &'e Expr, negated: bool, parts: &mut Vec<Part<'e>>) {
    match (expr.expr_kind(), negated) {
        (ExprKind::And { left, right }, false) | (ExprKind::Or { left, right }, true) => {
            split(left, negated, parts);
            split(right, negated, parts);
        }
        (ExprKind::UnaryApp { op: UnaryOp::Not, arg }, _) if can_be_split(arg) => {
            split(arg, !negated, parts);
        }
        _ => parts.push(Part { expr, negated }),
    }
}

fn can_be_split(expr: &Expr) -> bool {
    match expr.expr_kind() {
        ExprKind::And { .. } | ExprKind::Or { .. } => true,
        ExprKind::UnaryApp { op: UnaryOp::Not, arg } => can_be_split(arg),
        _ => false,
    }
}

/// The longest `&&` and `||` at and within `expr`, and what is neither: chains of one part.
pub(super) fn chains(expr: &Expr) -> Vec<Chain<'_>> {
    let mut chains = Vec::new();
    collect(expr, &mut chains);
    chains
}

fn collect<'e>(expr: &'e Expr, chains: &mut Vec<Chain<'e>>) {
    let negated = match expr.expr_kind() {
        ExprKind::UnaryApp { op: UnaryOp::Not, arg } => return collect(arg, chains),
        ExprKind::If { test_expr, then_expr, else_expr } => {
            return [test_expr, then_expr, else_expr].into_iter().for_each(|expr| collect(expr, chains));
        }
        ExprKind::Or { .. } => true,
        _ => false,
    };
    let parts = parts(expr, negated);
    if let [alone] = parts.as_slice() {
        return chains.push(Chain { expr, parts: vec![*alone] });
    }
    parts.iter().for_each(|part| collect(part.expr, chains));
    chains.push(Chain { expr, parts });
}

impl Part<'_> {
    /// As its author wrote it, on one line.
    pub(super) fn text(&self) -> String {
        let text = text(self.expr);
        if self.negated { format!("!({text})") } else { text }
    }
}

/// An expression as its author wrote it, on one line.
pub(super) fn text(expr: &Expr) -> String {
    let written = expr.source_loc().and_then(|loc| loc.snippet());
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    written.filter(|text| !text.contains("//")).map_or_else(|| expr.to_string(), words)
}

/// Where an expression stands.
pub(super) fn span(source: &Source<'_>, expr: &Expr) -> Range<usize> {
    source.span(expr.source_loc())
}

/// Whether an expression is the attribute of the request's context that is called `name`.
pub(super) fn is_context(expr: &Expr, name: &str) -> bool {
    match expr.expr_kind() {
        ExprKind::GetAttr { expr, attr } => {
            attr == name && matches!(expr.expr_kind(), ExprKind::Var(cedar_policy_core::ast::Var::Context))
        }
        _ => false,
    }
}
