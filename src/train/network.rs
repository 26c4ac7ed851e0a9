//! The network that trains: the layers of either family over batches of equally long rows, made of differentiable
//! operations.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};

use super::lora::LoraPath;
use super::ops::{self, Heads, Mixture};
use super::random::{Purpose, Stream};
use crate::model::ModelConfig;
use crate::model::names::Names;

/// Tensors by their name in a checkpoint.
pub type Weights = BTreeMap<String, Tensor>;

/// Number of values in all tensors.
pub fn parameters(weights: &Weights) -> usize {
    weights.values().map(Tensor::elem_count).sum()
}

/// What a tensor does, which decides how it begins.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Embedding,
    Head,
    Norm,
    Bias,
    Inner,
    /// Writes to the residual stream.
    Residual,
}

/// The shape of a network; the weights are handed to each forward pass.
#[derive(Debug, Clone)]
pub struct Network {
    config: ModelConfig,
    names: &'static Names,
    lora: Option<LoraPath>,
}

/// A batch of equally long rows of input tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Positions row after row, `rows` * `len` of them.
    pub tokens: Mixture,
    /// Positions per row.
    pub len: usize,
}

impl Network {
    /// A network of this configuration.
    pub fn new(config: ModelConfig) -> Self {
        Self { names: Names::of(config.family), config, lora: None }
    }

    /// The same network with adapters, which it looks for among its weights.
    #[must_use]
    pub fn with_lora(self, path: LoraPath) -> Self {
        Self { lora: Some(path), ..self }
    }

    /// The network for one of many forward passes, told apart by `index`: each drops other inputs.
    #[must_use]
    pub fn pass(&self, index: &[u64]) -> Self {
        let draw = |key| Stream::new(key, Purpose::Dropout, index).bits();
        let lora = self.lora.map(|path| LoraPath { key: draw(path.key), ..path });
        Self { lora, ..self.clone() }
    }

    /// Its sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every tensor's name and shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors().into_iter().map(|(name, shape, _)| (name, shape)).collect()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>, Role)> {
        let (c, n) = (&self.config, self.names);
        let (d, kv) = (c.width, c.kv_width());
        let mut all = vec![
            (weight(n.embedding), vec![c.vocab, d], Role::Embedding),
            (weight(n.final_norm), vec![d], Role::Norm),
        ];
        if !c.tied_head {
            all.push((weight(n.head), vec![c.vocab, d], Role::Head));
        }
        for layer in 0..c.layers {
            let parts = [
                (n.norm1, vec![d], Role::Norm),
                (n.q, vec![d, d], Role::Inner),
                (n.k, vec![kv, d], Role::Inner),
                (n.v, vec![kv, d], Role::Inner),
                (n.o, vec![d, d], Role::Residual),
                (n.norm2, vec![d], Role::Norm),
                (n.gate, vec![c.mlp, d], Role::Inner),
                (n.up, vec![c.mlp, d], Role::Inner),
                (n.down, vec![d, c.mlp], Role::Residual),
            ];
            all.extend(parts.map(|(part, shape, role)| (weight(&n.module(layer, part)), shape, role)));
            if c.qkv_bias() {
                let parts = [(n.q, d), (n.k, kv), (n.v, kv)];
                all.extend(parts.map(|(part, rows)| (bias(&n.module(layer, part)), vec![rows], Role::Bias)));
            }
        }
        all
    }

    /// Whether a tensor belongs to a layer (and not to the embedding or the head).
    pub fn is_layer_weight(&self, name: &str) -> bool {
        name.strip_prefix(self.names.layer).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Random weights: norms 1, biases 0, matrices normal with variance 1 / columns, the two matrices that write to
    /// the residual stream smaller by sqrt(2 * layers), embeddings normal with deviation 0.5.
    ///
    /// # Errors
    /// A tensor cannot be made.
    pub fn init(&self, seed: u64) -> Result<Weights> {
        let residual = 1.0 / (2.0 * self.config.layers as f64).sqrt();
        let mut weights = Weights::new();
        for (index, (name, shape, role)) in self.tensors().into_iter().enumerate() {
            let columns = shape[shape.len() - 1] as f64;
            let (mean, deviation) = match role {
                Role::Norm => (1.0, 0.0),
                Role::Bias => (0.0, 0.0),
                Role::Embedding => (0.0, 0.5),
                Role::Head => (0.0, 0.5 / columns.sqrt()),
                Role::Inner => (0.0, 1.0 / columns.sqrt()),
                Role::Residual => (0.0, residual / columns.sqrt()),
            };
            let mut stream = Stream::new(seed, Purpose::Weights, &[index as u64]);
            let mut draw = || if deviation == 0.0 { mean } else { stream.normal() * deviation };
            let data: Vec<f32> = (0..shape.iter().product()).map(|_| draw() as f32).collect();
            weights.insert(name, Tensor::from_vec(data, shape, &Device::Cpu)?);
        }
        Ok(weights)
    }

    /// Check that every tensor is there in the right shape and no other is.
    ///
    /// # Errors
    /// Names the first tensor that is missing, misshapen or unknown.
    pub fn check(&self, weights: &Weights) -> Result<()> {
        let shapes = self.shapes();
        for (name, shape) in &shapes {
            let found = weights.get(name).with_context(|| format!("tensor {name} is missing"))?;
            if found.dims() != shape.as_slice() {
                bail!("tensor {name} has shape {:?}, expected {shape:?}", found.dims());
            }
        }
        match weights.keys().find(|name| shapes.iter().all(|(known, _)| known != *name)) {
            Some(name) => bail!("tensor {name} belongs to no part of the network"),
            None => Ok(()),
        }
    }

    /// The row of the residual stream after the last layer from which each position's token is predicted,
    /// `[rows * len, D]`: its own, or, where logits are shifted, its left neighbour's (the first position keeps its own).
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or an id is outside the vocabulary.
    pub fn hidden(&self, weights: &Weights, input: &Input) -> Result<Tensor> {
        let embedded = ops::embed(tensor(weights, &weight(self.names.embedding))?, &input.tokens)?;
        self.layers(weights, embedded, input.len)
    }

    /// Like [`Self::hidden`], with inputs that pass no gradient on to the embedding table.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_detached(&self, weights: &Weights, input: &Input) -> Result<Tensor> {
        let table = tensor(weights, &weight(self.names.embedding))?.detach();
        self.layers(weights, ops::embed(&table, &input.tokens)?, input.len)
    }

    fn layers(&self, weights: &Weights, mut x: Tensor, len: usize) -> Result<Tensor> {
        let (c, n) = (&self.config, self.names);
        let heads =
            Heads { len, heads: c.heads, kv_heads: c.kv_heads, width: c.head_width(), theta: c.rope_theta };
        for layer in 0..c.layers {
            let norm = |x: &Tensor, part| {
                let scale = tensor(weights, &weight(&n.module(layer, part)))?;
                anyhow::Ok(ops::rms_norm(x, scale, c.norm_eps)?)
            };
            let linear = |x: &Tensor, part| self.linear(weights, x, &n.module(layer, part));
            let y = norm(&x, n.norm1)?;
            let [q, k, v] =
                [n.q, n.k, n.v].map(|part| self.biased(weights, linear(&y, part)?, &n.module(layer, part)));
            let mixed = ops::attention(&q?, &k?, &v?, heads)?;
            x = (x + linear(&mixed, n.o)?)?;
            let y = norm(&x, n.norm2)?;
            let gated = ops::swiglu(&linear(&y, n.gate)?, &linear(&y, n.up)?)?;
            x = (x + linear(&gated, n.down)?)?;
        }
        if c.shifted() { shift(&x, len) } else { Ok(x) }
    }

    /// A linear module, with its adapter if it has one.
    fn linear(&self, weights: &Weights, x: &Tensor, module: &str) -> Result<Tensor> {
        let y = ops::linear(x, tensor(weights, &weight(module))?)?;
        match self.lora.map(|path| path.change(weights, module, x)).transpose()?.flatten() {
            Some(change) => Ok((y + change)?),
            None => Ok(y),
        }
    }

    /// Queries, keys or values with their module's bias, where the family has one.
    fn biased(&self, weights: &Weights, y: Tensor, module: &str) -> Result<Tensor> {
        match self.config.qkv_bias() {
            true => Ok(y.broadcast_add(tensor(weights, &bias(module))?)?),
            false => Ok(y),
        }
    }

    /// Logits `[positions, V]` of some positions (indices into the rows of [`Self::hidden`]).
    ///
    /// # Errors
    /// A position is outside `hidden`, or a tensor is missing.
    pub fn logits(&self, weights: &Weights, hidden: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let index = Tensor::from_slice(positions, positions.len(), hidden.device())?;
        let x = hidden.index_select(&index, 0)?;
        let norm = tensor(weights, &weight(self.names.final_norm))?;
        let x = ops::rms_norm(&x, norm, self.config.norm_eps)?;
        let head = if self.config.tied_head { self.names.embedding } else { self.names.head };
        Ok(ops::linear(&x, tensor(weights, &weight(head))?)?)
    }
}

/// Every row's left neighbour within its sequence of `len`; the first of a sequence itself.
fn shift(x: &Tensor, len: usize) -> Result<Tensor> {
    let rows = u32::try_from(x.dim(0)?).context("too many positions in one batch")?;
    let left = |at: u32| if at.is_multiple_of(len as u32) { at } else { at - 1 };
    let index = Tensor::from_iter((0..rows).map(left), x.device())?;
    Ok(x.index_select(&index, 0)?)
}

fn weight(path: &str) -> String {
    format!("{path}.weight")
}

fn bias(path: &str) -> String {
    format!("{path}.bias")
}

fn tensor<'a>(weights: &'a Weights, name: &str) -> Result<&'a Tensor> {
    weights.get(name).with_context(|| format!("tensor {name} is missing"))
}
