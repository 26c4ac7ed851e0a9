//! Where products go: columns of a matrix that one task alone writes.

use std::marker::PhantomData;
use std::ops::Range;

use super::PANEL;

/// Some panels' columns of some rows of a row-major matrix `[rows][stride]`, which may not have been written yet.
pub(super) struct Columns<'a> {
    first: *mut f32,
    stride: usize,
    rows: usize,
    panels: usize,
    memory: PhantomData<&'a mut f32>,
}

// SAFETY: it is a `&mut` to memory that nobody else has (`Output::columns`).
unsafe impl Send for Columns<'_> {}

impl<'a> Columns<'a> {
    /// The first panels of a matrix `[rows]` of whole rows of panels.
    pub fn of<const WIDE: usize>(rows: &'a mut [[[f32; PANEL]; WIDE]], panels: usize) -> Self {
        assert!((1..=WIDE).contains(&panels), "panels of this matrix");
        let first = rows.as_mut_ptr().cast();
        Columns { first, stride: WIDE * PANEL, rows: rows.len(), panels, memory: PhantomData }
    }

    /// Some of the rows, as long as nobody uses all of them.
    pub fn rows(&mut self, rows: Range<usize>) -> Columns<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of this matrix");
        // SAFETY: the rows are within the matrix.
        let first = unsafe { self.first.add(rows.start * self.stride) };
        Columns { first, rows: rows.len(), memory: PhantomData, ..*self }
    }

    /// The first value of the first row; the next row is [`Self::stride`] values on.
    pub fn first(&mut self) -> *mut f32 {
        self.first
    }

    /// Values from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// How many rows.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// How many panels of 16 columns lie side by side.
    pub fn panels(&self) -> usize {
        self.panels
    }
}

/// A matrix that is being computed: `[rows, outputs]`, with room for whole tiles of rows and whole panels.
pub(super) struct Output {
    values: Vec<f32>,
    rows: usize,
    outputs: usize,
}

/// Rows that are written together at most.
const TILE: usize = 16;

impl Output {
    pub fn new(rows: usize, outputs: usize) -> Self {
        let values = Vec::with_capacity(rows.next_multiple_of(TILE) * outputs.next_multiple_of(PANEL));
        Self { values, rows, outputs }
    }

    fn stride(&self) -> usize {
        self.outputs.next_multiple_of(PANEL)
    }

    /// All columns, in pieces of so many panels or less, from left to right. What is behind the last row up to a whole tile
    /// may be written too.
    pub fn columns(&mut self, panels: usize) -> impl Iterator<Item = Columns<'_>> {
        let (stride, rows) = (self.stride(), self.rows.next_multiple_of(TILE));
        let first = self.values.spare_capacity_mut().as_mut_ptr().cast::<f32>();
        let all = stride / PANEL;
        (0..all).step_by(panels).map(move |panel| Columns {
            // SAFETY: the column is within the first row. No two pieces have a column in common.
            first: unsafe { first.add(panel * PANEL) },
            stride,
            rows,
            panels: panels.min(all - panel),
            memory: PhantomData,
        })
    }

    /// The matrix without what fills up the last panel.
    ///
    /// # Safety
    /// All columns of all rows have been written.
    pub unsafe fn finish(self) -> Vec<f32> {
        let (stride, Self { mut values, rows, outputs }) = (self.stride(), self);
        // SAFETY: the memory is large enough, and written (the caller's promise).
        unsafe { values.set_len(rows * stride) };
        if stride > outputs {
            for row in 1..rows {
                values.copy_within(row * stride..row * stride + outputs, row * outputs);
            }
            values.truncate(rows * outputs);
        }
        values
    }
}
