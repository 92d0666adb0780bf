//! Cedar's `like` patterns: literal text with `*` for any run of characters, `/` included.

use serde::{Deserialize, Serialize};

/// A `like` pattern: the literal pieces between its wildcards.
///
/// `"/a/*"` is `["/a/", ""]`; a pattern without a wildcard has one piece. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Pattern {
    first: String,
    rest: Vec<String>,
}

/// The pieces of a pattern with a wildcard; equal for patterns that match the same texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parts<'a> {
    /// What a text begins with.
    pub first: &'a str,
    /// What follows in this order. None is empty.
    pub middles: Vec<&'a str>,
    /// What it ends in.
    pub last: &'a str,
}

/// A pattern came over the wire without any piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern needs at least one piece")]
pub struct EmptyPattern;

impl Pattern {
    /// The pattern whose literal pieces, in order, are `first` and then each of `rest` after a wildcard.
    pub const fn new(first: String, rest: Vec<String>) -> Self {
        Self { first, rest }
    }

    /// The whole pattern, if it has no wildcard: the only text that matches.
    pub(crate) const fn literal(&self) -> Option<&str> {
        if self.rest.is_empty() { Some(self.first.as_str()) } else { None }
    }

    /// The literal pieces of a pattern with a wildcard.
    pub(crate) fn parts(&self) -> Parts<'_> {
        let (last, middles) = match self.rest.split_last() {
            Some((last, middles)) => (last.as_str(), middles),
            None => ("", [].as_slice()),
        };
        let middles = middles.iter().map(String::as_str).filter(|piece| !piece.is_empty()).collect();
        Parts { first: &self.first, middles, last }
    }

    /// Whether `text` matches from its start to its end. O(length of text × pieces) at worst.
    pub fn matches(&self, text: &str) -> bool {
        let Some(mut text) = text.strip_prefix(self.first.as_str()) else { return false };
        let Some((last, middle)) = self.rest.split_last() else { return text.is_empty() };
        for piece in middle {
            // The leftmost match is enough: it leaves the most text for the pieces that follow.
            let Some((_, after)) = text.split_once(piece.as_str()) else { return false };
            text = after;
        }
        text.ends_with(last.as_str())
    }
}

impl Parts<'_> {
    /// The pattern.
    pub(crate) fn pattern(&self) -> Pattern {
        let rest = self.middles.iter().chain([&self.last]).map(|piece| (*piece).to_owned());
        Pattern::new(self.first.to_owned(), rest.collect())
    }
}

impl TryFrom<Vec<String>> for Pattern {
    type Error = EmptyPattern;
    fn try_from(pieces: Vec<String>) -> Result<Self, Self::Error> {
        let mut pieces = pieces.into_iter();
        let first = pieces.next().ok_or(EmptyPattern)?;
        Ok(Self { first, rest: pieces.collect() })
    }
}

impl From<Pattern> for Vec<String> {
    fn from(pattern: Pattern) -> Self {
        let mut pieces = vec![pattern.first];
        pieces.extend(pattern.rest);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.split('*').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
    }

    #[test]
    fn wildcards_match_any_run_of_characters() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*", "/a", false),
            ("*.png", "x.png", true),
            ("*.png", "x.png?", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a**c", "ac", true),
            ("é*", "éa", true),
        ];
        for (p, text, expected) in table {
            assert_eq!(pattern(p).matches(text), expected, "{p} on {text}");
        }
    }

    /// The obvious, slow matcher.
    fn oracle(p: &[char], t: &[char]) -> bool {
        match p.split_first() {
            None => t.is_empty(),
            Some((&'*', rest)) => (0..=t.len()).any(|skip| oracle(rest, &t[skip..])),
            Some((c, rest)) => t.split_first().is_some_and(|(d, t)| c == d && oracle(rest, t)),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_matcher(p in "[ab*]{0,8}", t in "[ab]{0,10}") {
            let expected = oracle(&p.chars().collect::<Vec<_>>(), &t.chars().collect::<Vec<_>>());
            prop_assert_eq!(pattern(&p).matches(&t), expected);
        }
    }
}
