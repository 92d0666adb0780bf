//! Paths and hosts in conditions: patterns that match more than they seem to, and texts that no request has.
//!
//! Before policies see a path, the proxy brings it into one form: dot segments are resolved, unreserved characters are
//! decoded, other percent-encodings are in capitals, and what has two readings is refused. Repeated slashes are kept. The
//! query is no part of it.

use cedar_policy_core::ast::{BinaryOp, Effect, Expr, ExprKind, Literal, Pattern, PatternElem, UnaryOp};

use super::condition::{is_context, span, text};
use super::name::Lint;
use super::source::{Report, Source};
use super::wildcard::pieces;

/// Looks at the condition of one policy, limit or rule.
pub(super) fn check(source: &Source<'_>, report: &mut Report) {
    let Some(condition) = source.condition() else { return };
    let mut likes = Vec::new();
    widening(condition, source.effect == Some(Effect::Permit), source.effect.is_some(), &mut likes);
    for like in likes.iter().filter(|like| like.widens) {
        escapes(source, like, &likes, report);
    }
    for expr in condition.subexpressions() {
        match expr.expr_kind() {
            ExprKind::Like { expr: fact, pattern } => {
                without_wildcard(source, expr, fact, pattern, report);
                texts(source, expr, fact, &pieces(pattern), report);
            }
            ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => {
                for (fact, literal) in [(arg1, arg2), (arg2, arg1)] {
                    literal_text(source, fact, literal, report);
                }
            }
            ExprKind::BinaryApp { op: BinaryOp::Contains, arg1, arg2 } => {
                let ExprKind::Set(members) = arg1.expr_kind() else { continue };
                members.iter().for_each(|literal| literal_text(source, arg2, literal, report));
            }
            _ => {}
        }
    }
}

/// A pattern of paths.
struct Like<'e> {
    expr: &'e Expr,
    pattern: &'e Pattern,
    /// Whether more is allowed if it matches more.
    widens: bool,
}

/// Finds the patterns of paths, and whether more is allowed if the expression holds more often. Where that depends on
/// other values, such as in the test of an `if`, it does not count.
fn widening<'e>(expr: &'e Expr, widens: bool, counts: bool, likes: &mut Vec<Like<'e>>) {
    match expr.expr_kind() {
        ExprKind::And { left, right } | ExprKind::Or { left, right } => {
            [left, right].into_iter().for_each(|expr| widening(expr, widens, counts, likes));
        }
        ExprKind::UnaryApp { op: UnaryOp::Not, arg } => widening(arg, !widens, counts, likes),
        ExprKind::If { then_expr, else_expr, .. } => {
            [then_expr, else_expr].into_iter().for_each(|expr| widening(expr, widens, counts, likes));
        }
        ExprKind::Like { expr: fact, pattern } if counts && is_context(fact, "path") => {
            likes.push(Like { expr, pattern, widens });
        }
        _ => {}
    }
}

/// A pattern that lets more through than it seems to.
fn escapes(source: &Source<'_>, like: &Like<'_>, all: &[Like<'_>], report: &mut Report) {
    let elements = like.pattern.get_elems();
    let (shown, span) = (text(like.expr), span(source, like.expr));
    let wild = |element: &PatternElem| *element == PatternElem::Wildcard;
    if elements.iter().all(wild) {
        return; // That it matches everything is told already.
    }
    let spelled = pieces(like.pattern).join("*");
    let deeper = elements
        .iter()
        .enumerate()
        .rev()
        .find(|(place, element)| wild(element) && *place > 0 && *place + 1 < elements.len());
    if let Some((place, _)) = deeper {
        let doubled = [elements.get(..=place), Some(&[PatternElem::Char('/')]), elements.get(place..)];
        let doubled: Vec<PatternElem> = doubled.into_iter().flatten().flatten().copied().collect();
        let excluded = |other: &Like<'_>| other.widens != like.widens && other.pattern.get_elems() == doubled;
        if !all.iter().any(excluded) {
            let example = pieces(like.pattern).join("x/y");
            let message = format!("`{shown}` also matches `{example}`: a `*` matches slashes, too");
            let help = format!(
                "list the path among the service's operations, or add `&& !(context.path like \"{}\")`",
                pieces(&Pattern::from(doubled)).join("*")
            );
            report.add(source, Lint::WildcardCrossesSlash, span.clone(), message, help);
        }
    }
    if elements.first().is_some_and(wild) {
        let message = format!("`{shown}` matches every path that ends so, wherever it lies");
        let help = "begin the pattern with `/` and the folder that is meant";
        report.add(source, Lint::UnanchoredPattern, span.clone(), message, help);
    }
    let before_end = elements.len().checked_sub(2).and_then(|place| elements.get(place));
    if let (Some(PatternElem::Wildcard), Some(PatternElem::Char(c))) = (elements.last(), before_end)
        && c.is_alphanumeric()
    {
        let start = spelled.trim_end_matches('*');
        let message = format!("`{shown}` also matches `{start}x`: nothing ends the name before the `*`");
        let exact = if start.contains('*') { "like" } else { "==" };
        let help = format!("write `(context.path {exact} \"{start}\" || context.path like \"{start}/*\")`");
        report.add(source, Lint::UnanchoredPattern, span, message, help);
    }
}

fn without_wildcard(source: &Source<'_>, expr: &Expr, fact: &Expr, pattern: &Pattern, report: &mut Report) {
    if pattern.iter().any(|element| *element == PatternElem::Wildcard) {
        return;
    }
    let literal = serde_json::Value::from(pieces(pattern).concat());
    let message = format!("`{}` has no `*`, so that it is an `==`", text(expr));
    let help = format!("write `{} == {literal}`, or add the `*`", text(fact));
    report.add(source, Lint::LikeWithoutWildcard, span(source, expr), message, help);
}

fn literal_text(source: &Source<'_>, fact: &Expr, literal: &Expr, report: &mut Report) {
    if let ExprKind::Lit(Literal::String(value)) = literal.expr_kind() {
        texts(source, literal, fact, &[value.to_string()], report);
    }
}

/// Looks at the texts that a path or host is compared with: the pieces between wildcards, of which there may be none.
fn texts(source: &Source<'_>, expr: &Expr, fact: &Expr, pieces: &[String], report: &mut Report) {
    let (what, found) = if is_context(fact, "path") {
        ("path", unmatchable_path(pieces))
    } else if is_context(fact, "host") {
        ("host", unmatchable_host(pieces))
    } else {
        return;
    };
    let span = span(source, expr);
    if let Some((why, help)) = found {
        let message = match expr.expr_kind() {
            ExprKind::Like { .. } => format!("`{}` never holds: {why}", text(expr)),
            _ => format!("no request has the {what} `{}`: {why}", text(expr)),
        };
        report.add(source, Lint::UnmatchableText, span, message, help);
    } else if what == "path" && pieces.iter().any(|piece| piece.contains("//")) {
        let message = format!("`{}` asks for a path with `//`: slashes are not merged", text(expr));
        report.add(
            source,
            Lint::DoubledSlash,
            span,
            message,
            "write one `/`, unless the service tells them apart",
        );
    }
}

/// Why no path in its one form has these pieces, and what to write.
fn unmatchable_path(pieces: &[String]) -> Option<(String, String)> {
    let first = pieces.first()?;
    let alone = pieces.len() == 1;
    // `*` is the path of `OPTIONS *`.
    let can_begin = first.starts_with('/') || if alone { first == "*" } else { first.is_empty() };
    if !can_begin {
        return Some(("a path starts with `/`".to_owned(), "begin it with `/`".to_owned()));
    }
    let last = pieces.len() - 1;
    let found = |(place, piece): (usize, &String)| {
        wrong_character(piece).or_else(|| wrong_percent(piece)).or_else(|| dot_segment(piece, place == last))
    };
    pieces.iter().enumerate().find_map(found)
}

fn wrong_character(piece: &str) -> Option<(String, String)> {
    let wrong = piece.chars().find(|c| !matches!(c, '!'..='~') || matches!(c, '?' | '#' | '\\'))?;
    Some(match wrong {
        '?' => {
            ("the query is no part of it".into(), "end it before the `?`, and read `context.query`".into())
        }
        '#' | '\\' => (format!("one with `{wrong}` is refused"), "take it out".into()),
        _ => {
            let bytes = wrong.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            (format!("`{wrong}` stands in it percent-encoded"), format!("write `{bytes}`"))
        }
    })
}

fn wrong_percent(piece: &str) -> Option<(String, String)> {
    for (place, _) in piece.match_indices('%') {
        let rest = piece.get(place + 1..).unwrap_or_default();
        // A wildcard may stand for the digits.
        let Some(digits) = rest.get(..2) else { continue };
        let Ok(byte) = u8::from_str_radix(digits, 16) else {
            return Some(("one with such a `%` is refused".into(), "write `%25` for a percent sign".into()));
        };
        match char::from(byte) {
            '/' | '\\' | '\0' => {
                return Some((format!("one with `%{digits}` is refused"), "take it out".into()));
            }
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => {
                return Some((format!("`%{digits}` is decoded"), format!("write `{c}`")));
            }
            _ if digits != digits.to_ascii_uppercase() => {
                let help = format!("write `%{}`", digits.to_ascii_uppercase());
                return Some(("percent-encodings are in capitals".into(), help));
            }
            _ => {}
        }
    }
    None
}

/// `.` or `..` as a whole segment: between slashes, or at the end of the pattern.
fn dot_segment(piece: &str, is_last: bool) -> Option<(String, String)> {
    let segments: Vec<&str> = piece.split('/').collect();
    let ends = if is_last { segments.len() } else { segments.len().saturating_sub(1) };
    // What stands before the first slash may go on before it.
    let segment = segments.get(1..ends)?.iter().find(|segment| matches!(**segment, "." | ".."))?;
    Some((format!("the segment `{segment}` is resolved"), "write the path that it leads to".to_owned()))
}

fn unmatchable_host(pieces: &[String]) -> Option<(String, String)> {
    let host = pieces.join("*");
    if host.chars().any(|c| c.is_ascii_uppercase()) {
        return Some((
            "hosts are in lower case".to_owned(),
            format!("write `{}`", host.to_ascii_lowercase()),
        ));
    }
    let (name, port) = host.rsplit_once(':')?;
    (!port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':'))
        .then(|| ("the port is no part of it".to_owned(), format!("write `{name}`")))
}
