//! Small plots side by side, as SVG: the x axis logarithmic, the y axis from 0.

use std::fmt::{Error, Write};

/// One plot.
pub struct Panel {
    pub title: &'static str,
    /// (x, tokens/s)
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 170.0;
/// Around the lines, for numbers and titles.
const MARGIN: f64 = 45.0;

/// All panels in a row.
pub fn draw(panels: &[Panel]) -> Result<String, Error> {
    let (width, height) = ((WIDTH + MARGIN) * panels.len() as f64 + MARGIN, HEIGHT + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let left = MARGIN + number as f64 * (WIDTH + MARGIN);
        panel.draw(&mut out, left)?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

impl Panel {
    fn draw(&self, out: &mut String, left: f64) -> Result<(), Error> {
        // 0 has no logarithm: it stands one step left of 1.
        let log = |x: f64| if x < 1.0 { -1.0 } else { x.log2() };
        let (first, last) =
            (self.points.first().map_or(0.0, |p| p.0), self.points.last().map_or(1.0, |p| p.0));
        let top = self.points.iter().fold(1.0, |top: f64, point| top.max(point.1)) * 1.1;
        let x = |value: f64| left + WIDTH * (log(value) - log(first)) / (log(last) - log(first)).max(1.0);
        let y = |value: f64| MARGIN + HEIGHT * (1.0 - value / top);
        let (right, bottom) = (left + WIDTH, MARGIN + HEIGHT);
        writeln!(out, "<path d=\"M{left} {MARGIN}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>")?;
        writeln!(out, "<text x=\"{left}\" y=\"{}\">tokens/s against {}</text>", MARGIN - 12.0, self.title)?;
        let line: Vec<String> = self.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>",
            line.join(" ")
        )?;
        for (value, speed) in &self.points {
            let (x, y) = (x(*value), y(*speed));
            writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/>")?;
            writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{speed:.0}</text>",
                y - 8.0
            )?;
            writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
                bottom + 16.0
            )?;
        }
        Ok(())
    }
}
