//! The network that trains: LLaDA's layers over batches of equally long rows, made of differentiable operations.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};

use super::lora::LoraPath;
use super::ops::{self, Heads, Mixture};
use super::random::{Purpose, Stream};
use crate::model::{Family, ModelConfig};

/// Tensors by their name in a LLaDA checkpoint.
pub type Weights = BTreeMap<String, Tensor>;

/// Number of values in all tensors.
pub fn parameters(weights: &Weights) -> usize {
    weights.values().map(Tensor::elem_count).sum()
}

const EMBEDDING: &str = "model.transformer.wte.weight";
const FINAL_NORM: &str = "model.transformer.ln_f.weight";
const HEAD: &str = "model.transformer.ff_out.weight";

/// The shape of a network; the weights are handed to each forward pass.
#[derive(Debug, Clone)]
pub struct Network {
    config: ModelConfig,
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
    ///
    /// # Errors
    /// The family cannot be trained.
    pub fn new(config: ModelConfig) -> Result<Self> {
        if config.family != Family::Llada {
            bail!("only the llada family can be trained, not {:?}", config.family);
        }
        Ok(Self { config, lora: None })
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
        Self { config: self.config.clone(), lora }
    }

    /// Its sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every tensor's name and shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let c = &self.config;
        let (d, kv) = (c.width, c.kv_width());
        let mut all = vec![(EMBEDDING.to_owned(), vec![c.vocab, d]), (FINAL_NORM.to_owned(), vec![d])];
        if !c.tied_head {
            all.push((HEAD.to_owned(), vec![c.vocab, d]));
        }
        for layer in 0..c.layers {
            let parts = [
                ("attn_norm", vec![d]),
                ("q_proj", vec![d, d]),
                ("k_proj", vec![kv, d]),
                ("v_proj", vec![kv, d]),
                ("attn_out", vec![d, d]),
                ("ff_norm", vec![d]),
                ("ff_proj", vec![c.mlp, d]),
                ("up_proj", vec![c.mlp, d]),
                ("ff_out", vec![d, c.mlp]),
            ];
            all.extend(parts.map(|(part, shape)| (name(layer, part), shape)));
        }
        all
    }

    /// Whether a tensor belongs to a layer (and not to the embedding or the head).
    pub fn is_layer_weight(&self, name: &str) -> bool {
        name.starts_with("model.transformer.blocks.")
    }

    /// Random weights: norms 1, matrices normal with variance 1 / columns, the two matrices that write to the
    /// residual stream smaller by sqrt(2 * layers), embeddings normal with deviation 0.5.
    ///
    /// # Errors
    /// A tensor cannot be made.
    pub fn init(&self, seed: u64) -> Result<Weights> {
        let residual = 1.0 / (2.0 * self.config.layers as f64).sqrt();
        let mut weights = Weights::new();
        for (index, (name, shape)) in self.shapes().into_iter().enumerate() {
            let count = shape.iter().product();
            let mut stream = Stream::new(seed, Purpose::Weights, &[index as u64]);
            let deviation = match shape.as_slice() {
                [_, columns] if name == HEAD => 0.5 / (*columns as f64).sqrt(),
                _ if name == EMBEDDING => 0.5,
                [_, columns] if name.contains("attn_out") || name.contains("ff_out") => {
                    residual / (*columns as f64).sqrt()
                }
                [_, columns] => 1.0 / (*columns as f64).sqrt(),
                _ => 0.0,
            };
            let data: Vec<f32> = (0..count)
                .map(|_| if deviation == 0.0 { 1.0 } else { (stream.normal() * deviation) as f32 })
                .collect();
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

    /// The residual stream after the last layer, `[rows * len, D]`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or an id is outside the vocabulary.
    pub fn hidden(&self, weights: &Weights, input: &Input) -> Result<Tensor> {
        let embedded = ops::embed(tensor(weights, EMBEDDING)?, &input.tokens)?;
        self.layers(weights, embedded, input.len)
    }

    /// Like [`Self::hidden`], with inputs that pass no gradient on to the embedding table.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_detached(&self, weights: &Weights, input: &Input) -> Result<Tensor> {
        let embedded = ops::embed(&tensor(weights, EMBEDDING)?.detach(), &input.tokens)?;
        self.layers(weights, embedded, input.len)
    }

    fn layers(&self, weights: &Weights, mut x: Tensor, len: usize) -> Result<Tensor> {
        let c = &self.config;
        let heads =
            Heads { len, heads: c.heads, kv_heads: c.kv_heads, width: c.head_width(), theta: c.rope_theta };
        for layer in 0..c.layers {
            let part = |part| tensor(weights, &name(layer, part));
            let y = ops::rms_norm(&x, part("attn_norm")?, c.norm_eps)?;
            let linear = |x: &Tensor, part| self.linear(weights, x, &module(layer, part));
            let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|part| linear(&y, part));
            let mixed = ops::attention(&q?, &k?, &v?, heads)?;
            x = (x + linear(&mixed, "attn_out")?)?;
            let y = ops::rms_norm(&x, part("ff_norm")?, c.norm_eps)?;
            let gated = ops::swiglu(&linear(&y, "ff_proj")?, &linear(&y, "up_proj")?)?;
            x = (x + linear(&gated, "ff_out")?)?;
        }
        Ok(x)
    }

    /// A linear module, with its adapter if it has one.
    fn linear(&self, weights: &Weights, x: &Tensor, module: &str) -> Result<Tensor> {
        let y = ops::linear(x, tensor(weights, &format!("{module}.weight"))?)?;
        match self.lora.map(|path| path.change(weights, module, x)).transpose()?.flatten() {
            Some(change) => Ok((y + change)?),
            None => Ok(y),
        }
    }

    /// Logits `[positions, V]` of some positions (indices into the rows of `hidden`).
    ///
    /// # Errors
    /// A position is outside `hidden`, or a tensor is missing.
    pub fn logits(&self, weights: &Weights, hidden: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let index = Tensor::from_slice(positions, positions.len(), hidden.device())?;
        let x = hidden.index_select(&index, 0)?;
        let x = ops::rms_norm(&x, tensor(weights, FINAL_NORM)?, self.config.norm_eps)?;
        let head = if self.config.tied_head { EMBEDDING } else { HEAD };
        Ok(ops::linear(&x, tensor(weights, head)?)?)
    }
}

fn module(layer: usize, part: &str) -> String {
    format!("model.transformer.blocks.{layer}.{part}")
}

fn name(layer: usize, part: &str) -> String {
    format!("{}.weight", module(layer, part))
}

fn tensor<'a>(weights: &'a Weights, name: &str) -> Result<&'a Tensor> {
    weights.get(name).with_context(|| format!("tensor {name} is missing"))
}
