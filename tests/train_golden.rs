//! Continuous Trajectory Supervision against the reference: losses, tokens, soft inputs, gradients, updates.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Var};
use evotoken::train::lora::LoraPath;
use evotoken::train::network::{Network, Weights};
use evotoken::train::objective::Gradients;
use evotoken::train::objective::cts::{CtsBatch, Stage};
use evotoken::train::optimizer::{AdamSettings, AdamW, norm};
use evotoken::train::{checkpoint, export};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    k_soft: usize,
    scaling: f64,
    optimizer: Optimizer,
    batches: Vec<Batch>,
    stage_losses: Vec<f64>,
    total: f64,
    grad_norms: BTreeMap<String, f64>,
    global_grad_norm: f64,
    step_totals: Vec<f64>,
    x_after_stage: Vec<Vec<Vec<u32>>>,
    soft_after_stage0: Soft,
}

#[derive(Deserialize)]
struct Optimizer {
    lr: f64,
    weight_decay: f64,
    clip: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
}

#[derive(Deserialize)]
struct Batch {
    truth: Vec<Vec<u32>>,
    noisy: Vec<Vec<u32>>,
    prompt_len: Vec<usize>,
    start: Vec<usize>,
    end: Vec<usize>,
    unmask: Vec<Vec<Vec<usize>>>,
    alphas: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Soft {
    ids: Vec<Vec<Vec<u32>>>,
    weights: Vec<Vec<Vec<f64>>>,
}

impl Batch {
    fn to_cts(&self) -> CtsBatch {
        CtsBatch {
            noisy: self.noisy.concat(),
            truth: self.truth.concat(),
            len: self.noisy[0].len(),
            prompt_len: self.prompt_len.clone(),
            start: self.start.clone(),
            end: self.end.clone(),
            unmask: self.unmask.clone(),
            alphas: self.alphas.clone(),
        }
    }
}

struct Case {
    golden: Golden,
    tensors: Weights,
    network: Network,
    base: Weights,
    adapter: BTreeMap<String, Var>,
}

fn case() -> Case {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llada-tiny-lora");
    let (config, base) = export::read(&folder).unwrap();
    let tensors = |file: &str| checkpoint::read_tensors(&folder.join(file), &Device::Cpu).unwrap();
    let adapter = tensors("adapter/adapter_model.safetensors");
    let golden: Golden = serde_json::from_slice(&std::fs::read(folder.join("cts.json")).unwrap()).unwrap();
    let path = LoraPath { scaling: golden.scaling, dropout: 0.0, key: 0 };
    Case {
        golden,
        tensors: tensors("cts.safetensors"),
        network: export::network(&config).unwrap().with_lora(path),
        base,
        adapter: adapter.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect(),
    }
}

impl Case {
    /// Stages and gradients of batch `index` with the adapter as it is now; each row a shard of its own if `split`.
    fn run(&self, index: usize, split: bool) -> (Vec<Vec<Stage>>, Gradients) {
        let trainable: Weights =
            self.adapter.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let weights: Weights = self.base.clone().into_iter().chain(trainable.clone()).collect();
        let batch = self.golden.batches[index].to_cts();
        let (mut stages, mut sum) = (Vec::new(), Gradients::new());
        for shard in if split { vec![0..1, 1..2] } else { vec![0..2; 1] } {
            let (done, gradients) = batch
                .shard(shard)
                .gradients(&self.network, &weights, &trainable, self.golden.k_soft, batch.scored())
                .unwrap();
            stages.push(done);
            evotoken::train::objective::add(&mut sum, &gradients).unwrap();
        }
        (stages, sum)
    }
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{found} is not {expected}");
}

fn flat(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn golden_cts_stages_match_the_reference() {
    let case = case();
    let (stages, _) = case.run(0, false);
    let golden = &case.golden;
    assert_eq!(stages[0].len(), golden.stage_losses.len());
    for (stage, (loss, x)) in stages[0].iter().zip(golden.stage_losses.iter().zip(&golden.x_after_stage)) {
        close(stage.loss, *loss);
        assert_eq!(stage.x, x.concat());
    }
    close(stages[0].iter().map(|s| s.loss).sum::<f64>() / stages[0].len() as f64, golden.total);

    let soft = &stages[0][0].soft;
    let (ids, weights) = (golden.soft_after_stage0.ids.concat(), golden.soft_after_stage0.weights.concat());
    assert_eq!(soft.positions(), ids.len());
    for (position, (ids, weights)) in ids.iter().zip(&weights).enumerate() {
        let found = position * soft.width..(position + 1) * soft.width;
        for (i, n) in found.enumerate() {
            assert!((f64::from(soft.weights[n]) - weights[i]).abs() < 2e-4, "position {position}");
            assert!(weights[i] == 0.0 || soft.ids[n] == ids[i], "position {position}");
        }
    }
}

#[test]
fn golden_cts_gradients_match_the_reference() {
    let case = case();
    for split in [false, true] {
        let (_, gradients) = case.run(0, split);
        assert_eq!(gradients.len(), case.golden.grad_norms.len());
        for (name, gradient) in &gradients {
            let (found, expected) = (flat(gradient), flat(&case.tensors[&format!("grad.{name}")]));
            let square = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            let length = square(&mut expected.iter().copied());
            let gap = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
            assert!(gap <= 1e-4 * length, "{name}: {gap} of {length}");
            close(length, case.golden.grad_norms[name]);
        }
        close(norm(&gradients).unwrap(), case.golden.global_grad_norm);
    }
}

#[test]
fn golden_adapter_after_three_updates_matches_the_reference() {
    let case = case();
    let o = &case.golden.optimizer;
    let mut adam = AdamW::new(AdamSettings {
        rate: o.lr,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        weight_decay: o.weight_decay,
        clip: o.clip,
    });
    for (index, total) in case.golden.step_totals.iter().enumerate() {
        let (stages, gradients) = case.run(index, false);
        close(stages[0].iter().map(|s| s.loss).sum::<f64>() / stages[0].len() as f64, *total);
        adam.step(&case.adapter, &gradients, o.lr).unwrap();
    }
    for (name, variable) in &case.adapter {
        let (found, expected) = (flat(variable.as_tensor()), flat(&case.tensors[&format!("after3.{name}")]));
        let gap = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(gap < 2e-5, "{name} is off by {gap}");
    }
}
