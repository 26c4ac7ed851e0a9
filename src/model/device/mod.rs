//! What a pass needs where weights and K/V lie on a device: everything that it is told goes up in one piece, and what is
//! launched is counted. All of it runs on the CPU too, so that tests without a device see the same operations.

pub mod adapters;
pub mod counts;
pub mod upload;

pub use counts::{Counts, Op, Tally};
pub use upload::{Span, Upload, Uploaded};
