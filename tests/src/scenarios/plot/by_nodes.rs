//! Evenness by the number of nodes, for a simulated scenario.

use std::collections::BTreeSet;

use plotters::prelude::*;

use super::{
    super::{
        measures::{Measures, Median},
        outcome::{Arm, Cell, Outcome},
        rows,
        simulation::{self, Point},
        words::arm_name,
    },
    Area, Axis, COLUMNS, Drawn, HEIGHT, INK, Side, TITLE, WIDTH, bold, font, frame, legend_entry, line_style,
    ticks,
};

/// The ideal, which others should cover.
const PALE: RGBColor = RGBColor(175, 175, 175);

/// A median and its interval, by the logarithm of the number of nodes.
type Curve = Vec<(f64, f64, (f64, f64))>;

pub(super) fn draw(outcome: &Outcome) -> Drawn<String> {
    let points = simulation::points(outcome);
    let arms: Vec<(Arm, &Cell)> = outcome
        .arms
        .iter()
        .filter(|(_, cell)| matches!(cell, Cell::Ran(_)))
        .map(|(arm, cell)| (*arm, cell))
        .collect();
    let ks: Vec<u64> = points.iter().map(|point| point.k).collect::<BTreeSet<_>>().into_iter().collect();
    let backends = rows::usual(outcome, |run| &run.connections).map_or(1, |(_, backends)| backends);
    // One more for the legend.
    let rows = (ks.len() + 1).div_ceil(COLUMNS);
    let mut text = String::new();
    {
        let size = (WIDTH * COLUMNS as u32, 40 + HEIGHT * rows as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(format!("{}: {}", outcome.name, outcome.title), (10, 8), bold(15.0)))?;
        let (_, body) = root.split_vertically(36);
        let areas = body.split_evenly((rows, COLUMNS));
        for (&k, area) in ks.iter().zip(&areas) {
            let nodes: Vec<u64> =
                points.iter().filter(|point| point.k == k).map(|point| point.nodes).collect();
            let curves: Vec<(Arm, Curve)> =
                arms.iter().map(|(arm, cell)| (*arm, curve(cell, k, &nodes))).collect();
            let best: Vec<(f64, f64)> = nodes
                .iter()
                .filter_map(|&nodes| {
                    Some(((nodes as f64).log2(), Measures::best(k * nodes, backends)?.max_over_mean))
                })
                .collect();
            panel(area, k, &curves, &best)?;
        }
        if let Some(area) = areas.get(ks.len()) {
            legend(area, &arms)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn curve(cell: &Cell, k: u64, nodes: &[u64]) -> Curve {
    let at = |&nodes: &u64| {
        let runs = simulation::at(cell, Point { k, nodes });
        let values =
            runs.filter_map(|run| Measures::of(&run.connections)).map(|measures| measures.max_over_mean);
        let median = Median::of(values)?;
        Some(((nodes as f64).log2(), median.value, median.interval.unwrap_or((median.value, median.value))))
    };
    nodes.iter().filter_map(at).collect()
}

fn panel(area: &Area<'_>, k: u64, curves: &[(Arm, Curve)], best: &[(f64, f64)]) -> Drawn {
    let (title_area, plot) = area.split_vertically(TITLE);
    let plural = if k == 1 { "connection" } else { "connections" };
    title_area.draw(&Text::new(format!("{k} {plural} per node"), (44, 8), bold(13.0)))?;
    let highs = curves.iter().flat_map(|(_, curve)| curve).map(|&(_, value, (_, high))| value.max(high));
    let high = highs.fold(1.0, f64::max);
    let top = 1.0 + ((high - 1.0) * 1.08).max(0.01);
    // Room below for the width of lines at 1.
    let low = 1.0 - (top - 1.0) * 0.04;
    let right = best.iter().map(|&(x, _)| x).fold(1.0, f64::max);
    let marks: Vec<f64> = ticks(0.0, top - 1.0, 4, 0.001).into_iter().map(|above| 1.0 + above).collect();
    let digits = if top < 1.2 { 2 } else { 1 };
    let nodes = Axis { range: 0.0..right, marks: best.iter().map(|&(x, _)| x).collect() };
    let evenness = Axis { range: low..top, marks };
    let mut chart = frame(
        &plot,
        Side { axis: nodes, what: "nodes", label: &|exponent| format!("{:.0}", exponent.exp2()) },
        Side { axis: evenness, what: "max/mean", label: &|value| format!("{value:.digits$}") },
    )?;
    for (arm, curve) in curves {
        let style = line_of(*arm, 1);
        let up = curve.iter().map(|&(x, _, (_, high))| (x, high));
        let down = curve.iter().rev().map(|&(x, _, (low, _))| (x, low));
        let band: Vec<(f64, f64)> = up.chain(down).collect();
        chart.draw_series([Polygon::new(band, style.color.mix(0.15).filled())])?;
    }
    for (index, (arm, curve)) in curves.iter().enumerate() {
        let style = line_of(*arm, curves.len() - index);
        let line = curve.iter().map(|&(x, value, _)| (x, value));
        chart.draw_series(LineSeries::new(line.clone(), style))?;
        let radius = 2 + (curves.len() - index) as i32;
        chart.draw_series(line.map(|at| Circle::new(at, radius, style.filled())))?;
    }
    chart.draw_series(DashedLineSeries::new(best.iter().copied(), 3, 3, INK.stroke_width(1)))?;
    Ok(())
}

/// The look of an arm's line: its colour is the same in every simulated scenario. What is drawn first is the widest, so
/// that it can be seen below lines that cover it.
fn line_of(arm: Arm, wide: usize) -> ShapeStyle {
    let index = match arm {
        Arm::ConnectOnly => 0,
        Arm::Iptables => 1,
        Arm::IpvsRr => 2,
        Arm::Direct => return PALE.stroke_width(2 * wide as u32),
        Arm::Rebalancing => 3,
        Arm::IpvsLc => 4,
        Arm::IpvsSed => 5,
        Arm::Nftables | Arm::IpvsSh => 7,
    };
    line_style(index).0.stroke_width(2 * wide as u32)
}

fn legend(area: &Area<'_>, arms: &[(Arm, &Cell)]) -> Drawn {
    let mut y = 40;
    for (index, (arm, _)) in arms.iter().enumerate() {
        let note = match arm {
            Arm::Direct => ", from a random server",
            Arm::Iptables => ": at random",
            Arm::IpvsRr => ", from the first server",
            _ => "",
        };
        legend_entry(
            area,
            (44, y),
            line_of(*arm, arms.len() - index),
            false,
            &format!("{}{note}", arm_name(*arm)),
        )?;
        y += 22;
    }
    legend_entry(area, (44, y), INK.stroke_width(1), true, "best possible")?;
    area.draw(&Text::new("band: 95% interval of the median", (44, y + 20), font(11.0)))?;
    area.draw(&Text::new("panels differ in the scale of max/mean", (44, y + 38), font(11.0)))?;
    Ok(())
}
