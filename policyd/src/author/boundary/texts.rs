//! Texts at the boundaries of patterns: the shortest text of each kind that a list of patterns tells apart.
//!
//! All patterns are read side by side, as one automaton: a state is how far each of them has come. The states are
//! walked in order of the length of the texts that lead there, so the first text of a kind is a shortest one, and a
//! walk that ends has met every kind that there is.

use std::collections::{BTreeSet, HashSet, VecDeque};

use model::{Pattern, Template};

/// The most states that are walked.
const STATES_MAX: usize = 20_000;
/// The most kinds of text that the walk finds. Independent patterns make 2^n of them.
const KINDS_MAX: usize = 256;

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// This character.
    Char(char),
    /// Any run of characters, also none.
    Run,
    /// A character.
    Any,
    /// A character of a path's segment.
    One,
    /// Any run of such characters, also none.
    Some,
}

/// Which texts a fact can have at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// A normalised path.
    Path,
    /// An HTTP method.
    Method,
    /// A host in lower case.
    Host,
    /// What stands in a header.
    Header,
    /// Anything.
    Any,
}

/// One text of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Texts {
    /// The texts.
    pub texts: Vec<String>,
    /// Whether there is no other kind.
    pub complete: bool,
}

/// Finds one text of each kind that `patterns` tell apart, among those that `grammar` accepts.
///
/// A text of `seeds` stands for its kind, if it is one; else one made from a pattern, or a shortest one.
pub(super) fn of_each_kind(patterns: &[Vec<Element>], grammar: Grammar, seeds: &[String]) -> Texts {
    let automaton = Automaton::new(patterns, grammar);
    let mut found = Found { kinds: HashSet::new(), texts: Vec::new() };
    let instances = patterns.iter().filter_map(|pattern| instance(pattern, grammar));
    for text in seeds.iter().cloned().chain(instances) {
        if let Some(state) = automaton.after(&text) {
            found.add(automaton.kind(&state), text);
        }
    }
    let complete = automaton.walk(&mut found);
    Texts { texts: found.texts, complete }
}

/// The elements of an operation's path.
pub(super) fn elements_of(template: &Template) -> Vec<Element> {
    let mut elements = Vec::new();
    for segment in template.as_str().split('/').skip(1) {
        elements.push(Element::Char('/'));
        if segment.starts_with("{*") {
            elements.extend([Element::Any, Element::Run]);
        } else if segment.starts_with('{') {
            elements.extend([Element::One, Element::Some]);
        } else {
            elements.extend(segment.chars().map(Element::Char));
        }
    }
    elements
}

/// A `like` pattern's elements.
pub(super) fn elements(pattern: &Pattern) -> Vec<Element> {
    let pieces: Vec<String> = pattern.clone().into();
    let mut elements = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            elements.push(Element::Run);
        }
        elements.extend(piece.chars().map(Element::Char));
    }
    elements
}

impl Grammar {
    /// The state after `c`, unless no text goes on like this.
    fn step(self, state: u8, c: char) -> Option<u8> {
        let printable = matches!(c, '!'..='~');
        match self {
            Self::Any => Some(0),
            Self::Method
                if printable
                    && !matches!(
                        c,
                        '(' | ')' | '<'..='@' | '[' | ']' | '{' | '}' | ',' | '/' | ':' | ';' | '\\' | '"'
                    ) =>
            {
                Some(1)
            }
            Self::Host
                if printable && !c.is_ascii_uppercase() && !matches!(c, '/' | '?' | '#' | '@' | '\\') =>
            {
                Some(1)
            }
            Self::Header if c == ' ' => {
                if state == START {
                    None
                } else {
                    Some(ENDS_BLANK)
                }
            }
            Self::Header if !c.is_control() => Some(1),
            Self::Path => path_step(state, c),
            Self::Method | Self::Host | Self::Header => None,
        }
    }

    /// Whether a text may end in `state`.
    const fn accepts(self, state: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Header => state != ENDS_BLANK,
            Self::Method | Self::Host => state != START,
            Self::Path => matches!(state, SEGMENT_START | SEGMENT),
        }
    }

    /// Characters that mean something to the grammar in `state`.
    const fn special(self, state: u8) -> &'static [char] {
        match (self, state) {
            (Self::Path, PERCENT | PERCENT_DIGIT) => &['2', '0'],
            (Self::Path, _) => &['/'],
            _ => &[],
        }
    }

    /// A character that is in none of the patterns.
    fn other(self, used: &BTreeSet<char>) -> Option<char> {
        let first = if self == Self::Method { 'X' } else { 'x' };
        let ordinary =
            |c: &char| !used.contains(c) && self.step(1, *c).is_some() && !matches!(c, '.' | '%' | '/');
        [first, 'y', 'z'].into_iter().chain('0'..='9').chain('A'..='z').chain('!'..='~').find(ordinary)
    }
}

/// Nothing was read yet.
const START: u8 = 0;
/// After the blank within a header.
const ENDS_BLANK: u8 = 2;
/// Within a path: after a slash.
const SEGMENT_START: u8 = 3;
/// In a segment that is more than dots.
const SEGMENT: u8 = 1;
/// After `.` and `..`: a normalised path has no such segment.
const DOT: u8 = 4;
const DOTS: u8 = 5;
/// After `%`, and after its first digit.
const PERCENT: u8 = 6;
const PERCENT_DIGIT: u8 = 7;

const fn path_step(state: u8, c: char) -> Option<u8> {
    match (state, c) {
        (START, '/') | (SEGMENT_START | SEGMENT, '/') => Some(SEGMENT_START),
        (PERCENT, '0'..='9' | 'A'..='F') => Some(PERCENT_DIGIT),
        (PERCENT_DIGIT, '0'..='9' | 'A'..='F') => Some(SEGMENT),
        (START | PERCENT | PERCENT_DIGIT, _) | (DOT | DOTS, '/') | (_, '\\' | '?' | '#') => None,
        (SEGMENT_START, '.') => Some(DOT),
        (DOT, '.') => Some(DOTS),
        (_, '%') => Some(PERCENT),
        (_, '!'..='~') => Some(SEGMENT),
        _ => None,
    }
}

/// A text that `pattern` matches, if `grammar` accepts one of the obvious ones.
fn instance(pattern: &[Element], grammar: Grammar) -> Option<String> {
    let filled = |run: &str| {
        let mut text = String::new();
        for element in pattern {
            match element {
                Element::Char(c) => text.push(*c),
                Element::Run => text.push_str(run),
                Element::Any | Element::One => text.push('x'),
                Element::Some => {}
            }
        }
        text
    };
    let accepted = |text: &String| {
        let state = text.chars().try_fold(START, |state, c| grammar.step(state, c));
        state.is_some_and(|state| grammar.accepts(state))
    };
    ["x", "/x", ""].into_iter().map(filled).find(accepted)
}

/// The texts found, and their kinds: which patterns they match.
struct Found {
    kinds: HashSet<Vec<u32>>,
    texts: Vec<String>,
}

impl Found {
    fn add(&mut self, kind: Vec<u32>, text: String) {
        if self.kinds.insert(kind) {
            self.texts.push(text);
        }
    }
}

/// All patterns, one after the other; a place in it is a place in one of them.
struct Automaton {
    /// What is read at each place; nothing at the end of a pattern.
    places: Vec<Option<Element>>,
    starts: Vec<u32>,
    grammar: Grammar,
    other: Option<char>,
}

/// How far each pattern has come: the places reached, sorted. And the grammar's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    places: Vec<u32>,
    grammar: u8,
}

/// A state, and how it is reached.
struct Node {
    state: State,
    from: usize,
    by: char,
}

impl Automaton {
    fn new(patterns: &[Vec<Element>], grammar: Grammar) -> Self {
        let mut places = Vec::new();
        let mut starts = Vec::new();
        let mut used = BTreeSet::new();
        for pattern in patterns {
            starts.push(u32::try_from(places.len()).unwrap_or(u32::MAX));
            places.extend(pattern.iter().copied().map(Some));
            places.push(None);
            used.extend(pattern.iter().filter_map(|element| match element {
                Element::Char(c) => Some(*c),
                Element::Run | Element::Any | Element::One | Element::Some => None,
            }));
        }
        Self { places, starts, grammar, other: grammar.other(&used) }
    }

    fn start(&self) -> State {
        let mut places = Vec::new();
        self.starts.iter().for_each(|start| self.reach(*start, &mut places));
        State { places, grammar: START }
    }

    fn step(&self, state: &State, c: char) -> Option<State> {
        let grammar = self.grammar.step(state.grammar, c)?;
        let mut places = Vec::new();
        for place in &state.places {
            match self.at(*place) {
                Some(Element::Char(expected)) if expected == c => self.reach(place + 1, &mut places),
                Some(Element::Run) => self.reach(*place, &mut places),
                Some(Element::Some) if c != '/' => self.reach(*place, &mut places),
                Some(Element::Any) => self.reach(place + 1, &mut places),
                Some(Element::One) if c != '/' => self.reach(place + 1, &mut places),
                _ => {}
            }
        }
        places.sort_unstable();
        places.dedup();
        Some(State { places, grammar })
    }

    /// Adds `place`, and those behind runs that may be empty.
    fn reach(&self, place: u32, places: &mut Vec<u32>) {
        let mut place = place;
        places.push(place);
        while matches!(self.at(place), Some(Element::Run | Element::Some)) {
            place += 1;
            places.push(place);
        }
    }

    fn at(&self, place: u32) -> Option<Element> {
        self.places.get(usize::try_from(place).ok()?).copied().flatten()
    }

    /// The state after `text`, if the grammar accepts it.
    fn after(&self, text: &str) -> Option<State> {
        let state = text.chars().try_fold(self.start(), |state, c| self.step(&state, c))?;
        self.grammar.accepts(state.grammar).then_some(state)
    }

    /// The ends that are reached: one for each pattern that matches.
    fn kind(&self, state: &State) -> Vec<u32> {
        state.places.iter().copied().filter(|place| self.at(*place).is_none()).collect()
    }

    /// Walks the states. Whether all were met.
    fn walk(&self, found: &mut Found) -> bool {
        let room = found.texts.len() + KINDS_MAX;
        let mut nodes = vec![Node { state: self.start(), from: 0, by: ' ' }];
        let mut met: HashSet<State> = nodes.iter().map(|node| node.state.clone()).collect();
        let mut waiting = VecDeque::from([0]);
        while let Some(number) = waiting.pop_front() {
            let Some(state) = nodes.get(number).map(|node| node.state.clone()) else { return false };
            if self.grammar.accepts(state.grammar) {
                let kind = self.kind(&state);
                if !found.kinds.contains(&kind) {
                    found.add(kind, text(&nodes, number));
                }
            }
            for c in self.alphabet(&state) {
                let Some(next) = self.step(&state, c) else { continue };
                if met.insert(next.clone()) {
                    waiting.push_back(nodes.len());
                    nodes.push(Node { state: next, from: number, by: c });
                }
            }
            if nodes.len() > STATES_MAX || found.texts.len() > room {
                return false;
            }
        }
        self.other.is_some()
    }

    /// The characters that lead to different states; one stands for all that are not expected.
    fn alphabet(&self, state: &State) -> BTreeSet<char> {
        let expected = state.places.iter().filter_map(|place| match self.at(*place) {
            Some(Element::Char(c)) => Some(c),
            Some(Element::One | Element::Some) => Some('/'),
            _ => None,
        });
        let special = self.grammar.special(state.grammar).iter().copied();
        expected.chain(special).chain(self.other).collect()
    }
}

/// The text that leads to a node.
fn text(nodes: &[Node], number: usize) -> String {
    let mut text = Vec::new();
    let mut number = number;
    while let Some(node) = nodes.get(number).filter(|_| number != 0) {
        text.push(node.by);
        number = node.from;
    }
    text.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.split('*').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
    }

    fn found(patterns: &[&str], grammar: Grammar, seeds: &[&str]) -> Texts {
        let patterns: Vec<_> = patterns.iter().map(|text| elements(&pattern(text))).collect();
        of_each_kind(&patterns, grammar, &seeds.iter().map(|seed| (*seed).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_text_of_each_kind() {
        type Strs = &'static [&'static str];
        let table: &[(Strs, Grammar, Strs, Strs)] = &[
            (&[], Grammar::Path, &["/"], &["/"]),
            (&[], Grammar::Method, &[], &["X"]),
            (&["/reviews/*", "/reviews*"], Grammar::Path, &["/"], &["/", "/reviews/x", "/reviewsx"]),
            (&["*a*", "*b*"], Grammar::Any, &[], &["xax", "xbx", "", "ab"]),
            (&["*.png"], Grammar::Path, &[], &["/x.png", "/"]),
            (&["GET", "*"], Grammar::Method, &["HEAD"], &["HEAD", "GET"]),
            // No normalised path has such a segment, and no host such a letter.
            (&["/../*", "*/."], Grammar::Path, &["/"], &["/"]),
            (&["Orders"], Grammar::Host, &["orders"], &["orders"]),
            (&["%41", "*%*"], Grammar::Path, &["/"], &["/", "/%00"]),
            (&["", " a", "a "], Grammar::Header, &[], &["", "a"]),
        ];
        for (patterns, grammar, seeds, expected) in table {
            let texts = found(patterns, *grammar, seeds);
            assert_eq!(texts.texts, *expected, "{patterns:?}");
            assert!(texts.complete);
        }
    }

    #[test]
    fn too_many_kinds_are_told_and_each_pattern_has_a_text_all_the_same() {
        let patterns: Vec<String> = ('a'..='p').map(|c| format!("*{c}{c}*")).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let texts = found(&patterns, Grammar::Any, &[]);
        assert!(!texts.complete);
        for text in patterns {
            assert!(texts.texts.iter().any(|found| pattern(text).matches(found)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_of_a_kind_that_was_found(
            patterns in prop::collection::vec("[ab/*]{0,5}", 0..5),
            texts in prop::collection::vec("[abz/]{0,7}", 1..40),
        ) {
            let patterns: Vec<Pattern> = patterns.iter().map(|text| pattern(text)).collect();
            let found = of_each_kind(&patterns.iter().map(elements).collect::<Vec<_>>(), Grammar::Any, &[]);
            prop_assert!(found.complete);
            let kind = |text: &str| -> Vec<bool> { patterns.iter().map(|p| p.matches(text)).collect() };
            let kinds: BTreeMap<Vec<bool>, &String> = found.texts.iter().map(|text| (kind(text), text)).collect();
            prop_assert_eq!(kinds.len(), found.texts.len(), "one text a kind");
            for text in texts {
                prop_assert!(kinds.contains_key(&kind(&text)), "{} of {:?}", text, patterns);
            }
        }
    }
}
