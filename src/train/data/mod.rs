//! Training data: generators, JSONL rows, and rows as tokens.

pub mod chain;
pub mod countdown;
pub mod rows;
pub mod tokens;

pub use rows::Row;
pub use tokens::{TokenRow, TokenRows};
