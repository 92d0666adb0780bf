//! The picture of the ratios: a bar for each job, with a line from the least to the most.

use maud::{Markup, html};

use crate::results::{self, Results};
use crate::row::ROWS;
use crate::stats::Spread;

const LABELS: f64 = 110.0;
/// How long the bar of a ratio of 1 is.
const ONE: f64 = 420.0;
const HEIGHT: f64 = 26.0;
const BAR: f64 = 14.0;
const RIGHT: f64 = 160.0;

/// An SVG of all jobs that have a ratio.
pub(crate) fn svg(results: &Results) -> String {
    let ratio = |id: &str| results::ratio(&results.0.get(id)?.measured);
    let bars: Vec<(&str, Spread)> = ROWS.iter().filter_map(|row| Some((row.id, ratio(row.id)?))).collect();
    let most = bars.iter().map(|(_, ratio)| ratio.max).fold(1.0, f64::max);
    let (width, height) = (LABELS + ONE * most + RIGHT, HEIGHT * (whole(bars.len()) + 1.5));
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(width) height=(height) font-family="sans-serif" font-size="13" {
            rect width="100%" height="100%" fill="white" {}
            line x1=(LABELS + ONE) x2=(LABELS + ONE) y1="0" y2=(height - HEIGHT) stroke="#888" stroke-dasharray="4 3" {}
            text x=(LABELS + ONE) y=(height - 8.0) text-anchor="middle" fill="#555" { "Envoy 1.40" }
            @for (place, (id, ratio)) in bars.iter().enumerate() {
                (bar(id, ratio, HEIGHT * (whole(place) + 0.25)))
            }
        }
    };
    picture.into_string() + "\n"
}

fn bar(id: &str, ratio: &Spread, top: f64) -> Markup {
    let at = |ratio: f64| LABELS + ONE * ratio;
    let middle = top + BAR / 2.0;
    html! {
        text x=(LABELS - 8.0) y=(middle + 4.5) text-anchor="end" { (id) }
        rect x=(LABELS) y=(top) width=(ONE * ratio.median) height=(BAR) fill="#2a7f9e" {}
        line x1=(at(ratio.min)) x2=(at(ratio.max)) y1=(middle) y2=(middle) stroke="#12303c" stroke-width="2" {}
        text x=(at(ratio.max.max(ratio.median)) + 6.0) y=(middle + 4.5) {
            (format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are few jobs")]
const fn whole(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Outcome;
    use crate::measure::{Measured, Rounds};
    use crate::processor::Used;
    use crate::results::Entry;

    #[test]
    fn a_bar_is_as_long_as_its_ratio() {
        let rounds = |microseconds: u64| {
            let used = Used { nanoseconds: microseconds * 1000, ..Used::default() };
            let turn = Outcome { requests: 1, used, ..Outcome::default() };
            Rounds { closed: vec![turn], ..Rounds::default() }
        };
        let measured = Measured { tidegate: rounds(10), envoy: rounds(40), missing: None };
        let results = Results([("http1".to_owned(), Entry { measured, ..Entry::default() })].into());
        let svg = svg(&results);
        assert!(svg.contains("width=\"105\"") && svg.contains("0.25 (0.25 to 0.25)"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
    }
}
