//! The picture of `docs/speed.md` shows the figures of its tables. `UPDATE_DOCS=1` draws it again.

use std::fmt::Write as _;

use crate::read;
use crate::readme::settle;

const WIDTH: f64 = 720.0;
/// Where the bars begin.
const LEFT: f64 = 220.0;
/// The width of the bar of the empty call.
const UNIT: f64 = 300.0;
const ROW: f64 = 30.0;

/// The calls of a table and their cost, compared with an empty call.
fn figures<'p>(page: &'p str, table: &str) -> Vec<(&'p str, f64)> {
    let marker = format!("<!-- {table} -->\n");
    let table = page.split(&marker).nth(1).unwrap();
    let rows = table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1], cells[3].parse().unwrap())
    })
    .collect()
}

/// One bar for each call. The colours are readable on a light and on a dark page.
fn draw(figures: &[(&str, f64)]) -> String {
    let height = ROW * (f64::from(u32::try_from(figures.len()).unwrap()) + 0.5);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    let mut top = ROW / 4.0;
    for (name, times) in figures {
        let (bar, text) = (times * UNIT, top + 19.0);
        let colour = if name.starts_with("empty") {
            "#8b949e"
        } else {
            "#2f81f7"
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#808890\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{bar:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{text}\" fill=\"#808890\">{times:.2}</text>",
            LEFT - 10.0,
            top + 4.0,
            ROW - 8.0,
            LEFT + bar + 8.0,
        );
        top += ROW;
    }
    svg + "</svg>\n"
}

#[test]
fn the_picture_shows_the_figures_of_the_tables() {
    let page = read("docs/speed.md");
    let figures = ["cost", "doors"].map(|table| figures(&page, table));
    for figures in &figures {
        assert!(figures.len() > 3, "{figures:?}");
    }
    let figures = figures.concat();
    settle("docs/speed.svg", &draw(&figures));
}
