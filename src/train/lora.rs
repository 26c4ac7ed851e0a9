//! Low-rank adapters in training: W + scaling * B A, differentiable in A and B.

use anyhow::{Context, Result, bail};

use super::network::Weights;

const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The base weights with every adapted one replaced by W + scaling * B A. `adapter` holds PEFT names:
/// `base_model.model.` + module + `.lora_A.weight` `[r, in]` or `.lora_B.weight` `[out, r]`.
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
