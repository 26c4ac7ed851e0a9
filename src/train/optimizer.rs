//! AdamW with moments that can be saved, gradient clipping, and learning-rate schedules.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::objective::Gradients;

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamSettings {
    /// Peak learning rate.
    pub rate: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root mean square.
    pub eps: f64,
    /// Decoupled weight decay per unit of learning rate.
    pub weight_decay: f64,
    /// Largest global L2 norm of the gradients; larger ones are scaled down.
    pub clip: f64,
}

impl Default for AdamSettings {
    /// The paper's script.
    fn default() -> Self {
        Self { rate: 1e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

/// How the learning rate moves over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// From the peak linearly to 0 at the last update.
    Linear,
    /// The peak throughout.
    Constant,
    /// Linear warm-up, then half a cosine down to 0.
    Cosine {
        /// Updates of warm-up.
        warmup: usize,
    },
    /// Linear warm-up, flat, then linearly down.
    Trapezoid {
        /// Updates of warm-up.
        warmup: usize,
        /// Share of the run at which the decay begins.
        flat_until: f64,
        /// Share of the peak left at the end.
        last: f64,
    },
}

impl Schedule {
    /// Share of the peak rate that update `update` (0, 1, …) of `updates` uses.
    pub fn share(self, update: usize, updates: usize) -> f64 {
        let (at, whole) = (update as f64, updates as f64);
        let warm = |warmup: usize| ((at + 1.0) / (warmup as f64 + 1.0)).min(1.0);
        match self {
            Self::Linear => 1.0 - at / whole,
            Self::Constant => 1.0,
            Self::Cosine { warmup } => {
                let done = ((at - warmup as f64) / (whole - warmup as f64).max(1.0)).max(0.0);
                warm(warmup) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            Self::Trapezoid { warmup, flat_until, last } => {
                let done = ((at / whole - flat_until) / (1.0 - flat_until)).max(0.0);
                warm(warmup) * (1.0 - (1.0 - last) * done)
            }
        }
    }
}

/// Running means of one tensor's gradient and squared gradient.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Mean gradient.
    pub mean: Tensor,
    /// Mean squared gradient.
    pub square: Tensor,
}

/// AdamW over named variables.
#[derive(Debug)]
pub struct AdamW {
    /// Constants.
    pub settings: AdamSettings,
    /// Updates made so far.
    pub updates: usize,
    /// Moments by tensor name.
    pub moments: BTreeMap<String, Moments>,
}

/// Global L2 norm of all gradients.
///
/// # Errors
/// A gradient cannot be read.
pub fn norm(gradients: &Gradients) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in gradients.values() {
        sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(sum.sqrt())
}

impl AdamW {
    /// An optimizer that has made no update.
    pub fn new(settings: AdamSettings) -> Self {
        Self { settings, updates: 0, moments: BTreeMap::new() }
    }

    /// Clip, then one update with learning rate `rate`. Matrices decay; vectors (the norms' weights) decay as well, as
    /// in the authors' script. Returns the gradients' norm before clipping.
    ///
    /// # Errors
    /// A gradient is missing or not finite; nothing has changed then.
    pub fn step(
        &mut self,
        variables: &BTreeMap<String, Var>,
        gradients: &Gradients,
        rate: f64,
    ) -> Result<f64> {
        let s = self.settings;
        let norm = norm(gradients)?;
        if !norm.is_finite() {
            bail!("the gradients are not finite (norm {norm})");
        }
        let shrink = (s.clip / (norm + 1e-6)).min(1.0);
        let step = i32::try_from(self.updates + 1).context("more updates than the optimizer can count")?;
        let (mean_scale, square_scale) = (1.0 / (1.0 - s.beta1.powi(step)), 1.0 / (1.0 - s.beta2.powi(step)));
        for (name, variable) in variables {
            let gradient = (gradients.get(name).with_context(|| format!("no gradient of {name}"))? * shrink)?;
            let (mean, square) = match self.moments.get(name) {
                Some(m) => (m.mean.clone(), m.square.clone()),
                None => (gradient.zeros_like()?, gradient.zeros_like()?),
            };
            let mean = ((mean * s.beta1)? + (&gradient * (1.0 - s.beta1))?)?;
            let square = ((square * s.beta2)? + (gradient.sqr()? * (1.0 - s.beta2))?)?;
            let size = ((&mean * mean_scale)? / ((&square * square_scale)?.sqrt()? + s.eps)?)?;
            let decayed = (variable.as_detached_tensor() * (1.0 - rate * s.weight_decay))?;
            variable.set(&(decayed - (size * rate)?)?)?;
            self.moments.insert(name.clone(), Moments { mean, square });
        }
        self.updates += 1;
        Ok(norm)
    }
}
