//! What `like` patterns match, compared with each other.

use cedar_policy_core::ast::{Pattern, PatternElem};

/// Whether some text matches both patterns. O(length × length).
pub(super) fn meet(left: &Pattern, right: &Pattern) -> bool {
    let (left, right) = (left.get_elems(), right.get_elems());
    // `row[j]`: whether what is left of `left` and `right[j..]` have a text in common.
    let mut below: Vec<bool> = Vec::new();
    for i in (0..=left.len()).rev() {
        let mut row = vec![false; right.len() + 1];
        for j in (0..=right.len()).rev() {
            let at = |row: &[bool], j: usize| row.get(j).copied().unwrap_or_default();
            let met = match (left.get(i), right.get(j)) {
                (None, None) => true,
                // A wildcard stands for nothing, or for what the other pattern takes next.
                (Some(PatternElem::Wildcard), other) => at(&below, j) || (other.is_some() && at(&row, j + 1)),
                (other, Some(PatternElem::Wildcard)) => at(&row, j + 1) || (other.is_some() && at(&below, j)),
                (Some(one), Some(other)) => one == other && at(&below, j + 1),
                (None, Some(_)) | (Some(_), None) => false,
            };
            if let Some(cell) = row.get_mut(j) {
                *cell = met;
            }
        }
        below = row;
    }
    below.first().copied().unwrap_or_default()
}

/// Whether all that matches `inner` matches `outer`, as far as can be told by taking the wildcards of `inner` for a
/// character that `outer` has only wildcards for. True is sure.
pub(super) fn within(inner: &Pattern, outer: &Pattern) -> bool {
    if outer.iter().any(|element| *element == PatternElem::Char(STAND_IN)) {
        return false;
    }
    let text: String = inner
        .iter()
        .map(|element| match element {
            PatternElem::Char(c) => *c,
            PatternElem::Wildcard => STAND_IN,
        })
        .collect();
    outer.wildcard_match(&text)
}

/// The literal pieces between the wildcards of a pattern; one more than there are wildcards.
pub(super) fn pieces(pattern: &Pattern) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for element in pattern.iter() {
        match (element, pieces.last_mut()) {
            (PatternElem::Char(c), Some(piece)) => piece.push(*c),
            _ => pieces.push(String::new()),
        }
    }
    pieces
}

/// A character that stands in no text: Unicode has set it aside.
const STAND_IN: char = '\u{10FFFF}';

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        let element = |c| if c == '*' { PatternElem::Wildcard } else { PatternElem::Char(c) };
        text.chars().map(element).collect::<Vec<_>>().into()
    }

    #[test]
    fn patterns_are_compared() {
        let table = [
            ("/a/*", "/b/*", false, false),
            ("/a/*", "/a/b", true, false),
            ("/a/b/*", "/a/*", true, true),
            ("*a", "*b", false, false),
            ("a*", "*b", true, false),
            ("*", "", true, false),
            ("", "*", true, true),
            ("a", "a", true, true),
            ("a*b", "ab*", true, false),
            ("a**b", "a*b", true, true),
        ];
        for (left, right, met, inside) in table {
            assert_eq!(meet(&pattern(left), &pattern(right)), met, "{left} {right}");
            assert_eq!(meet(&pattern(right), &pattern(left)), met, "{right} {left}");
            assert_eq!(within(&pattern(left), &pattern(right)), inside, "{left} {right}");
        }
    }

    proptest! {
        #[test]
        fn comparisons_say_nothing_that_a_text_disproves(
            left in "[ab*]{0,5}", right in "[ab*]{0,5}", text in "[ab]{0,6}"
        ) {
            let (left, right) = (pattern(&left), pattern(&right));
            let both = left.wildcard_match(&text) && right.wildcard_match(&text);
            prop_assert!(!both || meet(&left, &right));
            let outside = left.wildcard_match(&text) && !right.wildcard_match(&text);
            prop_assert!(!outside || !within(&left, &right));
        }

        #[test]
        fn patterns_meet_where_a_short_text_matches_both(left in "[ab*]{0,4}", right in "[ab*]{0,4}") {
            let (left, right) = (pattern(&left), pattern(&right));
            // If any text matches both, one does that is no longer than both patterns together.
            let mut texts = vec![String::new()];
            let mut met = false;
            for _ in 0..=8 {
                met |= texts.iter().any(|text| left.wildcard_match(text) && right.wildcard_match(text));
                texts = texts.iter().flat_map(|text| ["a", "b"].map(|c| format!("{text}{c}"))).collect();
            }
            prop_assert_eq!(meet(&left, &right), met);
        }
    }
}
