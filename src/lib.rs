//! `evotoken`: an OpenAI-compatible server for masked diffusion language models, with EvoToken decoding.
//!
//! # Bird's-eye view
//!
//! A request goes one way through the crate, and every hand-over is one type:
//!
//! ```text
//! HTTP ─ api::{completion, chat} ─> service ─ engine::request::GenerateRequest ─> engine (queue, slots, scheduler)
//!                                                              │  one tick: engine::batch::StepBatch
//!                                                              v
//!                                              backend ── model (packed rows, K/V slots)
//!                                                              │  engine::batch::StepOutput
//!                                                              v
//! SSE <─ service::stream::TextEvent <─ engine::event::BlockEvent <─ decode::State::advance
//! ```
//!
//! # As a library
//!
//! A backend holds a model, an engine runs requests on a thread of its own, and a reader takes an answer's blocks as they are done:
//!
//! ```
//! use std::sync::Arc;
//!
//! use evotoken::backend::CandleBackend;
//! use evotoken::backend::device::DeviceChoice;
//! use evotoken::engine::request::{Draft, GenerateRequest, Limits};
//! use evotoken::engine::{self, BlockEvent, EngineLimits, ModelInfo};
//! use evotoken::model::bundled;
//! use evotoken::service::GenerationDefaults;
//! use evotoken::telemetry::Metrics;
//! use evotoken::text::Tokenizer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = bundled::COUNTDOWN; // or ModelSource::open("models/my-model")?
//! let tokenizer = Tokenizer::load(&source)?;
//! let backend = CandleBackend::load(&source, DeviceChoice::Cpu)?;
//! let config = backend.config().clone();
//! let model = ModelInfo { mask_id: config.mask_id, eos_ids: config.eos_ids };
//! let limits = Limits::of_model(&model, config.vocab, config.max_positions);
//! let engine = engine::start(backend, model, EngineLimits::default(), Arc::new(Metrics::new()))?;
//!
//! // What the model's makers recommend: blocks of four, for one thing.
//! let decode = GenerationDefaults::load(&source)?.decode;
//! let prompt = tokenizer.encode("Numbers: [30, 100, 93]\nTarget: 23")?;
//! let request = GenerateRequest::new(Draft { decode, ..Draft::new(prompt, 16) }, &limits)?;
//!
//! // Any number of requests run at once; they share each forward pass, which changes none of them.
//! for mut reader in engine.submit(vec![request], None)? {
//!     let mut answer = Vec::new();
//!     while let Some(event) = reader.blocking_recv() {
//!         match event {
//!             BlockEvent::Block { ids, .. } => answer.extend(ids),
//!             BlockEvent::Finished { progress, .. } => println!("{} forward passes", progress.nfe),
//!             BlockEvent::Failed(error) => return Err(error.into()),
//!             _ => {}
//!         }
//!     }
//!     assert_eq!(tokenizer.decode(&answer), "(93+30)-100");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`service::Service`] does this with texts, stop strings, chat templates and adapters; [`train`] makes models.
//! [`decode::State`] alone decodes with any model that gives it probabilities.
//!
//! # Import rule
//!
//! `candle` is named only in [`model`], [`backend`] and [`train`]; `axum` and `utoipa` only in [`api`] and
//! `main`; `tokio` never in [`decode`], [`model`], [`backend`], [`train`] or the scheduler; the environment and
//! settings files are read only in [`config`]; `hf_hub` and `ureq` are named only in [`hub`]. Modules use each other in one
//! direction; `ARCHITECTURE.md` has the table. `tests/tidy.rs` keeps these rules.
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
