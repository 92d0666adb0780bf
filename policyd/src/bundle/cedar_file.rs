//! A file of Cedar policies: its statements and where they stand.
//!
//! A file is taken apart into statements before Cedar parses it, so that each can be parsed by itself: several at a
//! time, and after an edit only those whose text is new.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use daemon::finding::Finding;
use rayon::prelude::*;

use super::cedar_text::Place;
use super::statement::Statement;

/// A file's name and text.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name within the bundle.
    pub file: String,
    /// All it says.
    pub text: Arc<str>,
}

/// Where something stands in a file.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The file.
    pub source: Arc<Source>,
    start: u32,
    end: u32,
    line: u32,
    column: u32,
}

/// A file that is taken apart.
#[derive(Debug)]
pub(super) struct CedarFile {
    pub(super) source: Arc<Source>,
    /// What Cedar's parser understood, in the order of the file, and its number in the file, from 1.
    pub(super) statements: Vec<(Spot, usize, Arc<Statement>)>,
    /// What Cedar's parser says of the rest.
    pub(super) findings: Vec<Finding>,
}

impl Spot {
    /// The place of `span` in `source`, at `line` and `column`, each from 1.
    pub(super) fn new(source: &Arc<Source>, span: &Range<usize>, line: usize, column: usize) -> Self {
        // A bundle's files are far smaller than what 32 bits can count.
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            source: source.clone(),
            start: small(span.start),
            end: small(span.end),
            line: small(line),
            column: small(column),
        }
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.source.file
    }

    /// What stands there.
    pub fn text(&self) -> &str {
        self.source.text.get(self.span()).unwrap_or_default()
    }

    /// Which bytes of the file.
    pub const fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The line it begins in, from 1.
    pub const fn line(&self) -> usize {
        self.line as usize
    }

    /// The place for text that is parsed by itself.
    pub fn place(&self) -> Place<'_> {
        let span = self.span();
        Place { start: span.start, length: span.len(), ..Place::file(self.file(), &self.source.text) }
    }

    /// An error about all of it.
    pub fn finding(&self, message: impl Into<String>) -> Finding {
        let text = self.text();
        self.placed(Finding::at("", text, 0..text.len(), message))
    }

    /// A finding in [`Self::text`], as one in the file.
    pub(super) fn placed(&self, finding: Finding) -> Finding {
        let start = self.start as usize;
        let before = if finding.line == 1 { (self.column as usize).saturating_sub(1) } else { 0 };
        Finding {
            file: self.source.file.clone(),
            line: finding.line + self.line().saturating_sub(1),
            column: finding.column + before,
            span: finding.span.start + start..finding.span.end + start,
            ..finding
        }
    }
}

impl CedarFile {
    /// Takes a file apart. Whatever of it stood in `before`, the file as it was, is taken from there.
    pub(super) fn read(file: &str, text: &str, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(before) = before.filter(|before| *before.source.text == *text) {
            return before.clone();
        }
        let source = Arc::new(Source { file: file.to_owned(), text: text.into() });
        let known: HashMap<&str, &Arc<Statement>> = before
            .iter()
            .flat_map(|before| &before.statements)
            .map(|(spot, _, statement)| (spot.text(), statement))
            .collect();
        let spots: Vec<(Spot, Option<Arc<Statement>>)> = statements(&source)
            .into_iter()
            .map(|spot| {
                let statement = known.get(spot.text()).map(|statement| Arc::clone(statement));
                (spot, statement)
            })
            .collect();
        // What is new, in runs of statements one after the other.
        let runs: Vec<_> = spots
            .chunk_by(|(_, left), (_, right)| left.is_none() && right.is_none())
            .flat_map(|run| run.chunks(RUN_MAX))
            .collect();
        let parsed = runs.into_par_iter().flat_map_iter(|run| {
            let statements = match run {
                [(_, Some(known))] => vec![Ok(known.clone())],
                new => parse(&source, new),
            };
            run.iter().map(|(spot, _)| spot.clone()).zip(statements)
        });
        let parsed: Vec<_> = parsed.collect();
        let (mut statements, mut findings) = (Vec::with_capacity(parsed.len()), Vec::new());
        for ((spot, statement), number) in parsed.into_iter().zip(1usize..) {
            match statement {
                Ok(statement) => statements.push((spot, number, statement)),
                Err(wrong) => findings.extend(wrong.into_iter().map(|finding| spot.placed(finding))),
            }
        }
        Arc::new(Self { source, statements, findings })
    }
}

/// So many statements are parsed as one text.
const RUN_MAX: usize = 64;

/// Parses statements that stand one after the other in `source`.
fn parse(
    source: &Source,
    run: &[(Spot, Option<Arc<Statement>>)],
) -> Vec<Result<Arc<Statement>, Vec<Finding>>> {
    let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return Vec::new() };
    let text = source.text.get(first.span().start..last.span().end).unwrap_or_default();
    match Statement::parse_all(text, run.len()) {
        Some(statements) => statements.into_iter().map(|statement| Ok(Arc::new(statement))).collect(),
        None => run.iter().map(|(spot, _)| Statement::parse(spot.text()).map(Arc::new)).collect(),
    }
}

/// The places of the statements of a Cedar file: each from its first token to its `;`.
///
/// Strings and comments are told apart as Cedar's lexer does it. What follows the last `;` is one more, if it is more
/// than blanks and comments: Cedar's parser will say what is wrong with it.
fn statements(source: &Arc<Source>) -> Vec<Spot> {
    let text = &*source.text;
    let mut found = Vec::new();
    // The place, line and column at which the statement begins, once a token was seen.
    let mut begun: Option<(usize, usize, usize)> = None;
    let (mut line, mut line_start, mut place) = (1, 0, 0);
    while let Some(rest) = text.get(place..).filter(|rest| !rest.is_empty()) {
        let next = rest.chars().next().unwrap_or_default();
        let length = match next {
            '/' if rest.starts_with("//") => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            '"' => string_length(rest),
            _ => next.len_utf8(),
        };
        if !next.is_whitespace() && !rest.starts_with("//") {
            let column = || text.get(line_start..place).map_or(0, |before| before.chars().count()) + 1;
            let (start, line, column) = *begun.get_or_insert_with(|| (place, line, column()));
            if next == ';' {
                found.push(Spot::new(source, &(start..place + length), line, column));
                begun = None;
            }
        }
        for (offset, _) in rest.bytes().take(length).enumerate().filter(|(_, byte)| *byte == b'\n') {
            (line, line_start) = (line + 1, place + offset + 1);
        }
        place += length;
    }
    if let Some((start, line, column)) = begun {
        found.push(Spot::new(source, &(start..text.trim_end().len()), line, column));
    }
    found
}

/// How long the string is that `text` begins with; all of it if it does not end.
fn string_length(text: &str) -> usize {
    let mut escaped = true; // The first `"` does not end it.
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let source = Arc::new(Source { file: "a.cedar".into(), text: text.into() });
        statements(&source).iter().map(|spot| spot.text().to_owned()).collect()
    }

    #[test]
    fn a_statement_ends_at_a_semicolon_outside_of_strings_and_comments() {
        let text = "// a; b\n permit(principal, action, resource) when { \"; \\\" // \" == \"\" };forbid // c;\r(principal, action, resource); // d;\n";
        let expected = [
            "permit(principal, action, resource) when { \"; \\\" // \" == \"\" };",
            "forbid // c;\r(principal, action, resource);",
        ];
        assert_eq!(texts(text), expected);
        assert_eq!(texts("permit\n\n"), ["permit"]);
        assert_eq!(texts("permit; // c"), ["permit;"]);
        assert_eq!(texts(" // c"), Vec::<String>::new());
        assert_eq!(texts("a \"é;"), ["a \"é;"]);
    }

    #[test]
    fn a_finding_is_moved_to_its_place_in_the_file() {
        let text = "// é\n  permit(a);  permit(\n b);";
        let source = Arc::new(Source { file: "a.cedar".into(), text: text.into() });
        for spot in statements(&source) {
            for start in 0..spot.text().len() {
                let there = Finding::at("a.cedar", text, spot.span().start + start..spot.span().end, "x");
                let moved = spot.placed(Finding::at("", spot.text(), start..spot.text().len(), "x"));
                assert_eq!(moved, there);
            }
        }
    }

    const PIECES: [&str; 9] = [
        "permit(principal, action, resource);",
        "@id(\"a;b\") forbid(principal, action, resource) when { \"\\\";\" == \"//\" };",
        "permit(principal == ?principal, action, resource);",
        " ",
        "\n",
        "\r",
        "// no; permit(\n",
        "// \"\r",
        "permit(principal, action, resource) unless { context.a like \"*;\\*\" } // ;\n ;",
    ];

    proptest::proptest! {
        #[test]
        fn statement_by_statement_is_as_the_whole_file_at_once(
            pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..12)
        ) {
            let text = pieces.concat();
            let whole: cedar_policy::PolicySet = text.parse().unwrap();
            let file = CedarFile::read("a.cedar", &text, None);
            proptest::prop_assert_eq!(&file.findings, &Vec::new());
            proptest::prop_assert_eq!(file.statements.len(), whole.policies().count() + whole.templates().count());
            for (_, number, statement) in &file.statements {
                let id = cedar_policy_core::ast::PolicyID::from_string(format!("policy{}", number - 1));
                let ours = statement.template().new_id(id.clone());
                let whole: &cedar_policy_core::ast::PolicySet = whole.as_ref();
                proptest::prop_assert_eq!(whole.get_template(&id), Some(&ours));
            }
        }

        #[test]
        fn any_text_can_be_taken_apart(text in "[ -~é\\n\\r]{0,40}|[\"\\\\/;(){} a\\n]{0,20}") {
            let mut end = 0;
            let source = Arc::new(Source { file: "a.cedar".into(), text: text.as_str().into() });
            for spot in statements(&source) {
                proptest::prop_assert!(spot.span().start >= end && !spot.text().is_empty());
                end = spot.span().end;
            }
        }
    }
}
