//! Records sorted into columns (what is compared) and rows (what it is compared at).

use std::path::Path;

use anyhow::{Context, Result};

use super::interval::Grid;
use crate::train::evaluate::grid::name;
use crate::train::evaluate::results::Record;

/// Records of one column and one row: repetitions of an experiment.
#[derive(Debug)]
pub struct Cell {
    /// Position of the column.
    pub column: usize,
    /// Position of the row.
    pub row: usize,
    /// Which questions were solved, one repetition a record.
    pub solved: Grid,
    /// Mean forward passes of an answer.
    pub nfe: f64,
}

/// A table's content.
#[derive(Debug)]
pub struct Groups {
    /// Names of the columns: labels, with what differs within a label.
    pub columns: Vec<String>,
    /// Names of the rows: what differs between them.
    pub rows: Vec<String>,
    /// What all rows have in common.
    pub shared: String,
    /// At most one per column and row.
    pub cells: Vec<Cell>,
}

/// The positions of equal things in the order of their first appearance.
fn position<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|other| *other == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

/// What stands in every list.
pub fn shared(lists: &[&Vec<String>]) -> Vec<String> {
    let first = lists.first().copied().cloned().unwrap_or_default();
    first.into_iter().filter(|part| lists.iter().all(|list| list.contains(part))).collect()
}

/// A label and the parts that not all lists of the same label share.
pub fn names(all: &[(String, Vec<String>)]) -> Vec<String> {
    let name = |(label, parts): &(String, Vec<String>)| {
        let same: Vec<&Vec<String>> = all.iter().filter(|(l, _)| l == label).map(|(_, p)| p).collect();
        let common = shared(&same);
        let own = parts.iter().filter(|part| !common.contains(part));
        std::iter::once(label).chain(own).filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join(", ")
    };
    all.iter().map(name).collect()
}

/// Records that are measured once: of those that differ in nothing but the result, the last.
pub fn latest(records: &[Record]) -> Vec<&Record> {
    let same = |a: &Record, b: &Record| a.subject == b.subject && a.setting == b.setting;
    let later = |at: usize| records[at + 1..].iter().any(|other| same(&records[at], other));
    (0..records.len()).filter(|at| !later(*at)).map(|at| &records[at]).collect()
}

impl Groups {
    /// Sort records.
    ///
    /// # Errors
    /// Repetitions have different numbers of questions.
    pub fn of(records: &[Record]) -> Result<Self> {
        let (mut columns, mut rows, mut members) = (Vec::new(), Vec::new(), Vec::<(_, Vec<&Record>)>::new());
        for record in latest(records) {
            let column = position(&mut columns, (record.subject.label.clone(), record.setting.method()));
            let row = position(&mut rows, (String::new(), budget(record)));
            let place = (column, row);
            match members.iter_mut().find(|(other, _)| *other == place) {
                Some((_, cell)) => cell.push(record),
                None => members.push((place, vec![record])),
            }
        }
        let columns = names(&columns);
        let mut shared = shared(&rows.iter().map(|(_, parts)| parts).collect::<Vec<_>>());
        let mut rows = names(&rows);
        if let [only] = rows.as_mut_slice() {
            // A single row shares everything with itself; its selection rule comes first.
            *only = shared.remove(0);
        }
        let cell = |((column, row), records): ((usize, usize), Vec<&Record>)| {
            let bits = records.iter().map(|record| record.measured.solved_rows.as_str());
            let solved = Grid::of_bits(bits).with_context(|| {
                format!("{:?} at {:?}: repetitions differ in their questions", columns[column], rows[row])
            })?;
            let nfe = records.iter().map(|r| r.measured.nfe).sum::<f64>() / records.len() as f64;
            Ok(Cell { column, row, solved, nfe })
        };
        let cells = members.into_iter().map(cell).collect::<Result<_>>()?;
        Ok(Self { columns, rows, shared: shared.join(", "), cells })
    }

    /// The cell of a column and a row.
    pub fn cell(&self, column: usize, row: usize) -> Option<&Cell> {
        self.cells.iter().find(|cell| (cell.column, cell.row) == (column, row))
    }
}

/// What a record can be compared at.
fn budget(record: &Record) -> Vec<String> {
    let file = Path::new(&record.subject.data).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut parts = record.setting.budget();
    parts.push(name(&record.subject.suite));
    parts.push(file.unwrap_or_default());
    parts.push(format!("{} questions", record.measured.rows));
    parts
}
