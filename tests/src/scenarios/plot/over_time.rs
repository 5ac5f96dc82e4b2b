//! Connections per backend over time.

use plotters::prelude::*;

use super::{
    super::{
        outcome::{Arm, Outcome, Run},
        words::arm_name,
    },
    Area, Axis, COLUMNS, Drawn, HEIGHT, MEAN, Side, TITLE, WIDTH, bold, frame, legend_entry, line_style,
    plotted, ticks, width_of,
};

/// Pixels between lines of the same value, so that none hides another.
const APART: f64 = 2.0;
/// How many pixels all of them take at most.
const STACK: f64 = 16.0;

/// What all panels share.
struct Axes {
    seconds: f64,
    most: f64,
    backends: usize,
}

impl Axes {
    /// How far apart lines of the same value are drawn, in connections.
    fn apart(&self) -> f64 {
        let pixel = self.most / f64::from(HEIGHT - 66);
        pixel * APART.min(STACK / self.backends.max(1) as f64)
    }
}

pub(super) fn draw(outcome: &Outcome) -> Drawn<String> {
    let panels: Vec<(Arm, &Run)> = plotted(outcome).collect();
    let samples = || panels.iter().flat_map(|(_, run)| &run.samples);
    let most = samples().flat_map(|sample| sample.open.iter().copied()).max().unwrap_or(0);
    let axes = Axes {
        seconds: samples().map(|sample| sample.seconds).fold(0.0, f64::max).max(0.001),
        most: f64::from(most.max(1)) * 1.08,
        backends: samples().map(|sample| sample.open.len()).max().unwrap_or(0),
    };
    let columns = panels.len().min(COLUMNS);
    let rows = panels.len().div_ceil(COLUMNS);
    // Of the title nobody knows how wide it is: 9 pixels for a letter are enough.
    let title = format!("{}: {}", outcome.name, outcome.title);
    let width = (WIDTH * columns as u32).max(640).max(20 + 9 * title.chars().count() as u32);
    let (legend, lines) = legend(axes.backends, width as i32 - 20);
    let head = 36 + 20 * lines;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (width, head as u32 + HEIGHT * rows as u32))
            .into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(title, (10, 8), bold(15.0)))?;
        for (at, style, dashed, words) in legend {
            legend_entry(&root, at, style, dashed, &words)?;
        }
        let (_, body) = root.split_vertically(head);
        for ((arm, run), area) in panels.iter().zip(body.split_evenly((rows, columns))) {
            panel(&area, arm_name(*arm), run, &axes)?;
        }
        root.present()?;
    }
    Ok(text)
}

type Entry = ((i32, i32), ShapeStyle, bool, String);

/// Where each entry of the legend stands, and how many lines they take.
fn legend(backends: usize, width: i32) -> (Vec<Entry>, i32) {
    let servers = (0..backends).map(|index| {
        let (style, dashed) = line_style(index);
        (style, dashed, format!("server {}", index + 1))
    });
    let mean = (MEAN.stroke_width(1), false, "an even share".to_owned());
    let (mut x, mut line) = (10, 0);
    let entries = servers.chain([mean]).map(|(style, dashed, words)| {
        let wide = width_of(&words);
        if x + wide > width && x > 10 {
            (x, line) = (10, line + 1);
        }
        let at = (x, 42 + 20 * line);
        x += wide;
        (at, style, dashed, words)
    });
    let entries: Vec<Entry> = entries.collect();
    (entries, line + 1)
}

fn panel(area: &Area<'_>, title: &str, run: &Run, axes: &Axes) -> Drawn {
    let (title_area, plot) = area.split_vertically(TITLE);
    title_area.draw(&Text::new(title.to_owned(), (44, 8), bold(13.0)))?;
    let x = Axis { range: 0.0..axes.seconds, marks: ticks(0.0, axes.seconds, 5, 0.001) };
    let apart = axes.apart();
    // Room below for the lines at 0 that are moved down.
    let low = -apart * (axes.backends as f64 / 2.0 + 1.0);
    let y = Axis { range: low..axes.most, marks: ticks(0.0, axes.most, 4, 1.0) };
    let mut chart = frame(
        &plot,
        Side { axis: x, what: "seconds", label: &|seconds| format!("{seconds}") },
        Side { axis: y, what: "open connections", label: &|open| format!("{open:.0}") },
    )?;
    // Servers that are to be used in the end: who carries the rest once a change is done.
    let used = run.connections.len().max(1) as f64;
    let mean = run.samples.iter().map(|sample| {
        let open: u32 = sample.open.iter().sum();
        (sample.seconds, f64::from(open) / used)
    });
    chart.draw_series(LineSeries::new(mean, MEAN.stroke_width(1)))?;
    for index in 0..axes.backends {
        let shift = (index as f64 - (axes.backends as f64 - 1.0) / 2.0) * apart;
        let points = run.samples.iter().filter_map(|sample| {
            let open = f64::from(*sample.open.get(index)?);
            Some((sample.seconds, open + shift))
        });
        let (style, dashed) = line_style(index);
        if dashed {
            chart.draw_series(DashedLineSeries::new(points, 5, 3, style))?;
        } else {
            chart.draw_series(LineSeries::new(points, style))?;
        }
    }
    Ok(())
}
