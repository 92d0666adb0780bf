//! Names that look like others: letters of other alphabets, and names that differ in `-` and `_` alone.
//!
//! Of texts within policies the validator tells that already. What is left are the names that stand outside of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cedar_policy::{Policy, ValidationWarning};
use cedar_policy_core::ast::{self, Expr, ExprKind};
use cedar_policy_core::validator::confusable_string_checks;
use model::Name;
use model::attributes::Record;

use super::name::Lint;
use super::source::{Report, Source, Sources};
use crate::bundle::{Bundle, Files, entities};

/// Looks at the names of headers and the like, at the ids of policies, and at those of entities.
pub(super) fn check(sources: &Sources<'_>, bundle: &Bundle, files: &Files, report: &mut Report) {
    similar_names(sources, bundle, files, report);
    for policy in &sources.policies {
        let Some((id, span)) = policy.annotation("id") else { continue };
        if let Some(why) = confusable(id) {
            report.add(policy, Lint::ConfusableText, span, why, HELP);
        }
    }
    let text = files.text(entities::FILE).unwrap_or_default();
    let ids: BTreeSet<String> =
        bundle.entities.iter().map(|entity| entity.uid().id().unescaped().to_owned()).collect();
    for id in &ids {
        // What mesh.yaml names is ASCII; what stands in no file as it is, is written with escapes.
        if let (Some(why), Some(start)) = (confusable(id), text.find(id.as_str())) {
            report.add_in_file(entities::FILE, Lint::ConfusableText, start..start + id.len(), why, HELP);
        }
    }
}

const HELP: &str = "write it in letters of one alphabet, without invisible characters";

/// Why `text` may be taken for another one. Cedar's check is of policies, so one is made that holds the text.
fn confusable(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let literal = serde_json::Value::from(text);
    let holder =
        Policy::parse(None, format!("permit (principal, action, resource) when {{ {literal} == \"\" }};"));
    let holder = holder.ok()?;
    let template = AsRef::<ast::Policy>::as_ref(&holder).template();
    let warning = confusable_string_checks(std::iter::once(template)).next()?;
    Some(match ValidationWarning::from(warning) {
        ValidationWarning::BidiCharsInString(_) => {
            format!("`{}` has characters that turn the direction of writing", text.escape_debug())
        }
        _ => format!("`{text}` mixes alphabets, whose letters look alike"),
    })
}

/// A use of a name: by whom and where, if it stands in a condition.
#[derive(Default)]
struct Uses<'s, 'a> {
    count: usize,
    first: Option<(&'s Source<'a>, Range<usize>)>,
}

/// Names of headers, query parameters and the like that a reader takes for one.
fn similar_names(sources: &Sources<'_>, bundle: &Bundle, files: &Files, report: &mut Report) {
    let mut groups: BTreeMap<(Record, String), BTreeMap<String, Uses<'_, '_>>> = BTreeMap::new();
    for (record, name) in bundle.schemas.declared.keys().filter_map(Name::field) {
        let group = groups.entry((record, folded(name))).or_default();
        group.entry(name.to_owned()).or_default();
    }
    groups.retain(|_, names| names.len() > 1);
    if groups.is_empty() {
        return;
    }
    for source in sources.all() {
        for expr in source.condition().into_iter().flat_map(Expr::subexpressions) {
            let Some((record, name)) = read(expr) else { continue };
            let group = groups.get_mut(&(record, folded(&name)));
            let Some(uses) = group.and_then(|names| names.get_mut(&name)) else { continue };
            uses.count += 1;
            uses.first.get_or_insert_with(|| (source, source.span(expr.source_loc())));
        }
    }
    for ((record, _), names) in groups {
        let Some((usual, _)) = names.iter().rev().max_by_key(|(_, uses)| uses.count) else { continue };
        for (name, uses) in names.iter().filter(|(name, _)| *name != usual) {
            let message = format!("`{name}` and `{usual}` are two names in `context.{}`", record.as_str());
            let help = format!("write `{usual}`, unless requests have both");
            match &uses.first {
                Some((source, span)) => report.add(source, Lint::SimilarNames, span.clone(), message, help),
                // It stands in the key of a limit or in an input of an adapter.
                None => {
                    let found =
                        files.texts.iter().find_map(|(file, text)| Some((file, text.find(name.as_str())?)));
                    let Some((file, start)) = found else { continue };
                    report.add_in_file(file, Lint::SimilarNames, start..start + name.len(), message, help);
                }
            }
        }
    }
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | '.')).flat_map(char::to_lowercase).collect()
}

/// The record and the name that an expression reads or asks for.
fn read(expr: &Expr) -> Option<(Record, String)> {
    let context = |expr: &Expr| matches!(expr.expr_kind(), ExprKind::Var(ast::Var::Context));
    match expr.expr_kind() {
        ExprKind::GetAttr { expr, attr } | ExprKind::HasAttr { expr, attr } => match expr.expr_kind() {
            ExprKind::GetAttr { expr, attr: record } if context(expr) => {
                Some((Record::from_name(record)?, attr.to_string()))
            }
            _ => None,
        },
        ExprKind::ExtHasAttr { expr, attrs } if context(expr) => {
            let mut attrs = attrs.iter();
            Some((Record::from_name(attrs.next()?)?, attrs.next()?.to_string()))
        }
        _ => None,
    }
}
