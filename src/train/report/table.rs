//! The table of a report.

use anyhow::{Context, Result};

use super::groups::{Cell, Groups};
use super::interval::Estimate;

/// A Markdown table: a row per budget, a column per method, and the differences from the column `against`.
///
/// # Errors
/// There is no such column, or it cannot be compared with another.
pub fn table(groups: &Groups, against: Option<&str>) -> Result<String> {
    let base = against.map(|name| column(groups, name)).transpose()?;
    let others: Vec<usize> = match base {
        Some(base) => (0..groups.columns.len()).filter(|column| *column != base).collect(),
        None => Vec::new(),
    };
    let minus = |column: &usize| format!("{} − {}", groups.columns[*column], against.unwrap_or_default());
    let heads: Vec<String> = groups.columns.iter().cloned().chain(others.iter().map(minus)).collect();
    let mut text = format!("{}; solved % [95 % interval], mean forward passes.\n\n", groups.shared);
    text += &format!("| | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for (row, name) in groups.rows.iter().enumerate() {
        let mut cells: Vec<String> =
            (0..groups.columns.len()).map(|c| groups.cell(c, row).map(shown).unwrap_or_default()).collect();
        for other in &others {
            let pair = groups.cell(*other, row).zip(base.and_then(|base| groups.cell(base, row)));
            cells.push(pair.map(|pair| difference(groups, pair)).transpose()?.unwrap_or_default());
        }
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    let most = groups.cells.iter().map(|cell| cell.solved.repetitions()).max().unwrap_or(1);
    if most > 1 {
        text += &format!("\nMeans of up to {most} repetitions; intervals count questions and repetitions.\n");
    }
    Ok(text)
}

fn column(groups: &Groups, name: &str) -> Result<usize> {
    groups.columns.iter().position(|column| column == name).with_context(|| {
        format!("there is no column {name:?}; the columns are {}", groups.columns.join(" | "))
    })
}

fn shown(cell: &Cell) -> String {
    let Estimate { mean, interval } = cell.solved.share();
    let [low, high] = interval.map(|bound| 100.0 * bound);
    format!("{:.1} [{low:.1}, {high:.1}], {:.1}", 100.0 * mean, cell.nfe)
}

fn difference(groups: &Groups, (cell, base): (&Cell, &Cell)) -> Result<String> {
    let paired = cell.solved.minus(&base.solved).with_context(|| {
        let (a, b) = (&groups.columns[cell.column], &groups.columns[base.column]);
        let counts = (cell.solved.repetitions(), base.solved.repetitions());
        format!("{a:?} has {} repetitions at {:?}, {b:?} has {}", counts.0, groups.rows[cell.row], counts.1)
    })?;
    let Estimate { mean, interval } = paired.mean();
    let [low, high] = interval.map(|bound| 100.0 * bound);
    Ok(format!("{:+.1} [{low:+.1}, {high:+.1}]", 100.0 * mean))
}
