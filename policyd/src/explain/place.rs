//! Where policies, their scopes and their conditions stand in Cedar files.
//!
//! Cedar's syntax trees carry no places, so the text is taken apart here, as far as that needs: strings, comments,
//! brackets, `;`, `when`, `unless` and `&&`. It is text that Cedar has parsed already.

use std::collections::BTreeMap;
use std::ops::Range;

use cedar_policy::{Policy, PolicyId};
use serde::Serialize;

use crate::bundle::Files;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, relative to the bundle.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// The places of policies by id.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Source>);

/// Where one policy stands.
#[derive(Debug)]
pub(super) struct Source {
    /// Its first line.
    pub(super) place: Place,
    /// What stands between the commas of its scope.
    scope: Vec<(String, Place)>,
    /// Its `when` and `unless`, in their order.
    pub(super) clauses: Vec<ClauseSource>,
}

/// Where a `when` or `unless` stands.
#[derive(Debug)]
pub(super) struct ClauseSource {
    /// All that stands between its braces.
    pub(super) whole: (String, Place),
    /// The sides of its outermost `&&`.
    pub(super) conjuncts: Vec<(String, Place)>,
}

impl Places {
    /// Finds all policies of a bundle.
    pub(super) fn of(files: &Files) -> Self {
        let mut places = BTreeMap::new();
        for (file, text) in files.texts.iter().filter(|(name, _)| name.ends_with(".cedar")) {
            for (tokens, number) in statements(text).into_iter().zip(1usize..) {
                let Some(span) = span(&tokens) else { continue };
                let parse = |text| Policy::parse(Some(PolicyId::new("")), format!("{text};")).ok();
                let policy = text.get(span).and_then(parse);
                let id =
                    policy.as_ref().and_then(|policy| policy.annotation("id")).filter(|id| !id.is_empty());
                let id = id.map_or_else(|| format!("{file}#{number}"), str::to_owned);
                places.extend(Reader { file, text }.policy(&tokens).map(|source| (id, source)));
            }
        }
        Self(places)
    }

    /// Where the policy of this id stands.
    pub(super) fn get(&self, id: &str) -> Option<&Source> {
        self.0.get(id)
    }
}

impl Source {
    /// The part of the scope of this number: principal, action, resource.
    pub(super) fn scope(&self, number: usize) -> Option<&(String, Place)> {
        self.scope.get(number)
    }
}

/// Where a word, a string or a sign stands.
type Token = Range<usize>;

/// Reads one file.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn policy(&self, tokens: &[Token]) -> Option<Source> {
        let first = tokens.first()?;
        let word = |token: &Token| self.text.get(token.clone()).unwrap_or_default();
        let top = self.top_level(tokens);
        // Annotations have brackets, too: the scope's are the last before the conditions.
        let is_clause = |place: &usize| {
            let after_at = place.checked_sub(1).and_then(|before| tokens.get(before)).map(word) == Some("@");
            tokens.get(*place).is_some_and(|token| matches!(word(token), "when" | "unless")) && !after_at
        };
        let clauses: Vec<usize> = top.iter().copied().filter(is_clause).collect();
        let head = tokens.get(..clauses.first().copied().unwrap_or(tokens.len()))?;
        let open = self.top_level(head).into_iter().rfind(|place| head.get(*place).map(word) == Some("("))?;
        let scope = self.separated(self.inside(head, open)?, ",");
        let clause = |place: usize| {
            let body = self.inside(tokens, place + 1)?;
            Some(ClauseSource { whole: self.shown(body)?, conjuncts: self.conjuncts(body) })
        };
        Some(Source {
            place: self.place(first),
            scope: scope.into_iter().filter_map(|part| self.shown(part)).collect(),
            clauses: clauses.into_iter().map(clause).collect::<Option<_>>()?,
        })
    }

    /// The tokens between the bracket at `open` and its partner.
    fn inside<'t>(&self, tokens: &'t [Token], open: usize) -> Option<&'t [Token]> {
        let rest = tokens.get(open..)?;
        let close = self.top_level(rest).get(1).copied()?;
        rest.get(1..close)
    }

    /// The sides of the outermost `&&`, also of those in brackets of their own.
    fn conjuncts(&self, tokens: &[Token]) -> Vec<(String, Place)> {
        let inner = match self.top_level(tokens).as_slice() {
            [0, close] if close + 1 == tokens.len() && self.is(tokens.first(), "(") => tokens.get(1..*close),
            _ => None,
        };
        if let Some(inner) = inner {
            let parts = self.conjuncts(inner);
            // The brackets of what is not taken apart are shown.
            return if parts.len() > 1 { parts } else { self.shown(tokens).into_iter().collect() };
        }
        let loose = |place: &usize| ["||", "if"].iter().any(|word| self.is(tokens.get(*place), word));
        let parts = self.separated(tokens, "&&");
        if parts.len() < 2 || self.top_level(tokens).iter().any(loose) {
            return self.shown(tokens).into_iter().collect();
        }
        parts.into_iter().flat_map(|part| self.conjuncts(part)).collect()
    }

    fn separated<'t>(&self, tokens: &'t [Token], sign: &str) -> Vec<&'t [Token]> {
        let top = self.top_level(tokens);
        let signs = top.into_iter().filter(|place| self.is(tokens.get(*place), sign));
        let mut start = 0;
        let mut parts = Vec::new();
        for place in signs.chain([tokens.len()]) {
            parts.extend(tokens.get(start..place).filter(|part| !part.is_empty()));
            start = place + 1;
        }
        parts
    }

    /// The places of those tokens that stand in no brackets, the outermost brackets included.
    fn top_level(&self, tokens: &[Token]) -> Vec<usize> {
        let mut depth = 0usize;
        let mut top = Vec::new();
        for (place, token) in tokens.iter().enumerate() {
            match self.text.get(token.clone()) {
                Some("(" | "[" | "{") => {
                    if depth == 0 {
                        top.push(place);
                    }
                    depth += 1;
                }
                Some(")" | "]" | "}") => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        top.push(place);
                    }
                }
                _ if depth == 0 => top.push(place),
                _ => {}
            }
        }
        top
    }

    fn is(&self, token: Option<&Token>, word: &str) -> bool {
        token.and_then(|token| self.text.get(token.clone())) == Some(word)
    }

    /// The text on one line, without comments, and where it starts.
    fn shown(&self, tokens: &[Token]) -> Option<(String, Place)> {
        let mut text = String::new();
        let mut end = tokens.first()?.start;
        for token in tokens {
            if token.start > end {
                text.push(' ');
            }
            text.push_str(self.text.get(token.clone())?);
            end = token.end;
        }
        Some((text, self.place(tokens.first()?)))
    }

    fn place(&self, token: &Token) -> Place {
        let before = self.text.get(..token.start).unwrap_or_default();
        Place { file: self.file.to_owned(), line: before.matches('\n').count() + 1 }
    }
}

/// The tokens of each policy, without its `;`.
fn statements(text: &str) -> Vec<Vec<Token>> {
    let mut statements = vec![Vec::new()];
    for token in tokens(text) {
        if text.get(token.clone()) == Some(";") {
            statements.push(Vec::new());
        } else if let Some(statement) = statements.last_mut() {
            statement.push(token);
        }
    }
    statements.retain(|statement| !statement.is_empty());
    statements
}

/// From the first token to the last.
fn span(tokens: &[Token]) -> Option<Range<usize>> {
    Some(tokens.first()?.start..tokens.last()?.end)
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(rest) = text.get(start..).filter(|rest| !rest.is_empty()) {
        let length = length(rest);
        if !rest.starts_with(char::is_whitespace) && !rest.starts_with("//") {
            tokens.push(start..start + length);
        }
        start += length;
    }
    tokens
}

/// How long the token, comment or blank is that `text` starts with.
fn length(text: &str) -> usize {
    let until = |end: fn(char) -> bool| text.find(end).unwrap_or(text.len());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    match text.chars().next() {
        Some('"') => string_length(text),
        Some(c) if c.is_whitespace() => until(|c| !c.is_whitespace()),
        Some(c) if is_word(c) => text.find(|c| !is_word(c)).unwrap_or(text.len()),
        _ if text.starts_with("//") => until(|c| c == '\n'),
        _ if text.starts_with("&&") || text.starts_with("||") => 2,
        first => first.map_or(text.len(), char::len_utf8),
    }
}

fn string_length(text: &str) -> usize {
    let mut escaped = true; // The first `"` does not end it.
    for (place, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_among_strings_comments_and_brackets() {
        let text = r#"// when { no }
@note("when; (x)") @id("a") permit (principal in
  Namespace::"a,b", action, resource)
when { // one; &&
  context.path like "/a && \"b\"/*" && (context.tls && [1, 2].contains(1)) // two
  && (context.tls || context.method == "GET") }
unless { context.tls && context.tls };
forbid (principal, action, resource) when { true && true || false };
"#;
        let texts = BTreeMap::from([("x.cedar".to_owned(), text.to_owned())]);
        let places = Places::of(&Files { texts, ..Files::default() });
        let source = places.get("a").unwrap();
        assert_eq!(source.place.line, 2);
        let lines = |parts: &[(String, Place)]| -> Vec<String> {
            parts.iter().map(|(text, place)| format!("{}: {text}", place.line)).collect()
        };
        assert_eq!(lines(&source.scope), [r#"2: principal in Namespace::"a,b""#, "3: action", "3: resource"]);
        assert_eq!(
            lines(&source.clauses[0].conjuncts),
            [
                r#"5: context.path like "/a && \"b\"/*""#,
                "5: context.tls",
                "5: [1, 2].contains(1)",
                r#"6: (context.tls || context.method == "GET")"#,
            ]
        );
        assert_eq!(lines(std::slice::from_ref(&source.clauses[1].whole)), ["7: context.tls && context.tls"]);
        let second = places.get("x.cedar#2").unwrap();
        assert_eq!(lines(&second.clauses[0].conjuncts), ["8: true && true || false"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_taken_apart(text in r#"[ -~é\n]{0,40}|["\\/&;(){} a]{0,20}"#) {
            let mut end = 0;
            for token in tokens(&text) {
                proptest::prop_assert!(token.start >= end && token.end > token.start);
                proptest::prop_assert!(text.get(token.clone()).is_some());
                end = token.end;
            }
        }
    }
}
