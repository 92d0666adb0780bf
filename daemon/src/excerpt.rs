//! A part of a file shown with remarks on it, in the form of [`Findings`](crate::Findings).

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use crate::finding::first_line_of;

/// Something that is told of a file, and what it is told of.
#[derive(Clone, Debug)]
pub struct Excerpt<'a> {
    /// What kind of thing it is, in one word.
    pub kind: &'a str,
    /// What is told.
    pub title: &'a str,
    /// The file, as its author calls it.
    pub file: &'a str,
    /// The file's text.
    pub source: &'a str,
    /// The line and column, from 1, that are named if nothing is remarked.
    pub at: (usize, usize),
    /// What is remarked on which bytes.
    pub remarks: Vec<(Range<usize>, String)>,
}

impl Excerpt<'_> {
    /// The lines that something is remarked on, with carets; in colour if asked for. Ends with a line break.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let title = Level::NOTE.with_name(self.kind).primary_title(normalize_untrusted_str(self.title));
        let file = normalize_untrusted_str(self.file);
        let group = if self.remarks.is_empty() {
            title.element(Origin::path(file).line(self.at.0).char_column(self.at.1))
        } else {
            let carets = self.remarks.iter().map(|(span, text)| {
                let caret = AnnotationKind::Primary.span(first_line_of(span, self.source));
                caret.label(normalize_untrusted_str(text))
            });
            title.element(Snippet::source(self.source).path(file).annotations(carets))
        };
        format!("{}\n", renderer.render(&[group]))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn remarks_stand_below_what_they_are_on() {
        let source = "one two\nthree\nfour\n";
        let excerpt = Excerpt {
            kind: "permit",
            title: "`a` is not satisfied",
            file: "a.cedar",
            source,
            at: (1, 1),
            remarks: vec![
                (0..3, "false: x = 1".to_owned()),
                (4..9, "true".to_owned()),
                (14..18, "?".to_owned()),
            ],
        };
        expect![[r#"
            permit: `a` is not satisfied
             --> a.cedar:1:1
              |
            1 | one two
              | ^^^ ^^^ true
              | |
              | false: x = 1
            2 | three
            3 | four
              | ^^^^ ?
        "#]]
        .assert_eq(&excerpt.render(false));
        let bare = Excerpt { remarks: Vec::new(), ..excerpt };
        assert_eq!(bare.render(false), "permit: `a` is not satisfied\n--> a.cedar:1:1\n");
        assert!(bare.render(true).contains("\u{1b}["));
    }
}
