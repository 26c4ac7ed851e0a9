//! The network over packed rows: a pre-norm transformer with RMSNorm, rotary positions and SwiGLU, without a causal
//! mask. One network for all families; they differ in tensor names, biases, grouped heads and shift.
//!
//! Each phase of a pass runs in a span, to which `benches/profile` listens. A span without a listener costs a load.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use tracing::trace_span;

use super::adapters::Adapt;
use super::device::{Counts, Op};
use super::embedding::Embedding;
use super::kv::Attend;
use super::layers::{Linear, RmsNorm, Rotary, rotate, split_heads, swiglu};
use super::loader::Weights;
use super::names::{Names, Part};
use super::{ModelConfig, ModelError};
use crate::engine::batch::StepBatch;

#[derive(Debug)]
struct Layer {
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn load(
        weights: &Weights,
        names: &Names,
        number: usize,
        config: &ModelConfig,
    ) -> std::result::Result<Self, ModelError> {
        let (width, kv, mlp) = (config.width, config.kv_width(), config.mlp);
        let at = |module: &str| names.module(number, module);
        let bias = config.qkv_bias();
        Ok(Self {
            norm1: RmsNorm::load(weights, &at(names.norm1), width, config.norm_eps)?,
            q: Linear::load(weights, &at(names.q), [width, width], bias)?,
            k: Linear::load(weights, &at(names.k), [kv, width], bias)?,
            v: Linear::load(weights, &at(names.v), [kv, width], bias)?,
            o: Linear::load(weights, &at(names.o), [width, width], false)?,
            norm2: RmsNorm::load(weights, &at(names.norm2), width, config.norm_eps)?,
            gate: Linear::load(weights, &at(names.gate), [mlp, width], false)?,
            up: Linear::load(weights, &at(names.up), [mlp, width], false)?,
            down: Linear::load(weights, &at(names.down), [width, mlp], false)?,
        })
    }
}

/// What a pass is told beside its hidden rows.
pub struct Pass<'a> {
    /// The canvas position of each row, `[rows]` (u32).
    pub positions: Tensor,
    /// Where K/V are written and read.
    pub memory: &'a dyn Attend,
    /// The rows' adapters.
    pub adapters: &'a dyn Adapt,
}

/// A loaded model.
#[derive(Debug)]
pub struct Transformer {
    config: ModelConfig,
    embedding: Embedding,
    layers: Vec<Layer>,
    final_norm: RmsNorm,
    head: Linear,
    rotary: Rotary,
    device: Device,
    linear_calls: Cell<u64>,
    counts: Counts,
}

impl Transformer {
    /// Take all weights of a checkpoint.
    ///
    /// # Errors
    /// Names the tensor that is missing or misshapen.
    pub fn load(
        config: ModelConfig,
        weights: &Weights,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        let names = Names::of(config.family);
        let table = [config.vocab, config.width];
        let embedding = Embedding::load(weights, names.embedding, table)?;
        let layers = (0..config.layers)
            .map(|number| Layer::load(weights, names, number, &config))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let final_norm = RmsNorm::load(weights, names.final_norm, config.width, config.norm_eps)?;
        let head = if config.tied_head {
            embedding.head(weights, names.embedding)?
        } else {
            weights.head(names.head, table)?
        };
        let head = Linear::of(head);
        let rotary = Rotary::new(&config, device).map_err(|e| ModelError::tensor("rotary angles", e))?;
        let device = device.clone();
        let (linear_calls, counts) = (Cell::new(0), Counts::default());
        Ok(Self { config, embedding, layers, final_norm, head, rotary, device, linear_calls, counts })
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How often a weight matrix, or an adapter's change of one, was applied so far. Per pass it does not depend on the number
    /// of sequences.
    pub fn linear_calls(&self) -> u64 {
        self.linear_calls.get()
    }

    /// What was asked of the device so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The table that tokens come in by.
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// A module over all rows, and beside it the rows' adapters.
    fn linear(&self, linear: &Linear, part: Part, x: &Tensor, adapters: &dyn Adapt) -> Result<Tensor> {
        linear.count(&self.counts);
        let span = if part == Part::Head { trace_span!("head") } else { trace_span!("linear") };
        let _entered = span.entered();
        let (y, applied) = adapters.add(part, x, linear.forward(x)?)?;
        self.linear_calls.set(self.linear_calls.get() + 1 + applied);
        Ok(y)
    }

    /// Run some layers over hidden rows `[rows, D]`; K/V of every window are written into its slot. Which rows share a
    /// call, and which layers, changes no bit of a row.
    ///
    /// # Errors
    /// A slot is not open, a position is out of range, or the device fails.
    pub fn run(&self, x: Tensor, pass: &Pass, layers: Range<usize>) -> Result<Tensor> {
        let adapters = pass.adapters;
        let mut x = x;
        let angles = self.rotary.at(&pass.positions)?;
        self.counts.add(Op::Select, 2);
        for (number, layer) in self.layers.iter().enumerate().take(layers.end).skip(layers.start) {
            let y = trace_span!("norm").in_scope(|| layer.norm1.forward(&x))?;
            let heads = |linear, part, count| split_heads(&self.linear(linear, part, &y, adapters)?, count);
            let q = heads(&layer.q, Part::Q(number), self.config.heads)?;
            let k = heads(&layer.k, Part::K(number), self.config.kv_heads)?;
            let v = heads(&layer.v, Part::V(number), self.config.kv_heads)?;
            let turn = || Ok::<_, candle_core::Error>((rotate(&q, &angles)?, rotate(&k, &angles)?));
            let (q, k) = trace_span!("rotary").in_scope(turn)?;
            let mixed = pass.memory.attend(number, (&q, &k, &v))?;
            let change = self.linear(&layer.o, Part::O(number), &mixed, adapters)?;
            x = trace_span!("residual").in_scope(|| x + change)?;
            let y = trace_span!("norm").in_scope(|| layer.norm2.forward(&x))?;
            let gate = self.linear(&layer.gate, Part::Gate(number), &y, adapters)?;
            let up = self.linear(&layer.up, Part::Up(number), &y, adapters)?;
            let gated = trace_span!("swiglu").in_scope(|| swiglu(&gate, &up))?;
            let change = self.linear(&layer.down, Part::Down(number), &gated, adapters)?;
            x = trace_span!("residual").in_scope(|| x + change)?;
            // Two norms, two rotations, a gate and its product, two sums.
            self.counts.add(Op::Fused, 5);
            self.counts.add(Op::Elementwise, 3);
        }
        Ok(x)
    }

    /// Behind the last layer: the final normed hidden rows.
    ///
    /// # Errors
    /// The device fails.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor> {
        self.counts.add(Op::Fused, 1);
        trace_span!("norm").in_scope(|| self.final_norm.forward(x))
    }

    /// Final hidden rows `[rows, D]`, of which some go through adapters → logits `[rows, V]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn logits(&self, hidden: &Tensor, adapters: &dyn Adapt) -> Result<Tensor> {
        self.linear(&self.head, Part::Head, hidden, adapters)
    }

    /// What the packed rows feed into the first layer, `[rows, D]`.
    ///
    /// # Errors
    /// An id is outside the vocabulary, or the device fails.
    pub fn embed(&self, batch: &StepBatch) -> Result<Tensor> {
        trace_span!("embed").in_scope(|| self.embedding.of_batch(batch, &self.device))
    }

    /// The canvas positions of the packed rows, `[rows]` (u32).
    ///
    /// # Errors
    /// A position is out of range, or the device fails.
    pub fn positions(&self, batch: &StepBatch) -> Result<Tensor> {
        let positions = batch.segments.iter().flat_map(|segment| segment.window.clone());
        let end = self.config.max_positions;
        let positions = positions
            .map(|p| {
                let known = u32::try_from(p).ok().filter(|_| p < end);
                let beyond = || format!("position {p} is beyond the model's last, {}", end - 1);
                known.ok_or_else(|| candle_core::Error::msg(beyond()))
            })
            .collect::<Result<Vec<u32>>>()?;
        let rows = positions.len();
        Tensor::from_vec(positions, rows, &self.device)
    }
}
