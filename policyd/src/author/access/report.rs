//! Who may call what, for people and for programs.

use model::Verdict;
use serde_json::{Value, json};

use super::{Cell, Deciding, Matrix, May};

/// Of each caller and service between which it depends on the request: the policies, and their conditions. Callers for
/// whom it depends on the same stand together.
pub fn details(matrix: &Matrix) -> String {
    let mut groups: Vec<(&str, &Cell, Vec<&str>)> = Vec::new();
    for (caller, cells) in matrix.rows() {
        for (service, cell) in cells.filter(|(_, cell)| cell.may == May::Conditionally) {
            match groups.iter_mut().find(|(to, same, _)| *to == service && *same == cell) {
                Some((_, _, callers)) => callers.push(&caller.name),
                None => groups.push((service, cell, vec![&caller.name])),
            }
        }
    }
    let mut text = String::new();
    for (service, cell, callers) in groups {
        text.push_str(&format!("\n{} -> {service}{}\n", callers.join(", "), doubt(cell)));
        cell.policies.iter().for_each(|policy| text.push_str(&policy_text(policy)));
    }
    text
}

/// The same as a JSON object.
pub fn json(matrix: &Matrix) -> Value {
    let mut cells = Vec::new();
    for (caller, row) in matrix.rows() {
        for (service, cell) in row {
            cells.push(json!({
                "caller": caller.principal.as_str(),
                "service": service,
                "may": cell.may,
                "proven": cell.proven,
                "policies": cell.policies.iter().map(policy_json).collect::<Vec<_>>(),
            }));
        }
    }
    let callers = matrix.callers.iter().map(|caller| {
        json!({
            "id": caller.principal.as_str(),
            "name": caller.name,
            "stands_for_others": caller.is_stranger,
        })
    });
    json!({
        "one_request": matrix.one_request,
        "callers": callers.collect::<Vec<_>>(),
        "services": matrix.services,
        "cells": cells,
    })
}

const fn doubt(cell: &Cell) -> &'static str {
    if cell.proven {
        ""
    } else {
        "  (not sure: of all requests that policies tell apart, only some were tried)"
    }
}

fn policy_text(policy: &Deciding) -> String {
    let (file, line) = &policy.place;
    let mut text = format!("  {} `{}`  ({file}:{line})\n", effect(policy), policy.id);
    policy.conditions.iter().for_each(|condition| text.push_str(&format!("    {condition}\n")));
    text
}

fn policy_json(policy: &Deciding) -> Value {
    let (file, line) = &policy.place;
    json!({
        "id": policy.id,
        "effect": effect(policy),
        "place": { "file": file, "line": line },
        "conditions": policy.conditions,
    })
}

const fn effect(policy: &Deciding) -> &'static str {
    match policy.effect {
        Verdict::Allow => "permit",
        Verdict::Deny => "forbid",
    }
}
