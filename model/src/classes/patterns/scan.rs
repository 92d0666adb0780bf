//! Patterns of any shape, matched in one pass over a text.
//!
//! A pattern is matched piece by piece: the leftmost place of each is enough, for it leaves the most text for those
//! that follow. An automaton finds the pieces of all patterns in the order in which they end; each pattern waits
//! for its next one. A pattern is looked at only once its first and last literal are known to fit and its second
//! piece was found, so most never are.

use std::mem;

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, Input};

use super::affixes::{Affixes, End};
use crate::classes::{Map, count};
use crate::pattern::{Parts, Pattern};

/// Patterns, ready to be matched.
#[derive(Debug)]
pub(super) struct Scan {
    firsts: Affixes,
    lasts: Affixes,
    /// Finds the pieces between first and last.
    pieces: Pieces,
    plans: Vec<Plan>,
    /// By first literal, last literal and second piece: which patterns begin so.
    beginnings: Map<(Affix, Affix, Option<u32>), Vec<u32>>,
}

/// Up to so many patterns of two literals are tried one by one.
const FEW: usize = 4;

/// What finds the pieces between first and last.
#[derive(Debug)]
enum Pieces {
    /// No pattern has any.
    None,
    /// An automaton.
    Found(AhoCorasick),
    /// There are few patterns, or no automaton could be built: each pattern is tried.
    Tried,
}

/// A first or last literal by its place; none if it is empty.
type Affix = Option<usize>;

#[derive(Debug)]
struct Plan {
    pattern: Pattern,
    /// The pieces between first and last, by their number in the automaton.
    middles: Vec<u32>,
    /// The length of the last literal, in bytes.
    last: usize,
}

/// What is kept while a text is looked at: buffers, so that nothing is allocated once they have grown.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// The first literals that fit, and their lengths; the shortest first.
    firsts: Vec<(Affix, usize)>,
    lasts: Vec<(Affix, usize)>,
    /// By piece: which patterns wait for it, and with how many of `firsts` patterns were begun that have it second.
    pieces: Vec<Piece>,
    /// The pieces for which there is anything in `pieces`, maybe repeatedly.
    touched: Vec<u32>,
    /// By pattern, once it is begun: how many pieces were found, and where the last of them ended.
    progress: Vec<(usize, usize)>,
    turn: Vec<u32>,
    found: Vec<u32>,
    /// How much was done so far: pieces found, and patterns looked at.
    #[cfg(test)]
    steps: usize,
}

#[derive(Debug, Default)]
struct Piece {
    waiting: Vec<u32>,
    begun: usize,
}

impl Marks {
    /// A buffer for numbers.
    pub(crate) const fn found(&mut self) -> &mut Vec<u32> {
        &mut self.found
    }

    /// How much was done so far: pieces found, and patterns looked at.
    #[cfg(test)]
    pub(crate) const fn steps(&self) -> usize {
        self.steps
    }

    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests count"))]
    const fn count(&mut self, _steps: usize) {
        #[cfg(test)]
        {
            self.steps += _steps;
        }
    }

    fn begin(&mut self, pieces: usize, plans: usize) {
        for touched in self.touched.drain(..) {
            if let Some(piece) = self.pieces.get_mut(touched as usize) {
                piece.waiting.clear();
                piece.begun = 0;
            }
        }
        if self.pieces.len() < pieces {
            self.pieces.resize_with(pieces, Piece::default);
        }
        if self.progress.len() < plans {
            self.progress.resize(plans, (0, 0));
        }
        self.found.clear();
        self.firsts.clear();
        self.lasts.clear();
    }
}

impl Scan {
    /// O(length of all literals).
    pub(super) fn new(patterns: &[Parts<'_>]) -> Self {
        let firsts = patterns.iter().map(|parts| parts.first).filter(|first| !first.is_empty());
        let lasts = patterns.iter().map(|parts| parts.last).filter(|last| !last.is_empty());
        let (firsts, lasts) =
            (Affixes::new(End::Start, firsts.collect()), Affixes::new(End::End, lasts.collect()));
        let mut literals: Vec<&str> = patterns.iter().flat_map(|parts| &parts.middles).copied().collect();
        literals.sort_unstable();
        literals.dedup();
        let mut beginnings: Map<_, Vec<u32>> = Map::default();
        let mut plans = Vec::with_capacity(patterns.len());
        for parts in patterns {
            let piece = |middle: &&str| literals.binary_search(middle).ok().map(count);
            let middles: Vec<u32> = parts.middles.iter().filter_map(piece).collect();
            let beginning = (firsts.place(parts.first), lasts.place(parts.last), middles.first().copied());
            beginnings.entry(beginning).or_default().push(count(plans.len()));
            plans.push(Plan { pattern: parts.pattern(), middles, last: parts.last.len() });
        }
        let pieces = if literals.is_empty() {
            if plans.len() <= FEW { Pieces::Tried } else { Pieces::None }
        } else {
            AhoCorasick::new(&literals).map_or(Pieces::Tried, Pieces::Found)
        };
        Self { firsts, lasts, pieces, plans, beginnings }
    }

    /// The numbers of the patterns that match `text`, sorted.
    ///
    /// O(length + pieces of the patterns begun), times how many literals overlap at one place of the text.
    pub(super) fn matching<'m>(&self, text: &str, marks: &'m mut Marks) -> &'m [u32] {
        match &self.pieces {
            Pieces::None => {
                marks.begin(0, 0);
                self.without_pieces(text, marks);
            }
            Pieces::Found(pieces) => {
                marks.begin(pieces.patterns_len(), self.plans.len());
                self.without_pieces(text, marks);
                self.scan(text, pieces, marks);
            }
            Pieces::Tried => {
                marks.begin(0, 0);
                let matching = (0_u32..).zip(&self.plans).filter(|(_, plan)| plan.pattern.matches(text));
                marks.found.extend(matching.map(|(number, _)| number));
            }
        }
        marks.found.sort_unstable();
        &marks.found
    }

    /// Finds the patterns that have only a first and a last literal, and which of these literals fit.
    fn without_pieces(&self, text: &str, marks: &mut Marks) {
        marks.firsts.extend(self.firsts.all(text).map(|(place, length)| (Some(place), length)));
        marks.firsts.push((None, 0));
        marks.firsts.reverse();
        marks.lasts.extend(self.lasts.all(text).map(|(place, length)| (Some(place), length)));
        marks.lasts.push((None, 0));
        for (first, length) in &marks.firsts {
            for (last, tail) in &marks.lasts {
                if length.saturating_add(*tail) <= text.len() {
                    marks.found.extend(self.beginnings.get(&(*first, *last, None)).into_iter().flatten());
                }
            }
        }
    }

    fn scan(&self, text: &str, pieces: &AhoCorasick, marks: &mut Marks) {
        let input = Input::new(text);
        let mut state = OverlappingState::start();
        // Such a search fails only where an automaton was built for searches of another kind.
        while pieces.try_find_overlapping(input.clone(), &mut state).is_ok()
            && let Some(found) = state.get_match()
        {
            self.found(found.pattern().as_u32(), found.start(), found.end(), text.len(), marks);
        }
    }

    /// A piece was found from `start` to `end`.
    fn found(&self, piece: u32, start: usize, end: usize, length: usize, marks: &mut Marks) {
        let Some(at) = marks.pieces.get_mut(piece as usize) else { return };
        let mut turn = mem::take(&mut marks.turn);
        mem::swap(&mut turn, &mut at.waiting);
        marks.count(turn.len() + 1);
        for number in turn.drain(..) {
            match marks.progress.get_mut(number as usize) {
                Some((pieces, after)) if *after <= start => {
                    *pieces += 1;
                    *after = end;
                    self.advance(number, length, marks);
                }
                _ => {
                    if let Some(at) = marks.pieces.get_mut(piece as usize) {
                        at.waiting.push(number);
                    }
                }
            }
        }
        marks.turn = turn;
        while let Some(at) = marks.pieces.get_mut(piece as usize)
            && let Some((first, _)) =
                marks.firsts.get(at.begun).filter(|(_, length)| *length <= start).copied()
        {
            at.begun += 1;
            marks.touched.push(piece);
            for place in 0..marks.lasts.len() {
                let Some((last, _)) = marks.lasts.get(place).copied() else { break };
                for number in self.beginnings.get(&(first, last, Some(piece))).into_iter().flatten() {
                    marks.count(1);
                    if let Some(progress) = marks.progress.get_mut(*number as usize) {
                        *progress = (1, end);
                    }
                    self.advance(*number, length, marks);
                }
            }
        }
    }

    /// One more piece of a pattern was found: the pattern waits for the next, or it matches or never will.
    fn advance(&self, number: u32, length: usize, marks: &mut Marks) {
        let (Some(plan), Some((pieces, after))) =
            (self.plans.get(number as usize), marks.progress.get(number as usize))
        else {
            return;
        };
        match plan.middles.get(*pieces) {
            Some(next) => {
                if let Some(at) = marks.pieces.get_mut(*next as usize) {
                    at.waiting.push(number);
                    marks.touched.push(*next);
                }
            }
            None if after.saturating_add(plan.last) <= length => marks.found.push(number),
            None => {}
        }
    }
}
