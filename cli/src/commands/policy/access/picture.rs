//! Who may call what, as a picture: a row for each caller, a column for each service. Shapes tell what colours tell, and
//! the colours fit a light and a dark page.

use maud::{Markup, PreEscaped, html};
use policyd::author::access::{Cell, Matrix, May};

/// The size of a cell, in pixels.
const CELL: usize = 34;
/// How wide a letter is at most, and how much room there is around texts.
const LETTER: usize = 8;
const ROOM: usize = 16;
/// The height of the legend.
const LEGEND: usize = 40;

/// Draws a matrix as SVG.
pub(super) fn draw(matrix: &Matrix) -> String {
    let longest = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| text.chars().count()).max();
    let left = longest(&mut matrix.callers.iter().map(|caller| &caller.name)).unwrap_or_default() * LETTER
        + 2 * ROOM;
    // Services stand slanted: their height is seven tenths of their length.
    let slanted = longest(&mut matrix.services.iter()).unwrap_or_default() * LETTER * 7 / 10;
    let top = slanted + 2 * ROOM;
    let legend = legend(matrix);
    let across = left + matrix.services.len() * CELL + slanted + ROOM;
    let width =
        across.max(legend.iter().map(|(_, text)| text.len() * LETTER + 3 * ROOM).sum::<usize>() + ROOM);
    let height = top + matrix.callers.len() * CELL + LEGEND;
    let view = format!("0 0 {width} {height}");
    let drawing = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(view) width=(width) height=(height) role="img" {
            title { "Who may call what" }
            style { (PreEscaped(STYLE)) }
            rect.page width="100%" height="100%" {}
            @for (place, service) in matrix.services.iter().enumerate() {
                (column(service, left + place * CELL + CELL / 2, top - ROOM / 2))
            }
            @for (place, (caller, cells)) in matrix.rows().enumerate() {
                @let middle = top + place * CELL + CELL / 2;
                line x1=(ROOM) x2=(left + matrix.services.len() * CELL) y1=(middle + CELL / 2) y2=(middle + CELL / 2) {}
                text x=(left - ROOM) y=(middle + 5) text-anchor="end" { (caller.name) }
                @for (place, (service, cell)) in cells.enumerate() {
                    g transform=(format!("translate({} {middle})", left + place * CELL + CELL / 2)) {
                        title { (told(matrix, &caller.name, service, cell)) }
                        (shape(cell.may))
                    }
                }
            }
            (row_of(&legend, height - LEGEND / 2))
        }
    };
    format!("{}\n", drawing.into_string())
}

fn column(service: &str, x: usize, y: usize) -> Markup {
    html! { text transform=(format!("translate({} {y}) rotate(-45)", x + 4)) { (service) } }
}

/// Full, half, and next to nothing.
fn shape(may: May) -> Markup {
    match may {
        May::Always => html! { circle.always r="9" {} },
        May::Conditionally => html! {
            circle.ring r="8.25" {}
            path.half d="M 0 -8.25 A 8.25 8.25 0 0 0 0 8.25 Z" {}
        },
        May::Never => html! { circle.never r="2" {} },
    }
}

fn legend(matrix: &Matrix) -> Vec<(May, &'static str)> {
    if matrix.one_request {
        return vec![(May::Always, "allowed"), (May::Never, "denied")];
    }
    vec![(May::Always, "always"), (May::Conditionally, "conditionally"), (May::Never, "never")]
}

fn row_of(legend: &[(May, &'static str)], middle: usize) -> Markup {
    let mut x = 2 * ROOM;
    html! {
        @for (may, text) in legend {
            g transform=(format!("translate({x} {middle})")) {
                (shape(*may))
                text.quiet x=(ROOM) y="5" { (text) }
            }
            @let () = x += text.len() * LETTER + 3 * ROOM;
        }
    }
}

fn told(matrix: &Matrix, caller: &str, service: &str, cell: &Cell) -> String {
    let mut text = format!("{caller} → {service}: {}", matrix.word(cell));
    for policy in &cell.policies {
        text.push_str(&format!("\n{}", policy.id));
        policy.conditions.iter().for_each(|condition| text.push_str(&format!("\n  {condition}")));
    }
    text
}

const STYLE: &str = "
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; }
text { fill: #1f2328; }
.quiet { fill: #59636e; }
line { stroke: #d1d9e0; }
.always { fill: #1a7f37; }
.ring { fill: none; stroke: #9a6700; stroke-width: 1.5; }
.half { fill: #9a6700; }
.never { fill: #8c959f; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; }
  text { fill: #f0f6fc; }
  .quiet { fill: #9198a1; }
  line { stroke: #3d444d; }
  .always { fill: #3fb950; }
  .ring { stroke: #d29922; }
  .half { fill: #d29922; }
  .never { fill: #656c76; }
}
";
