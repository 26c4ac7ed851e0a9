//! Training data: the Countdown generator, JSONL rows, and rows as tokens.

pub mod countdown;
pub mod rows;

pub use rows::{Row, TokenRows};
