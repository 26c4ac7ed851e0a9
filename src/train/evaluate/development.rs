//! What a training run says about itself: held-out questions at full, half and a quarter of the steps.

use std::sync::Arc;

use anyhow::Result;

use super::grid::{Setting, name, used};
use super::results::Measured;
use super::served::Served;
use super::{Asked, IN_FLIGHT};
use crate::decode::DecodeOptions;
use crate::decode::options::Method;
use crate::model::ModelConfig;
use crate::text::Tokenizer;
use crate::train::network::Weights;
use crate::train::settings::{Objective, Settings};

/// Mask weight if the recipe names none: the best one seen.
const ALPHA: f64 = 0.9;

/// The ways of decoding that a recipe's model is scored with: hard masks, and EvoToken if it is trained for it; a step
/// per answer token, half as many, a quarter; everything else as the recipe's `[generation]` says.
pub fn settings(recipe: &Settings) -> Vec<Setting> {
    let methods: &[Method] = match recipe.objective {
        Objective::Masked(_) => &[Method::Mask],
        Objective::Cts(_) => &[Method::Mask, Method::Evotoken],
    };
    let usual = DecodeOptions { alpha: Some(ALPHA), ..DecodeOptions::default() };
    let usual = recipe.generation.diffusion.or(usual).or(DecodeOptions::BUILT_IN);
    let max_tokens = recipe.generation.max_new_tokens;
    let blocks = usual.block_length.map_or(1, |length| max_tokens.div_ceil(length));
    let mut all: Vec<Setting> = Vec::new();
    for method in methods {
        for part in [1, 2, 4] {
            let steps = Some((max_tokens / part).max(blocks));
            let own = DecodeOptions { method: Some(*method), steps, ..DecodeOptions::default() };
            let setting = Setting { max_tokens, decode: used(own.or(usual)), temperature: 0.0, seed: 0 };
            if !all.contains(&setting) {
                all.push(setting);
            }
        }
    }
    all
}

/// Measure a model with several settings.
///
/// # Errors
/// As [`Asked::answers`].
pub fn measure(served: &Served, asked: &Asked, settings: Vec<Setting>) -> Result<Vec<(Setting, Measured)>> {
    let one = |setting: Setting| {
        let (answers, seconds) = asked.answers(served, &setting, &|| ())?;
        Ok((setting, Measured::of(&answers, seconds)))
    };
    settings.into_iter().map(one).collect()
}

/// One line of a training log: the share of questions that weights solve with each of the recipe's settings.
///
/// # Errors
/// As [`Asked::answers`], or the weights do not fit the network.
pub fn line(
    config: &ModelConfig,
    weights: &Weights,
    tokenizer: Arc<Tokenizer>,
    asked: &Asked,
    recipe: &Settings,
) -> Result<String> {
    let served = Served::of_weights(config, weights, tokenizer, IN_FLIGHT)?;
    let measured = measure(&served, asked, settings(recipe))?;
    let part = |(setting, m): &(Setting, Measured)| {
        let method = setting.decode.method.iter().map(name).collect::<String>();
        let values = m.values.map(|share| format!(" (values {:.1} %)", 100.0 * share)).unwrap_or_default();
        format!("{method} NFE {:.1} {:.1} %{values}", m.nfe, 100.0 * m.accuracy)
    };
    Ok(measured.iter().map(part).collect::<Vec<_>>().join("  "))
}
