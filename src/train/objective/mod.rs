//! What is minimised: LLaDA's masked-diffusion loss and Continuous Trajectory Supervision.
//!
//! A batch is a set of equally long rows of ground truth with noise drawn for it. Its loss is a sum over rows divided
//! by a number that is known before the first forward pass, so that shards of the batch can be worked on apart and
//! their gradients added.

pub mod cts;
pub mod masked;
pub mod noise;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::network::Weights;

/// Gradients by the name of the tensor that trains.
pub type Gradients = BTreeMap<String, Tensor>;

/// Rows of ground truth, all of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Token ids, row after row.
    pub ids: Vec<u32>,
    /// Positions per row: prompt, answer and what fills the row up.
    pub len: usize,
    /// Positions of each row's prompt.
    pub prompt_len: Vec<usize>,
}

impl Truth {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.prompt_len.len()
    }

    /// Positions behind the prompts of all rows, which are answer or fill.
    pub fn answer_positions(&self) -> usize {
        self.ids.len() - self.prompt_len.iter().sum::<usize>()
    }
}

/// Add the gradients of `trainable` that a backward pass left in `store`.
fn accumulate(into: &mut Gradients, trainable: &Weights, store: &GradStore) -> Result<()> {
    for (name, tensor) in trainable {
        if let Some(found) = store.get(tensor) {
            add_one(into, name, found)?;
        }
    }
    Ok(())
}

fn add_one(into: &mut Gradients, name: &str, gradient: &Tensor) -> Result<()> {
    let sum = match into.get(name) {
        Some(sum) => (sum + gradient)?,
        None => gradient.clone(),
    };
    into.insert(name.to_owned(), sum);
    Ok(())
}

/// Refuse gradients that miss a trainable tensor: an operation without a backward would end them silently.
fn complete(gradients: Gradients, trainable: &Weights) -> Result<Gradients> {
    match trainable.keys().find(|name| !gradients.contains_key(*name)) {
        Some(name) => bail!("tensor {name} got no gradient"),
        None => Ok(gradients),
    }
}

/// Add gradients, tensor by tensor.
///
/// # Errors
/// Two gradients of one tensor differ in shape.
pub fn add(into: &mut Gradients, other: &Gradients) -> Result<()> {
    other.iter().try_for_each(|(name, gradient)| add_one(into, name, gradient))
}
