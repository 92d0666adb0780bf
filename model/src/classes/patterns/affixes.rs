//! Literals that a text may begin with, or end in.

use std::cmp::Ordering;

/// Where in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// At its start.
    #[default]
    Start,
    /// At its end.
    End,
}

/// Literals, sorted as they are read from their end of a text.
#[derive(Debug, Default)]
pub(super) struct Affixes {
    end: End,
    literals: Vec<Literal>,
}

#[derive(Debug)]
struct Literal {
    text: Box<str>,
    /// The place of the longest other literal that this one begins with, or ends in.
    shorter: Option<usize>,
}

impl Affixes {
    /// `literals`, without duplicates.
    pub(super) fn new(end: End, mut literals: Vec<&str>) -> Self {
        literals.sort_unstable_by(|left, right| end.compare(left, right));
        literals.dedup();
        let mut affixes = Self { end, literals: Vec::with_capacity(literals.len()) };
        for text in literals {
            let last = affixes.literals.len().checked_sub(1);
            let shorter = affixes.first_that_fits(last, text);
            affixes.literals.push(Literal { text: text.into(), shorter });
        }
        affixes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.literals.is_empty()
    }

    /// The place of `literal`.
    pub(super) fn place(&self, literal: &str) -> Option<usize> {
        self.literals.binary_search_by(|one| self.end.compare(&one.text, literal)).ok()
    }

    /// The place of the longest literal that `text` begins with, or ends in. O(log literals + nesting).
    pub(super) fn longest(&self, text: &str) -> Option<usize> {
        // The last literal that is not behind `text` is the one sought, or begins with it.
        let behind = |literal: &Literal| self.end.compare(&literal.text, text) != Ordering::Greater;
        self.first_that_fits(self.literals.partition_point(behind).checked_sub(1), text)
    }

    /// The places of all literals that `text` begins with, or ends in, and their lengths; the longest first.
    pub(super) fn all(&self, text: &str) -> impl Iterator<Item = (usize, usize)> {
        let literal = |place: usize| self.literals.get(place);
        std::iter::successors(self.longest(text), move |place| literal(*place)?.shorter)
            .filter_map(move |place| Some((place, literal(place)?.text.len())))
    }

    fn first_that_fits(&self, mut place: Option<usize>, text: &str) -> Option<usize> {
        while let Some(literal) = place.and_then(|place| self.literals.get(place)) {
            if self.end.fits(&literal.text, text) {
                break;
            }
            place = literal.shorter;
        }
        place
    }
}

impl End {
    fn compare(self, left: &str, right: &str) -> Ordering {
        match self {
            Self::Start => left.cmp(right),
            Self::End => left.bytes().rev().cmp(right.bytes().rev()),
        }
    }

    fn fits(self, literal: &str, text: &str) -> bool {
        match self {
            Self::Start => text.starts_with(literal),
            Self::End => text.ends_with(literal),
        }
    }
}
