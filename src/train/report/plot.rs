//! Accuracy as lines of an SVG picture.

use std::fmt::Write;

use clap::ValueEnum;

use super::groups::{latest, names};
use super::interval::{Estimate, Grid};
use crate::train::evaluate::grid::{Setting, name};
use crate::train::evaluate::results::Record;

/// What accuracy is drawn against. What differs in nothing else is one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// Visible tokens per forward pass, whatever the number of steps, the threshold or the factor
    TokensPerForward,
    /// Forward passes per answer, likewise
    Nfe,
    /// Weight of the mask embedding
    Alpha,
    /// Candidates that a soft token mixes
    KSoft,
    /// Positions per block
    BlockLength,
}

/// A point of a line: repetitions of one experiment.
#[derive(Debug)]
struct Point {
    x: f64,
    y: Estimate,
}

/// A named line, its points by rising x.
#[derive(Debug)]
struct Line {
    name: String,
    points: Vec<Point>,
}

/// Width and height of the picture, and the edges of the plotting area: left, top, right, bottom.
const SIZE: (f64, f64) = (720.0, 440.0);
const AREA: [f64; 4] = [60.0, 40.0, 460.0, 385.0];
/// Told apart by people who do not see all colours (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

impl Axis {
    fn label(self) -> &'static str {
        match self {
            Self::TokensPerForward => "tokens per forward pass",
            Self::Nfe => "forward passes per answer",
            Self::Alpha => "alpha",
            Self::KSoft => "k",
            Self::BlockLength => "block length",
        }
    }

    fn of(self, record: &Record) -> Option<f64> {
        let decode = &record.setting.decode;
        match self {
            Self::TokensPerForward => Some(record.measured.tokens_per_forward),
            Self::Nfe => Some(record.measured.nfe),
            Self::Alpha => decode.alpha,
            Self::KSoft => decode.k_soft.map(|k| k as f64),
            Self::BlockLength => decode.block_length.map(|length| length as f64),
        }
    }

    /// What the points of a line have in common.
    fn line(self, record: &Record) -> (String, Vec<String>) {
        let mut setting: Setting = record.setting.clone();
        let decode = &mut setting.decode;
        let mut parts = Vec::new();
        match self {
            Self::TokensPerForward | Self::Nfe => {
                let rules = [
                    decode.steps.take().map(|_| "fixed steps"),
                    decode.threshold.take().map(|_| "threshold"),
                ];
                parts.push(rules.into_iter().flatten().next().unwrap_or("factor").to_owned());
                decode.factor = None;
            }
            Self::Alpha => decode.alpha = None,
            Self::KSoft => decode.k_soft = None,
            Self::BlockLength => decode.block_length = None,
        }
        parts.extend(setting.method());
        parts.extend(setting.budget());
        parts.push(name(&record.subject.suite));
        parts.push(record.subject.data.clone());
        (record.subject.label.clone(), parts)
    }
}

/// The picture, or `None` if no record has a place on the axis.
pub fn draw(records: &[Record], axis: Axis, title: &str) -> Option<String> {
    let lines = lines(records, axis);
    let points = || lines.iter().flat_map(|line| &line.points);
    let xs = scale(points().map(|p| p.x))?;
    let ys = scale(points().flat_map(|p| p.y.interval).map(|share| 100.0 * share))?;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        SIZE.0, SIZE.1
    );
    frame(&mut out, axis, title, (&xs, &ys));
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        // Past the last colour, lines are dashed.
        let dash = if number < COLOURS.len() { "none" } else { "6 3" };
        let at = |p: &Point| (xs.at(p.x, AREA[0], AREA[2]), ys.at(100.0 * p.y.mean, AREA[3], AREA[1]));
        let path: Vec<String> = line.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            path.join(" ")
        );
        for point in &line.points {
            let (x, y) = at(point);
            let [low, high] = point.y.interval.map(|share| ys.at(100.0 * share, AREA[3], AREA[1]));
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{low:.1}\" x2=\"{x:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\" \
                 stroke-opacity=\"0.4\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
        let y = AREA[1] + 10.0 + 18.0 * number as f64;
        let x = AREA[2] + 15.0;
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dash}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 20.0,
            x + 26.0,
            y + 4.0,
            escaped(&line.name)
        );
    }
    Some(out + "</svg>\n")
}

fn lines(records: &[Record], axis: Axis) -> Vec<Line> {
    type Point<'a> = (Setting, Vec<&'a Record>);
    let mut keys: Vec<(String, Vec<String>)> = Vec::new();
    let mut all: Vec<Vec<Point>> = Vec::new();
    for record in latest(records).into_iter().filter(|record| axis.of(record).is_some()) {
        let key = axis.line(record);
        let at = keys.iter().position(|other| *other == key).unwrap_or_else(|| {
            keys.push(key);
            all.push(Vec::new());
            all.len() - 1
        });
        let setting = Setting { seed: 0, ..record.setting.clone() };
        match all[at].iter_mut().find(|(other, _)| *other == setting) {
            Some((_, repetitions)) => repetitions.push(record),
            None => all[at].push((setting, vec![record])),
        }
    }
    let point = |(_, repetitions): &Point| {
        let xs = repetitions.iter().filter_map(|record| axis.of(record));
        let solved = Grid::of_bits(repetitions.iter().map(|r| r.measured.solved_rows.as_str()))?;
        Some(self::Point { x: xs.sum::<f64>() / repetitions.len() as f64, y: solved.share() })
    };
    let line = |(name, points): (String, &Vec<Point>)| {
        let mut points: Vec<_> = points.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Line { name, points }
    };
    std::iter::zip(names(&keys), &all).map(line).collect()
}

/// A range with round ends and a round distance of its marks.
#[derive(Debug, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

fn scale(values: impl Iterator<Item = f64>) -> Option<Scale> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if !(low.is_finite() && high.is_finite()) {
        return None;
    }
    // One value gets room on both sides.
    let (low, high) = if high - low < 1e-9 { (low - 0.5, high + 0.5) } else { (low, high) };
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|n| n * power >= rough).unwrap_or(10.0);
    Some(Scale { low: (low / step).floor() * step, high: (high / step).ceil() * step, step })
}

impl Scale {
    /// Where a value lies between two edges.
    fn at(&self, value: f64, from: f64, to: f64) -> f64 {
        from + (to - from) * (value - self.low) / (self.high - self.low)
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|n| self.low + n as f64 * self.step)
    }

    /// A mark without digits that say nothing.
    fn text(&self, mark: f64) -> String {
        let digits = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{mark:.digits$}")
    }
}

/// Title, grid, marks and the names of the axes.
fn frame(out: &mut String, axis: Axis, title: &str, (xs, ys): (&Scale, &Scale)) {
    let [left, top, right, bottom] = AREA;
    let (middle, centre) = ((left + right) / 2.0, (top + bottom) / 2.0);
    for mark in xs.marks() {
        let x = xs.at(mark, left, right);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            xs.text(mark)
        );
    }
    for mark in ys.marks() {
        let y = ys.at(mark, bottom, top);
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            ys.text(mark)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"22\" text-anchor=\"middle\" font-size=\"14\">{}</text>\
         <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(16 {centre}) rotate(-90)\" text-anchor=\"middle\">solved %</text>",
        escaped(title),
        bottom + 36.0,
        axis.label()
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_hold_every_value() {
        let of = |values: &[f64]| scale(values.iter().copied()).map(|s| (s.low, s.high, s.step));
        assert_eq!(of(&[3.0, 96.0]), Some((0.0, 100.0, 20.0)));
        assert_eq!(of(&[1.0, 4.0]), Some((1.0, 4.0, 1.0)));
        assert_eq!(of(&[7.0]), Some((6.4, 7.6000000000000005, 0.2)));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN]), None);
    }

    #[test]
    fn marks_show_as_many_digits_as_they_need() {
        let scale = Scale { low: 0.0, high: 0.6, step: 0.2 };
        assert_eq!(scale.marks().map(|m| scale.text(m)).collect::<Vec<_>>(), ["0.0", "0.2", "0.4", "0.6"]);
        let scale = Scale { low: 0.0, high: 100.0, step: 50.0 };
        assert_eq!(scale.marks().map(|m| scale.text(m)).collect::<Vec<_>>(), ["0", "50", "100"]);
    }
}
