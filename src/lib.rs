//! `evotoken`: an OpenAI-compatible server for masked diffusion language models, with EvoToken decoding.
//!
//! # Bird's-eye view
//!
//! A request goes one way through the crate, and every hand-over is one type:
//!
//! ```text
//! HTTP ─ api::schema ─> engine::request::GenerateRequest ─> engine (queue, slots, scheduler)
//!                                                              │  one tick: engine::batch::StepBatch
//!                                                              v
//!                                              backend ── model (packed rows, K/V slots)
//!                                                              │  engine::batch::StepOutput
//!                                                              v
//! SSE <─ service::stream::TextEvent <─ engine::event::BlockEvent <─ decode::State::advance
//! ```
//!
//! # Import rule
//!
//! `candle` is named only in [`model`], [`backend`] and [`train`]; `axum` and `utoipa` only in [`api`] and
//! `main`; `tokio` never in [`decode`], [`model`], [`backend`], [`train`] or the scheduler; the environment and
//! settings files are read only in [`config`]; `hf_hub` and `ureq` are named only in [`hub`]. `tests/tidy.rs` keeps these rules.
//!
//! # Words
//!
//! - **block**: a diffusion block of the answer (a transformer block is a *layer*, memory of a sequence a *slot*).
//! - **step**: one denoising step of one sequence: one forward pass, 1 **NFE** (number of function evaluations); scoring a
//!   prompt takes steps that are none.
//! - **tick**: one turn of the engine loop; it carries a step of every scheduled sequence, or some layers of a long one.
//! - **update**: one optimizer step in training.
//! - **window**: the canvas positions that a step feeds in.
//! - **canvas**: prompt + room for the answer + suffix.
//! - **prefix** / **stretch**: in a block-causal model the prompt, or the prompt and finished blocks, whose K/V are final /
//!   what a prefix adds to the one before it: the prompt, or a block.
//! - **refresh** / **refinement**: a step that recomputes the K/V cache / that reads it.
//! - **soft token**: a weighted mixture of embeddings. **revision**: a soft position whose token changed.
//! - **adapter**: a LoRA folder's matrices, beside the model's weights. **variant**: the model, or the model with an
//!   adapter, and which positions see which. **speaker**: a variant by the names that clients may call it.
//! - **mask**: the mask token; never an attention mask.

pub mod api;
pub mod backend;
pub mod command;
pub mod config;
pub mod decode;
pub mod engine;
pub mod guide;
pub mod hub;
pub mod inspect;
pub mod model;
pub mod rng;
pub mod service;
mod simd;
pub mod telemetry;
pub mod text;
pub mod train;
