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

/// A pattern came over the wire without any piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern needs at least one piece")]
pub struct EmptyPattern;

impl Pattern {
    /// The pattern whose literal pieces, in order, are `first` and then each of `rest` after a wildcard.
    pub const fn new(first: String, rest: Vec<String>) -> Self {
        Self { first, rest }
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
