//! What the device was asked for, counted where it is asked: kernels, copies to and from it, and their bytes.

use std::cell::Cell;

/// The operations of a pass, by what candle 0.11 launches for one on CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `index_select`: one kernel; candle sends the shape of the indices along.
    Select,
    /// `gather`: one kernel.
    Gather,
    /// `scatter_set`: one kernel.
    Scatter,
    /// `index_add`: a copy and a kernel.
    IndexAdd,
    /// A tensor whose order changes is copied by one kernel; candle sends its shape along.
    Reorder,
    /// Each part of a `cat`: one copy.
    Join,
    /// `to_dtype`: one kernel.
    Cast,
    /// `matmul`: one product of cuBLAS, batched or not.
    Product,
    /// An operation per number of whole tensors: one kernel.
    Elementwise,
    /// The same, a row or a column to all rows: one kernel; candle sends the shapes along.
    Broadcast,
    /// A sum, a least one, an arg-max of each row: one kernel; candle sends the shape along.
    Reduce,
    /// Soft-max, RMSNorm, rotation, silu: one fused kernel.
    Fused,
    /// Attention of segments of different lengths: memory for its sums is cleared, and one kernel.
    Varlen,
    /// Memory that is filled with one number.
    Fill,
}

impl Op {
    /// Kernels, and copies on the device.
    fn launches(self) -> u64 {
        if matches!(self, Self::IndexAdd | Self::Varlen) { 2 } else { 1 }
    }

    /// Small copies of shapes (some dozen bytes) that candle makes on its own.
    fn shapes(self) -> u64 {
        u64::from(matches!(self, Self::Select | Self::Reorder | Self::Broadcast | Self::Reduce))
    }
}

/// What was counted until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Kernels, products, and copies on the device.
    pub launches: u64,
    /// Copies of shapes that candle makes for some of them.
    pub shapes: u64,
    /// Copies to the device.
    pub uploads: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Copies from the device, each of which waits for it.
    pub downloads: u64,
    /// Their bytes.
    pub downloaded_bytes: u64,
}

impl Tally {
    /// What came since an `earlier` one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            launches: self.launches - earlier.launches,
            shapes: self.shapes - earlier.shapes,
            uploads: self.uploads - earlier.uploads,
            uploaded_bytes: self.uploaded_bytes - earlier.uploaded_bytes,
            downloads: self.downloads - earlier.downloads,
            downloaded_bytes: self.downloaded_bytes - earlier.downloaded_bytes,
        }
    }
}

/// Counts for one thread.
#[derive(Debug, Default)]
pub struct Counts(Cell<Tally>);

impl Counts {
    /// So many operations of a kind.
    pub fn add(&self, op: Op, times: usize) {
        let (mut tally, times) = (self.0.get(), times as u64);
        tally.launches += op.launches() * times;
        tally.shapes += op.shapes() * times;
        self.0.set(tally);
    }

    /// A copy to the device.
    pub fn upload(&self, bytes: usize) {
        let mut tally = self.0.get();
        tally.uploads += 1;
        tally.uploaded_bytes += bytes as u64;
        self.0.set(tally);
    }

    /// A copy from the device.
    pub fn download(&self, bytes: usize) {
        let mut tally = self.0.get();
        tally.downloads += 1;
        tally.downloaded_bytes += bytes as u64;
        self.0.set(tally);
    }

    /// All until now.
    pub fn tally(&self) -> Tally {
        self.0.get()
    }
}
