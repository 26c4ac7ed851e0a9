//! The loss of a run as a picture (SVG), made from its log.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Size of the picture, in SVG's units.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 400.0;
/// The sides of the part in which the lines are drawn.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 32.0;
const BOTTOM: f64 = HEIGHT - 44.0;

/// Most points of a line: more cannot be told apart.
const COLUMNS: usize = 360;

/// Weight of the past in the running mean.
const PAST: f64 = 0.98;

/// A line of the log.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Point {
    update: u64,
    loss: f64,
}

/// Draw the log of a run: the loss of each update, pale, and its running mean. The picture is replaced whole or not at
/// all. Lines that are no update are passed over, and an update that was made again counts as it was made last.
///
/// # Errors
/// The log cannot be read or the picture not written.
pub fn write(log: &Path, picture: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(log).with_context(|| format!("cannot read the log {}", log.display()))?;
    let mut points: Vec<Point> = Vec::new();
    for point in text.lines().filter_map(|line| serde_json::from_str::<Point>(line).ok()) {
        while points.last().is_some_and(|last| last.update >= point.update) {
            points.pop();
        }
        points.push(point);
    }
    let svg = draw(&points);
    super::files::replace(picture, |file| Ok(file.write_all(svg.as_bytes())?))
}

/// Values on a side of the picture.
struct Axis {
    low: f64,
    high: f64,
    /// Where the lowest and the highest value lie.
    ends: [f64; 2],
}

impl Axis {
    /// An axis that shows all `values`.
    fn over(values: impl Iterator<Item = f64>, ends: [f64; 2]) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        match high - low {
            span if span > 0.0 && span.is_finite() => Self { low, high, ends },
            _ if low.is_finite() => Self { low: low - 0.5, high: low + 0.5, ends },
            _ => Self { low: 0.0, high: 1.0, ends },
        }
    }

    fn at(&self, value: f64) -> f64 {
        self.ends[0] + (value - self.low) / (self.high - self.low) * (self.ends[1] - self.ends[0])
    }

    /// Round values, about five of them, and the decimals that tell them apart.
    fn ticks(&self) -> (Vec<f64>, usize) {
        let rough = (self.high - self.low) / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * unit);
        let first = (self.low / step).ceil() as i64;
        let values = (first..).map(|n| n as f64 * step).take_while(|v| *v <= self.high).collect();
        (values, (-step.log10().floor()).max(0.0) as usize)
    }
}

/// At most [`COLUMNS`] points, each the mean of as many neighbours.
fn thinned(points: &[Point]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(COLUMNS).max(1);
    let mean = |part: &[Point]| {
        let middle = part[part.len() / 2].update as f64;
        (middle, part.iter().map(|p| p.loss).sum::<f64>() / part.len() as f64)
    };
    points.chunks(group).map(mean).collect()
}

/// Exponential means of all losses so far; the weights of the first few are scaled up to a sum of one.
fn running_mean(points: &[Point]) -> Vec<Point> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut next = |p: &Point| {
        sum = PAST * sum + (1.0 - PAST) * p.loss;
        weight = PAST * weight + (1.0 - PAST);
        Point { update: p.update, loss: sum / weight }
    };
    points.iter().map(&mut next).collect()
}

fn draw(points: &[Point]) -> String {
    let mean = running_mean(points);
    let (losses, means) = (thinned(points), thinned(&mean));
    let both = || losses.iter().chain(&means);
    let x = Axis::over(both().map(|p| p.0), [LEFT, RIGHT]);
    let y = Axis::over(both().map(|p| p.1), [BOTTOM, TOP]);
    let title = match (points.last(), mean.last()) {
        (Some(last), Some(mean)) => format!("loss {:.4} after {} updates", mean.loss, last.update),
        _ => "no update yet".to_owned(),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let mut push = |line: std::fmt::Arguments| writeln!(svg, "{line}").expect("a text takes everything");
    let (values, decimals) = y.ticks();
    for value in values {
        let at = y.at(value);
        push(format_args!(
            "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{value:.decimals$}</text>",
            LEFT - 6.0,
            at + 4.0
        ));
    }
    for value in x.ticks().0 {
        let at = x.at(value);
        push(format_args!(
            "<path d=\"M{at:.1} {BOTTOM}v5\" stroke=\"#000\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{value}</text>",
            BOTTOM + 18.0
        ));
    }
    push(format_args!("<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#000\"/>"));
    push(format_args!("<text x=\"{RIGHT}\" y=\"{:.1}\" text-anchor=\"end\">updates</text>", HEIGHT - 8.0));
    for (line, colour) in [(&losses, "#b9cbe4"), (&means, "#1f4e8c")] {
        let places: Vec<String> =
            line.iter().map(|(update, loss)| format!("{:.1},{:.1}", x.at(*update), y.at(*loss))).collect();
        push(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            places.join(" ")
        ));
    }
    svg + "</svg>\n"
}
