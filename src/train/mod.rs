//! Training: data, the network of differentiable operations, objectives, the optimizer, and the loop around them.
//!
//! `trainer` ([`run`]) goes: rows of JSONL ([`data`]) → tokens → a batch of one canvas length → noise drawn for it
//! ([`objective`]) → gradients, the batch split over threads → one update ([`optimizer`]) → checkpoint, export.
//! All randomness is counter-based ([`random`]), so a resumed run needs only weights, moments and two counters.

pub mod candidates;
pub mod card;
pub mod checkpoint;
pub mod curve;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod lora;
pub mod merge;
pub mod network;
pub mod objective;
pub mod ops;
pub mod optimizer;
pub mod random;
pub mod report;
pub mod run;
pub mod score;
pub mod settings;
pub mod suites;
pub mod tokenizer;
