//! Which combinations of choices are looked at: all, or a sample that covers what matters.

use std::collections::HashSet;

/// The most combinations that are listed whole.
pub(super) const WHOLE_MAX: usize = 50_000;
/// The most combinations of a sample.
const SAMPLE_MAX: usize = 20_000;
/// The most combinations of the choices of one group.
const GROUP_MAX: usize = 2_000;
/// The most pairs of choices that are looked for.
const PAIRS_MAX: usize = 200_000;

/// Combinations: for each dimension, the number of the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Combinations {
    /// In order, without repetition.
    pub rows: Vec<Vec<usize>>,
    /// Whether these are all there are.
    pub whole: bool,
}

/// Combinations of choices of dimensions that have `sizes` choices each, none of which is 0. Choice 0 is the ordinary one.
///
/// All of them if they are at most [`WHOLE_MAX`]. Otherwise up to [`SAMPLE_MAX`]: each choice among ordinary ones, all
/// combinations of the dimensions of each of `groups` among ordinary ones, each pair of choices, and others at random.
/// The same for the same input.
pub(super) fn combinations(sizes: &[usize], groups: &[Vec<usize>]) -> Combinations {
    let all: Vec<usize> = (0..sizes.len()).collect();
    let product = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let whole = product.is_some_and(|product| product <= WHOLE_MAX);
    let max = if whole { WHOLE_MAX } else { SAMPLE_MAX };
    let mut sample = Sample { sizes, max, rows: Vec::new(), met: HashSet::new(), random: Random(0) };
    if whole {
        sample.every(&all);
        return Combinations { rows: sample.rows, whole };
    }
    all.iter().for_each(|dimension| sample.every(&[*dimension]));
    let share = (SAMPLE_MAX / 2 / groups.len().max(1)).clamp(8, GROUP_MAX);
    groups.iter().for_each(|group| sample.group(group, share));
    sample.pairs();
    // Each of them is new with a good chance, for there are far more than are taken.
    for _ in sample.rows.len()..SAMPLE_MAX {
        let row = sample.any();
        sample.add(row);
    }
    Combinations { rows: sample.rows, whole }
}

struct Sample<'a> {
    sizes: &'a [usize],
    max: usize,
    rows: Vec<Vec<usize>>,
    met: HashSet<Vec<usize>>,
    random: Random,
}

impl Sample<'_> {
    fn add(&mut self, row: Vec<usize>) {
        if self.rows.len() < self.max && self.met.insert(row.clone()) {
            self.rows.push(row);
        }
    }

    /// The combinations of the choices of `dimensions`: all if there are at most `max`, else as many at random.
    fn group(&mut self, dimensions: &[usize], max: usize) {
        let product = dimensions.iter().try_fold(1usize, |product, d| product.checked_mul(self.size(*d)));
        if product.is_some_and(|product| product <= max) {
            return self.every(dimensions);
        }
        for _ in 0..max {
            let mut row = vec![0; self.sizes.len()];
            for dimension in dimensions {
                let choice = self.random.below(self.size(*dimension));
                set(&mut row, *dimension, choice);
            }
            self.add(row);
        }
    }

    /// Every combination of the choices of `dimensions`, the last changing fastest; as many as there is room for.
    fn every(&mut self, dimensions: &[usize]) {
        let mut row = vec![0; self.sizes.len()];
        for _ in 0..self.max {
            self.add(row.clone());
            let next = dimensions.iter().rev().find(|dimension| {
                let size = self.size(**dimension);
                match row.get_mut(**dimension) {
                    Some(choice) if *choice + 1 < size => {
                        *choice += 1;
                        true
                    }
                    Some(choice) => {
                        *choice = 0;
                        false
                    }
                    None => false,
                }
            });
            if next.is_none() {
                return;
            }
        }
    }

    /// Every pair of choices, with any others.
    fn pairs(&mut self) {
        let choices = self.sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size));
        if choices.saturating_mul(choices) / 2 > PAIRS_MAX {
            return;
        }
        let mut covered: HashSet<[usize; 4]> = HashSet::new();
        let dimensions = self.sizes.len();
        for first in 0..dimensions {
            for second in first + 1..dimensions {
                for one in 0..self.size(first) {
                    for other in 0..self.size(second) {
                        if covered.contains(&[first, one, second, other]) {
                            continue;
                        }
                        let mut row = self.any();
                        set(&mut row, first, one);
                        set(&mut row, second, other);
                        let placed = || row.iter().copied().enumerate();
                        covered.extend(
                            placed().flat_map(|(a, x)| placed().skip(a + 1).map(move |(b, y)| [a, x, b, y])),
                        );
                        self.add(row);
                    }
                }
            }
        }
    }

    fn any(&mut self) -> Vec<usize> {
        self.sizes.iter().map(|size| self.random.below(*size)).collect()
    }

    fn size(&self, dimension: usize) -> usize {
        self.sizes.get(dimension).copied().unwrap_or(1)
    }
}

fn set(row: &mut [usize], dimension: usize, choice: usize) {
    if let Some(place) = row.get_mut(dimension) {
        *place = choice;
    }
}

/// SplitMix64: numbers that look random and are the same in each run and each build.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from((z ^ (z >> 31)) % bound).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_combinations_are_listed_whole_and_in_order() {
        let all = combinations(&[2, 1, 3], &[]);
        assert!(all.whole);
        let expected = [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 0, 1], [1, 0, 2]];
        assert_eq!(all.rows, expected);
        assert_eq!(combinations(&[], &[]).rows, [Vec::<usize>::new()]);
    }

    #[test]
    fn a_sample_covers_groups_and_pairs_and_is_the_same_each_time() {
        let sizes = [5, 4, 6, 7, 5, 6, 4, 3];
        let group = vec![1, 3, 6];
        let sample = combinations(&sizes, std::slice::from_ref(&group));
        assert!(!sample.whole && sample.rows.len() <= SAMPLE_MAX);
        assert_eq!(sample, combinations(&sizes, std::slice::from_ref(&group)));
        let unique: HashSet<_> = sample.rows.iter().collect();
        assert_eq!(unique.len(), sample.rows.len());
        let of_group =
            |row: &&Vec<usize>| (0..8).all(|dimension| group.contains(&dimension) || row[dimension] == 0);
        assert!(sample.rows.iter().filter(of_group).count() >= 4 * 7 * 4);
        for a in 0..8 {
            for b in a + 1..8 {
                let pairs: HashSet<_> = sample.rows.iter().map(|row| (row[a], row[b])).collect();
                assert_eq!(pairs.len(), sizes[a] * sizes[b], "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_huge_space_stays_bounded() {
        let sample = combinations(&[usize::MAX, 10_000, 10_000], &[vec![0, 1, 2]]);
        assert!(!sample.whole && sample.rows.len() <= SAMPLE_MAX);
    }
}
