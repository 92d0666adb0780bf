//! Cedar text within a bundle: where it stands, and what Cedar says is wrong with it.

use std::ops::Range;

use daemon::finding::{Finding, Findings};
use miette::Diagnostic;

/// A piece of Cedar text and its place in a bundle file.
///
/// Cedar's parser may be given more than the author wrote (a condition is wrapped into a policy), and the
/// author's file holds more than Cedar's parser is given. This maps between the two.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The bundle file's name.
    pub file: &'a str,
    /// The bundle file's text.
    pub source: &'a str,
    /// Where in the file the Cedar text stands.
    pub start: usize,
    /// How long the Cedar text is.
    pub length: usize,
    /// How many bytes were put before the Cedar text for Cedar's parser.
    pub prefix: usize,
    /// Whether offsets in the Cedar text are offsets in the file: not so for YAML text with escapes or folds.
    pub exact: bool,
}

impl<'a> Place<'a> {
    /// A whole file of Cedar.
    pub const fn file(file: &'a str, source: &'a str) -> Self {
        Self { file, source, start: 0, length: source.len(), prefix: 0, exact: true }
    }

    /// A value in a YAML file that stands at `span` and whose text is `text`.
    pub fn value(file: &'a str, source: &'a str, span: Range<usize>, text: &str) -> Self {
        let inside = source.get(span.clone()).and_then(|raw| raw.find(text));
        match inside {
            Some(offset) => {
                Self { file, source, start: span.start + offset, length: text.len(), prefix: 0, exact: true }
            }
            None => Self { file, source, start: span.start, length: span.len(), prefix: 0, exact: false },
        }
    }

    /// The same place, seen through a parser that was given `prefix` bytes before it.
    #[must_use]
    pub const fn after(self, prefix: usize) -> Self {
        Self { prefix, ..self }
    }

    /// A finding about the whole text.
    pub fn finding(&self, message: impl Into<String>) -> Finding {
        Finding::at(self.file, self.source, self.start..self.start + self.length, message)
    }

    /// A finding about the bytes that Cedar's parser knows by this span, or about the whole text.
    pub fn finding_at(&self, span: Option<Range<usize>>, message: impl Into<String>) -> Finding {
        Finding::at(self.file, self.source, self.to_file(span), message)
    }

    /// What Cedar says, at the place it says it of.
    pub fn diagnose(&self, diagnostic: &dyn Diagnostic, findings: &mut Findings) {
        if let Some(related) = diagnostic.related() {
            // Cedar reports the first of several mistakes as the error and the rest as related to it.
            related.for_each(|other| self.diagnose(other, findings));
        }
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        let message = match label.as_ref().and_then(|label| label.label()) {
            Some(detail) => format!("{diagnostic}: {detail}"),
            None => with_causes(diagnostic),
        };
        let finding = Finding::at(self.file, self.source, self.range(diagnostic), message);
        findings.push(match diagnostic.help() {
            Some(help) => finding.with_help(help.to_string()),
            None => finding,
        });
    }

    /// Where in the file stands what Cedar says something of.
    pub fn range(&self, diagnostic: &dyn Diagnostic) -> Range<usize> {
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        self.to_file(label.map(|label| label.offset()..label.offset() + label.len()))
    }

    /// Where in the file some bytes of the text that Cedar's parser was given stand; the whole place if that is not
    /// known.
    pub fn to_file(self, span: Option<Range<usize>>) -> Range<usize> {
        let whole = self.start..self.start + self.length;
        let Some(span) = span.filter(|_| self.exact) else { return whole };
        let moved = |offset: usize| self.start + offset.saturating_sub(self.prefix).min(self.length);
        moved(span.start)..moved(span.end)
    }
}

/// Cedar says some things only in the cause of an error.
fn with_causes(diagnostic: &dyn Diagnostic) -> String {
    let causes = std::iter::successors(diagnostic.source(), |cause| cause.source());
    causes.fold(diagnostic.to_string(), |text, cause| format!("{text}: {cause}"))
}
