//! Mistakes found in files, told so that their author can fix them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use serde::Serialize;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file can't be used.
    Error,
    /// The file can be used, but its author most likely meant something else.
    Warning,
}

/// One mistake in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as its author calls it: relative to the bundle.
    pub file: String,
    /// The line, from 1; 0 when the finding concerns the file as a whole.
    pub line: usize,
    /// The column, from 1, in characters; 0 when the finding concerns the file as a whole.
    pub column: usize,
    /// Which bytes of the file are wrong.
    pub span: Range<usize>,
    /// What is wrong: lower case, without full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<Box<str>>,
    /// The name of the lint that found it, by which an author accepts it; none for what can't be accepted.
    pub lint: Option<&'static str>,
}

/// Where the lines of a text begin.
#[derive(Clone, Debug)]
pub struct Lines<'s> {
    text: &'s str,
    starts: Vec<usize>,
}

/// Mistakes sorted by file and place, and the sources to show them in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    sorted: Vec<Finding>,
    sources: BTreeMap<String, Arc<str>>,
}

/// How many findings [`Findings::render`] shows; it says how many more there are.
pub const SHOWN_MAX: usize = 100;

impl Finding {
    /// An error at some bytes of `source`, the content of `file`. A span outside of it is moved inside.
    pub fn at(file: impl Into<String>, source: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        // Only those lines have to be known that begin before its end.
        let end = source.ceil_char_boundary(span.end.max(span.start));
        let lines = Lines::of(source.get(..end).unwrap_or_default());
        Self::among(&Lines { text: source, ..lines }, file, span, message)
    }

    /// The same, where the source's `lines` are known: so many findings in one file take no longer than that.
    pub fn among(
        lines: &Lines<'_>,
        file: impl Into<String>,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let start = lines.text.floor_char_boundary(span.start);
        let end = lines.text.ceil_char_boundary(span.end).max(start);
        let (line, column) = lines.place(start);
        Self { line, column, span: start..end, ..Self::in_file(file, message) }
    }

    /// An error that concerns a file as a whole, such as that there is none.
    pub fn in_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            span: 0..0,
            message: message.into(),
            help: None,
            lint: None,
        }
    }

    /// The same finding, with advice.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into().into_boxed_str()), ..self }
    }

    /// The same finding, as that of a lint.
    #[must_use]
    pub fn with_lint(self, lint: &'static str) -> Self {
        Self { lint: Some(lint), ..self }
    }

    /// The same finding, as a warning.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    fn place(&self) -> (&str, usize, usize, Severity, &str) {
        (&self.file, self.span.start, self.span.end, self.severity, &self.message)
    }
}

impl<'s> Lines<'s> {
    /// Looks for them. O(length of text).
    pub fn of(text: &'s str) -> Self {
        let after = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self { text, starts: std::iter::once(0).chain(after).collect() }
    }

    /// The line and the column, from 1, of a byte. O(length of the line).
    pub fn place(&self, byte: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= byte);
        let start = line.checked_sub(1).and_then(|line| self.starts.get(line)).copied().unwrap_or_default();
        let before = self.text.get(start..byte).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

impl Findings {
    /// No findings.
    pub fn new() -> Self {
        Self::default()
    }

    /// One finding, and the content of its file.
    pub fn one(finding: Finding, source: impl Into<Arc<str>>) -> Self {
        let mut findings = Self::new();
        findings.add_source(finding.file.clone(), source);
        findings.push(finding);
        findings
    }

    /// Remembers the content of `file`, so that findings in it can be shown with their line and a caret.
    pub fn add_source(&mut self, file: impl Into<String>, source: impl Into<Arc<str>>) {
        self.sources.insert(file.into(), source.into());
    }

    /// Adds a finding, in its place.
    pub fn push(&mut self, finding: Finding) {
        let index = self.sorted.partition_point(|other| other.place() <= finding.place());
        self.sorted.insert(index, finding);
    }

    /// Adds all of `other`, sources included.
    pub fn merge(&mut self, other: Self) {
        self.sources.extend(other.sources);
        other.sorted.into_iter().for_each(|finding| self.push(finding));
    }

    /// Keeps those that `keep` says of.
    pub fn retain(&mut self, keep: impl FnMut(&Finding) -> bool) {
        self.sorted.retain(keep);
    }

    /// The findings, sorted by file and place.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.sorted.iter()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// How many there are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.sorted.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// `value`, unless there are errors. Warnings are returned with it, to be shown.
    ///
    /// # Errors
    /// All findings, when one of them is an error.
    pub fn unless_errors<T>(self, value: T) -> Result<(T, Self), Self> {
        if self.has_errors() { Err(self) } else { Ok((value, self)) }
    }

    /// One line that sums up, such as `2 errors in policies/bookinfo`.
    pub fn summary(&self, subject: &str) -> String {
        let counted = |count, word| match count {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{count} {word}s")),
        };
        let errors = counted(self.count(Severity::Error), "error");
        let warnings = counted(self.count(Severity::Warning), "warning");
        let parts: Vec<String> = errors.into_iter().chain(warnings).collect();
        if parts.is_empty() {
            format!("no errors in {subject}")
        } else {
            format!("{} in {subject}", parts.join(" and "))
        }
    }

    /// The findings for people: each with its line and a caret, the first [`SHOWN_MAX`] of them.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for finding in self.sorted.iter().take(SHOWN_MAX) {
            text.push_str(&renderer.render(&[self.report(finding)]));
            text.push_str("\n\n");
        }
        match self.sorted.len().saturating_sub(SHOWN_MAX) {
            0 => {}
            more => text.push_str(&format!("and {more} more\n")),
        }
        text
    }

    /// The findings for machines: a list of objects with `severity`, `lint`, `file`, `line`, `column`, `message` and
    /// `help`; line and column are null when the file as a whole is meant.
    pub fn to_json(&self) -> serde_json::Value {
        let one = |finding: &Finding| {
            serde_json::json!({
                "severity": finding.severity,
                "lint": finding.lint,
                "file": finding.file,
                "line": (finding.line > 0).then_some(finding.line),
                "column": (finding.column > 0).then_some(finding.column),
                "message": finding.message,
                "help": finding.help,
            })
        };
        self.sorted.iter().map(one).collect()
    }

    fn report<'a>(&'a self, finding: &'a Finding) -> Group<'a> {
        let level = match finding.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(finding.message.as_str());
        let title = match finding.lint {
            Some(lint) => title.id(lint),
            None => title,
        };
        let file = normalize_untrusted_str(&finding.file);
        let source = self.sources.get(&finding.file).filter(|_| finding.line > 0);
        let group = match source {
            Some(source) => {
                let caret = AnnotationKind::Primary.span(first_line_of(&finding.span, source));
                title.element(Snippet::source(source.as_ref()).path(file).annotation(caret))
            }
            None if finding.line > 0 => {
                let origin = Origin::path(file).line(finding.line).char_column(finding.column);
                title.element(origin)
            }
            None => title.element(Origin::path(file)),
        };
        match &finding.help {
            Some(help) => group.element(Level::HELP.message(normalize_untrusted_str(help))),
            None => group,
        }
    }
}

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        let mut findings = Self::new();
        findings.push(finding);
        findings
    }
}

impl Extend<Finding> for Findings {
    fn extend<I: IntoIterator<Item = Finding>>(&mut self, findings: I) {
        findings.into_iter().for_each(|finding| self.push(finding));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Findings {}

/// The candidate that `word` is most likely a misspelling of, if one is near enough.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

/// From 0, nothing in common, to 1, equal. Lower, and `port` is offered for `host`.
const LIKENESS_MIN: f64 = 0.8;

/// A span of several lines is shown by its first: a caret says where, not how long.
pub(crate) fn first_line_of(span: &Range<usize>, source: &str) -> Range<usize> {
    let line = source.get(span.clone()).and_then(|text| text.lines().next()).unwrap_or_default();
    span.start..span.start + line.len()
}

#[cfg(test)]
mod tests;
