//! Many `like` patterns, matched at once.
//!
//! Which of the patterns `literal*` match a text is known from the longest that does, for those are the ones whose
//! literal begins that one; likewise `*literal` from the end. All others are matched in one pass over the text, see
//! [`Scan`]. The time is linear in the text's length, whatever a stranger sends; only literals of the author that
//! overlap each other make it longer.

mod affixes;
mod scan;

use affixes::{Affixes, End};
pub(crate) use scan::Marks;
use scan::Scan;

use super::{count, list, push};
use crate::pattern::Pattern;

/// Patterns with a wildcard, by their shape.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    prefixes: Affixes,
    suffixes: Affixes,
    others: Option<Scan>,
}

impl Patterns {
    pub(super) fn new(patterns: &[&Pattern]) -> Self {
        let (mut prefixes, mut suffixes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for pattern in patterns {
            let parts = pattern.parts();
            match (parts.first, parts.middles.is_empty(), parts.last) {
                // `*` matches every text: it tells none apart.
                ("", true, "") => {}
                (first, true, "") => prefixes.push(first),
                ("", true, last) => suffixes.push(last),
                _ => others.push(parts),
            }
        }
        others.sort_unstable();
        others.dedup();
        Self {
            prefixes: Affixes::new(End::Start, prefixes),
            suffixes: Affixes::new(End::End, suffixes),
            others: (!others.is_empty()).then(|| Scan::new(&others)),
        }
    }

    /// Writes which patterns match `text`.
    pub(super) fn write(&self, text: &str, marks: &mut Marks, key: &mut Vec<u8>) {
        for affixes in [&self.prefixes, &self.suffixes] {
            if !affixes.is_empty() {
                push(affixes.longest(text).map_or(0, |place| count(place.saturating_add(1))), key);
            }
        }
        if let Some(others) = &self.others {
            list(others.matching(text, marks), key);
        }
    }
}
