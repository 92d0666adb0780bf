//! What an expression reads of a request.

use std::sync::Arc;

use cedar_policy::pst::{Expr, Var};

/// The attributes and variables that an expression reads, as Cedar text, each once, in their order.
pub(super) fn of(expr: &Expr) -> Vec<String> {
    let mut found = Vec::new();
    collect(expr, &mut found);
    let mut names: Vec<String> = Vec::new();
    for name in found.iter().map(ToString::to_string) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn collect(expr: &Expr, found: &mut Vec<Expr>) {
    match expr {
        Expr::Var(_) | Expr::GetAttr { .. } if is_path(expr) => found.push(expr.clone()),
        Expr::HasAttr { expr: inner, attrs } if is_path(inner) => {
            // Of what is asked for, the value tells more than whether it is there.
            let asked = attrs.iter().fold(inner.as_ref().clone(), |expr, attr| Expr::GetAttr {
                expr: Arc::new(expr),
                attr: attr.clone(),
            });
            found.push(asked);
        }
        Expr::GetAttr { expr, .. }
        | Expr::HasAttr { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::UnaryOp { expr, .. } => collect(expr, found),
        Expr::BinaryOp { left, right, .. } => [left, right].into_iter().for_each(|expr| collect(expr, found)),
        Expr::Is { expr, in_expr, .. } => {
            collect(expr, found);
            in_expr.iter().for_each(|expr| collect(expr, found));
        }
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            [cond, then_expr, else_expr].into_iter().for_each(|expr| collect(expr, found));
        }
        Expr::Set(members) => members.iter().for_each(|expr| collect(expr, found)),
        Expr::Record(fields) => fields.values().for_each(|expr| collect(expr, found)),
        // Literals read nothing; of kinds that are new the values are not shown.
        _ => {}
    }
}

/// Whether it is a variable, or an attribute of an attribute of … a variable.
pub(super) fn is_path(expr: &Expr) -> bool {
    match expr {
        Expr::Var(Var::Principal | Var::Action | Var::Resource | Var::Context) => true,
        Expr::GetAttr { expr, .. } => is_path(expr),
        _ => false,
    }
}
