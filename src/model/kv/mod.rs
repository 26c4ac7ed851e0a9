//! K/V memory of all sequences, and the attention that reads it.

mod flash;
pub mod gathered;
mod padded;
pub mod pool;
pub mod ranges;
pub mod slots;
mod strips;
mod varlen;

use candle_core::{Result, Tensor};

/// K/V memory as one pass sees it.
pub trait Attend {
    /// Attention of one layer: the rows of all segments write their K/V, then each segment's rows attend to what its slot
    /// shows them. q `[rows, H, h]`, k and v `[rows, G, h]` → `[rows, H * h]`; q and k are rotated.
    ///
    /// # Errors
    /// A slot is not open, or the device fails.
    fn attend(&self, layer: usize, qkv: (&Tensor, &Tensor, &Tensor)) -> Result<Tensor>;
}
