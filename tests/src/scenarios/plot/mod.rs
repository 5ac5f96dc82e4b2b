//! Scenarios as pictures: SVG on white, with text as text.
//!
//! - `over_time`: connections per backend over time, a panel for each arm;
//! - `by_nodes`: a simulated scenario: max/mean by number of nodes, a panel for each number of connections.

use std::{error::Error, ops::Range};

use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint},
    },
    prelude::*,
};
use thiserror::Error;

use super::{
    outcome::{Cell, Outcome, Run},
    report::Report,
    simulation,
};

mod by_nodes;
mod over_time;

/// What a scenario is drawn as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connections per backend over time.
    OverTime,
    /// Evenness by the number of nodes.
    ByNodes,
}

/// A scenario that could not be drawn.
#[derive(Debug, Error)]
#[error("the plot of scenario {scenario:?} could not be drawn: {why}")]
pub struct PlotError {
    scenario: String,
    why: Box<dyn Error + Send + Sync>,
}

/// What `outcome` is drawn as; none if it has nothing that could be.
pub fn kind(outcome: &Outcome) -> Option<Kind> {
    if simulation::points(outcome).len() > 1 {
        Some(Kind::ByNodes)
    } else {
        plotted(outcome).next().map(|_| Kind::OverTime)
    }
}

/// What is to be seen on it, in a line.
pub fn caption(outcome: &Outcome) -> &'static str {
    match kind(outcome) {
        Some(Kind::ByNodes) => "max/mean by number of nodes, median and 95% interval",
        _ => {
            "open connections by server over time, the first run of each arm; lines of the same value are side by side"
        }
    }
}

/// Draws `outcome` as an SVG document; nothing if it has nothing that could be drawn.
///
/// # Errors
/// If the plotting library finds the figures impossible to draw.
pub fn draw(outcome: &Outcome) -> Result<Option<String>, PlotError> {
    let Some(kind) = kind(outcome) else { return Ok(None) };
    let drawn = match kind {
        Kind::OverTime => over_time::draw(outcome),
        Kind::ByNodes => by_nodes::draw(outcome),
    };
    drawn.map(Some).map_err(|why| PlotError { scenario: outcome.name.clone(), why })
}

impl Report {
    /// A file name and an SVG document for each scenario that can be drawn.
    ///
    /// # Errors
    /// As [`draw`].
    pub fn plots(&self) -> Result<Vec<(String, String)>, PlotError> {
        let plots = self
            .outcomes
            .iter()
            .map(|outcome| Ok(draw(outcome)?.map(|document| (format!("{}.svg", outcome.name), document))));
        plots.filter_map(Result::transpose).collect()
    }
}

/// The arms that have samples, with the run that is shown: the first.
fn plotted(outcome: &Outcome) -> impl Iterator<Item = (super::outcome::Arm, &Run)> {
    outcome.arms.iter().filter_map(|(arm, cell)| match cell {
        Cell::Ran(runs) => runs.first().filter(|run| run.samples.len() > 1).map(|run| (*arm, run)),
        Cell::NotRun(_) => None,
    })
}

type Drawn<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours that stay apart for people with any colour vision (M. Okabe and K. Ito, 2002), without the yellow, which
/// is hard to see on white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(228, 228, 228);
const MEAN: RGBColor = RGBColor(120, 120, 120);

/// Width of a panel in pixels.
const WIDTH: u32 = 330;
/// Height of a panel.
const HEIGHT: u32 = 215;
/// Height of the title of a panel.
const TITLE: i32 = 24;
/// Panels in a row.
const COLUMNS: usize = 3;

/// The look of the line number `index`: colours, then the same ones dashed.
fn line_style(index: usize) -> (ShapeStyle, bool) {
    let colour = COLOURS[index % COLOURS.len()];
    (colour.stroke_width(2), (index / COLOURS.len()) % 2 == 1)
}

fn font(size: f64) -> TextStyle<'static> {
    // The backend divides sizes by 1.24.
    ("sans-serif", size * 1.24).into_font().color(&INK)
}

fn bold(size: f64) -> TextStyle<'static> {
    ("sans-serif", size * 1.24, FontStyle::Bold).into_font().color(&INK)
}

/// A short piece of line and its meaning, at `(x, y)`.
fn legend_entry(area: &Area<'_>, (x, y): (i32, i32), style: ShapeStyle, dashed: bool, text: &str) -> Drawn {
    let pieces: &[(i32, i32)] = if dashed { &[(0, 6), (9, 15), (18, 24)] } else { &[(0, 24)] };
    for &(from, to) in pieces {
        area.draw(&PathElement::new([(x + from, y), (x + to, y)], style))?;
    }
    area.draw(&Text::new(text.to_owned(), (x + 30, y - 6), font(12.0)))?;
    Ok(())
}

/// How wide `text` is, about, at the size of legends: there is no font to ask.
fn width_of(text: &str) -> i32 {
    30 + 7 * text.chars().count() as i32 + 18
}

/// A linear axis with marks of our choice.
struct Axis {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// One side of a panel.
struct Side<'l> {
    axis: Axis,
    what: &'l str,
    /// What stands at a mark.
    label: &'l dyn Fn(&f64) -> String,
}

/// Draws a panel's grid, axes and their titles; lines go into what it returns.
fn frame<'a>(
    plot: &Area<'a>,
    x: Side<'_>,
    y: Side<'_>,
) -> Drawn<ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>> {
    let mut chart = ChartBuilder::on(plot)
        .margin_left(6)
        .margin_right(14)
        .margin_bottom(4)
        .margin_top(4)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(x.axis, y.axis)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(font(11.0))
        .axis_desc_style(font(11.0))
        .x_desc(x.what)
        .y_desc(y.what)
        .x_label_formatter(x.label)
        .y_label_formatter(y.label)
        .draw()?;
    Ok(chart)
}

/// Round numbers from `low` to `high`, about `count` of them, never closer than `least`.
fn ticks(low: f64, high: f64, count: usize, least: f64) -> Vec<f64> {
    let rough = ((high - low) / count.max(1) as f64).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|&step| step >= rough * 0.7);
    let step = step.unwrap_or(10.0 * power).max(least);
    let first = (low / step - 1e-9).ceil() as i64;
    (first..).map(|n| n as f64 * step).take_while(|&tick| tick <= high + step * 1e-9).collect()
}

#[cfg(test)]
#[path = "../plot_tests.rs"]
mod tests;
