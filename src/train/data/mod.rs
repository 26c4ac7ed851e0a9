//! Training data: generators, files of questions and answers, JSONL rows, and rows as tokens.

pub mod countdown;
pub mod prepare;
pub mod rows;
pub mod sorting;
pub mod sources;
pub mod tokens;

pub use rows::Row;
pub use tokens::{TokenRow, TokenRows};
