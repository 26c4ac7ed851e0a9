//! Low-rank adapters in training: y = W x + scaling * B A dropout(x), differentiable in A and B (Hu et al., 2021).
//!
//! Adapter tensors have PEFT's names: `base_model.model.` + module + `.lora_A.weight` `[r, in]` or `.lora_B.weight`
//! `[out, r]`. They are found among the network's other weights by these names.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::network::{Network, Weights};
use super::ops;
use super::random::{Purpose, Stream};

const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Which modules get an adapter, and of what size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Columns of B, rows of A.
    pub rank: usize,
    /// B A is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Share of the inputs of A that are set to 0 in training.
    pub dropout: f64,
    /// Last parts of the names of the linear modules that are adapted.
    pub modules: Vec<String>,
}

impl Default for LoraSettings {
    /// The paper's script.
    fn default() -> Self {
        let modules = ["q_proj", "k_proj", "v_proj"].map(str::to_owned).to_vec();
        Self { rank: 128, alpha: 256.0, dropout: 0.05, modules }
    }
}

impl LoraSettings {
    /// The factor of B A.
    pub fn scaling(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || !self.alpha.is_finite() || self.alpha <= 0.0 {
            bail!("lora: rank must be at least 1 and alpha above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            bail!("lora: dropout must be at least 0 and below 1");
        }
        if self.modules.is_empty() {
            bail!("lora: modules must name at least one linear module");
        }
        Ok(())
    }

    /// A new adapter for `network`, which changes nothing yet: A uniform in ±1/sqrt(in), as PEFT draws it, B zero.
    ///
    /// # Errors
    /// A name fits no linear module of the network.
    pub fn init(&self, network: &Network, seed: u64) -> Result<Weights> {
        let mut adapter = Weights::new();
        let mut unused: Vec<&String> = self.modules.iter().collect();
        for (index, (name, shape)) in network.shapes().into_iter().enumerate() {
            let Some(module) = name.strip_suffix(".weight") else { continue };
            let ([out, width], Some((_, last))) = (shape.as_slice(), module.rsplit_once('.')) else {
                continue;
            };
            // The output head and the MLP's last matrix share a name in LLaDA; adapters are for layers.
            if !network.is_layer_weight(&name) || !self.modules.iter().any(|m| m == last) {
                continue;
            }
            unused.retain(|m| m.as_str() != last);
            let mut stream = Stream::new(seed, Purpose::Adapter, &[index as u64]);
            let bound = 1.0 / (*width as f64).sqrt();
            let a: Vec<f32> =
                (0..self.rank * width).map(|_| (bound * (2.0 * stream.unit() - 1.0)) as f32).collect();
            let a = Tensor::from_vec(a, (self.rank, *width), &Device::Cpu)?;
            let b = Tensor::zeros((*out, self.rank), DType::F32, &Device::Cpu)?;
            adapter.insert(format!("{PREFIX}{module}{A}"), a);
            adapter.insert(format!("{PREFIX}{module}{B}"), b);
        }
        match unused.first() {
            Some(name) => bail!("lora: the network has no linear module called {name:?} in its layers"),
            None => Ok(adapter),
        }
    }

    /// PEFT's `adapter_config.json`.
    pub fn config_json(&self, base: &str) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": null,
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "revision": null,
            "inference_mode": true,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": self.modules,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "layers_to_transform": null,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_dora": false,
            "use_rslora": false,
        })
    }
}

/// The low-rank path of one forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraPath {
    /// The factor of B A.
    pub scaling: f64,
    /// Share of inputs dropped; 0 for none.
    pub dropout: f64,
    /// Tells the draws of one pass from those of every other.
    pub key: u64,
}

impl LoraPath {
    /// scaling * B A dropout(x) `[M, out]` for x `[M, in]`, or `None` if `weights` has no adapter for the module.
    ///
    /// # Errors
    /// B is missing, or a matrix does not fit.
    pub fn change(&self, weights: &Weights, module: &str, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(a) = weights.get(&format!("{PREFIX}{module}{A}")) else { return Ok(None) };
        let partner = format!("{PREFIX}{module}{B}");
        let b = weights.get(&partner).with_context(|| format!("adapter tensor {partner} is missing"))?;
        let kept = if self.dropout > 0.0 { (x * self.keep(module, x)?)? } else { x.clone() };
        Ok(Some((ops::linear(&ops::linear(&kept, a)?, b)? * self.scaling)?))
    }

    /// What x is multiplied by: 0 or 1 / (1 - dropout).
    fn keep(&self, module: &str, x: &Tensor) -> Result<Tensor> {
        let index: Vec<u64> = module.bytes().map(u64::from).collect();
        let mut stream = Stream::new(self.key, Purpose::Dropout, &index);
        let kept = (1.0 / (1.0 - self.dropout)) as f32;
        let mask: Vec<f32> =
            (0..x.elem_count()).map(|_| if stream.unit() < self.dropout { 0.0 } else { kept }).collect();
        Ok(Tensor::from_vec(mask, x.shape(), x.device())?)
    }
}

/// The base weights with every adapted one replaced by W + scaling * B A.
///
/// # Errors
/// A tensor fits no module or has no partner.
pub fn merge(base: &Weights, adapter: &Weights, scaling: f64) -> Result<Weights> {
    let mut merged = base.clone();
    let mut used = 0;
    for (name, a) in adapter {
        let Some(module) = name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(A)) else { continue };
        let partner = format!("{PREFIX}{module}{B}");
        let b = adapter.get(&partner).with_context(|| format!("adapter tensor {partner} is missing"))?;
        let weight = format!("{module}.weight");
        let base = base.get(&weight).with_context(|| format!("adapter tensor {name} fits no module"))?;
        merged.insert(weight, (base + (b.matmul(a)? * scaling)?)?);
        used += 2;
    }
    if used != adapter.len() {
        bail!("{} adapter tensors fit no module", adapter.len() - used);
    }
    Ok(merged)
}
