//! The training network and Continuous Trajectory Supervision against the reference, for both model families: logits,
//! losses, tokens, soft inputs, gradients, updates.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;
use evotoken::train::lora::LoraPath;
use evotoken::train::network::{Input, Network, Weights};
use evotoken::train::objective::Gradients;
use evotoken::train::objective::cts::{CtsBatch, Stage};
use evotoken::train::ops::{Mixture, cross_entropy};
use evotoken::train::optimizer::{AdamSettings, AdamW, norm};
use evotoken::train::random::{Purpose, Stream};
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

/// Golden folders with a training trajectory, one per family.
const ADAPTED: [&str; 2] = ["llada-tiny-lora", "dream-tiny-lora"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn case(name: &str) -> Case {
    let folder = fixture(name);
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

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn stages_match(name: &str) {
    let case = case(name);
    let (stages, _) = case.run(0, false);
    let golden = &case.golden;
    assert_eq!(stages[0].len(), golden.stage_losses.len(), "{name}");
    for (stage, (loss, x)) in stages[0].iter().zip(golden.stage_losses.iter().zip(&golden.x_after_stage)) {
        close(stage.loss, *loss);
        assert_eq!(stage.x, x.concat(), "{name}");
    }
    close(stages[0].iter().map(|s| s.loss).sum::<f64>() / stages[0].len() as f64, golden.total);

    let soft = &stages[0][0].soft;
    let (ids, weights) = (golden.soft_after_stage0.ids.concat(), golden.soft_after_stage0.weights.concat());
    assert_eq!(soft.positions(), ids.len(), "{name}");
    for (position, (ids, weights)) in ids.iter().zip(&weights).enumerate() {
        let found = position * soft.width..(position + 1) * soft.width;
        for (i, n) in found.enumerate() {
            assert!((f64::from(soft.weights[n]) - weights[i]).abs() < 2e-4, "{name}, position {position}");
            assert!(weights[i] == 0.0 || soft.ids[n] == ids[i], "{name}, position {position}");
        }
    }
}

#[test]
fn golden_cts_stages_match_the_reference() {
    ADAPTED.into_iter().for_each(stages_match);
}

fn gradients_match(name: &str) {
    let case = case(name);
    for split in [false, true] {
        let (_, gradients) = case.run(0, split);
        assert_eq!(gradients.len(), case.golden.grad_norms.len(), "{name}");
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
fn golden_cts_gradients_match_the_reference() {
    ADAPTED.into_iter().for_each(gradients_match);
}

fn updates_match(name: &str) {
    let case = case(name);
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

#[test]
fn golden_adapter_after_three_updates_matches_the_reference() {
    ADAPTED.into_iter().for_each(updates_match);
}

/// The golden passes that start from nothing: no cache, no split.
#[derive(Deserialize)]
struct Pass {
    name: String,
    #[serde(default)]
    ids: Vec<u32>,
    #[serde(default)]
    soft_ids: Vec<Vec<u32>>,
    #[serde(default)]
    soft_weights: Vec<Vec<f32>>,
    cache_from: Option<String>,
    split: Option<usize>,
}

impl Pass {
    fn input(&self) -> Mixture {
        if self.ids.is_empty() {
            let width = self.soft_ids[0].len();
            Mixture { ids: self.soft_ids.concat(), weights: self.soft_weights.concat(), width }
        } else {
            Mixture::hard(&self.ids)
        }
    }
}

fn passes(folder: &Path) -> Vec<Pass> {
    #[derive(Deserialize)]
    struct Passes {
        records: Vec<Pass>,
    }
    let text = std::fs::read(folder.join("logits.json")).unwrap();
    let passes: Passes = serde_json::from_slice(&text).unwrap();
    passes.records.into_iter().filter(|p| p.cache_from.is_none() && p.split.is_none()).collect()
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits of the serving backend for the positions from `first` on.
fn served(backend: &mut CandleBackend, input: &Mixture, first: usize) -> Vec<f32> {
    let (slot, len) = (SlotId { index: 0, generation: 0 }, input.positions());
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    for (ids, weights) in input.ids.chunks(input.width).zip(input.weights.chunks(input.width)) {
        batch.push_row(ids.iter().copied().zip(weights.iter().copied()));
    }
    batch.segments.push(Segment {
        slot,
        adapter: None,
        window: 0..len,
        visible: len,
        targets: first..len,
        sampling: None,
    });
    backend.open_slot(slot, len).unwrap();
    let logits = backend.logits(&batch).unwrap();
    backend.close_slot(slot);
    logits.into_iter().flatten().flatten().collect()
}

#[test]
fn training_logits_are_the_golden_and_the_serving_ones() {
    for name in ["llada-tiny", "dream-tiny"] {
        let folder = fixture(name);
        let (config, weights) = export::read(&folder).unwrap();
        let network = export::network(&config).unwrap();
        let vocab = network.config().vocab;
        let golden = checkpoint::read_tensors(&folder.join("logits.safetensors"), &Device::Cpu).unwrap();
        let mut backend = CandleBackend::load(&ModelSource::folder(&folder), DeviceChoice::Cpu).unwrap();
        let passes = passes(&folder);
        assert!(passes.len() >= 3, "{name}");
        for pass in passes {
            let len = pass.input().positions();
            // Two rows at once: the second must not see the first, nor take its first position's neighbour from it.
            let input = pass.input();
            let twice = |v: &[u32]| [v, v].concat();
            let weights_twice = [input.weights.clone(), input.weights.clone()].concat();
            let tokens = Mixture { ids: twice(&input.ids), weights: weights_twice, width: input.width };
            let hidden = network.hidden(&weights, &Input { tokens, len }).unwrap();
            let all: Vec<u32> = (0..2 * len as u32).collect();
            let found = flat(&network.logits(&weights, &hidden, &all).unwrap());
            let expected = flat(&golden[&format!("{}.logits", pass.name)]);
            for row in found.chunks(len * vocab) {
                assert!(worst(row, &expected) < 1e-3, "{name}, {}", pass.name);
                // A server never needs the first position of a shifted model.
                let first = usize::from(network.config().shifted());
                if first < len {
                    let served = served(&mut backend, &pass.input(), first);
                    let gap = worst(&row[first * vocab..], &served);
                    assert!(gap < 5e-5, "{name}, {}: {gap}", pass.name);
                }
            }
        }
    }
}

/// The loss of `dream-tiny` on a fixed batch of two rows.
fn dream_loss(network: &Network, weights: &Weights) -> Tensor {
    let (vocab, len) = (network.config().vocab as u32, 9);
    let ids: Vec<u32> = (0..2 * len as u32).map(|i| (i * 37 + 5) % vocab).collect();
    let hidden = network.hidden(weights, &Input { tokens: Mixture::hard(&ids), len }).unwrap();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let logits = network.logits(weights, &hidden, &positions).unwrap();
    cross_entropy(&logits, &ids, &vec![1.0 / ids.len() as f32; ids.len()]).unwrap()
}

#[test]
fn every_gradient_of_full_weights_is_the_slope_of_the_loss() {
    let (config, weights) = export::read(&fixture("dream-tiny")).unwrap();
    let network = export::network(&config).unwrap();
    let variables: BTreeMap<String, Var> =
        weights.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
    let tracked: Weights = variables.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let gradients = dream_loss(&network, &tracked).backward().unwrap();
    assert_eq!(weights.keys().filter(|name| name.ends_with(".bias")).count(), 9);
    for (index, (name, tensor)) in weights.iter().enumerate() {
        let gradient = gradients.get(&tracked[name]).unwrap();
        let length = flat(gradient).iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        // Steep tensors take short steps, or curvature shows; flat ones long steps, or rounding does.
        let step = 0.02_f64.min(0.05 / length);
        // Along the gradient the slope is its length; a direction mixed with noise also sees wrong entries.
        let mut stream = Stream::new(index as u64, Purpose::Weights, &[]);
        let direction: Vec<f32> = (flat(gradient).iter())
            .map(|g| {
                (f64::from(*g) / length + 0.3 * stream.normal() / (tensor.elem_count() as f64).sqrt()) as f32
            })
            .collect();
        let expected: f64 = direction.iter().zip(flat(gradient)).map(|(d, g)| f64::from(d * g)).sum();
        let direction = Tensor::from_vec(direction, tensor.shape(), &Device::Cpu).unwrap();
        let at = |far: f64| {
            let mut moved = weights.clone();
            moved.insert(name.clone(), (tensor + (&direction * far).unwrap()).unwrap());
            f64::from(dream_loss(&network, &moved).to_scalar::<f32>().unwrap())
        };
        let slope = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
        assert!(
            (slope - expected).abs() < 2e-3 * expected.abs() + 1e-4,
            "{name}: {slope}, expected {expected}"
        );
    }
}
