//! Far positions: a canvas of all positions that a model has, against its formula in f64.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor};
use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;
use serde_json::Value;

use super::folders;

/// Four times as many as the golden model was made for.
const POSITIONS: usize = 2048;
const SLOT: SlotId = SlotId { index: 0, generation: 0 };

/// LLaDA's network as its paper and its code have it, in f64, with rotary angles rounded to f32.
struct Formula {
    tensors: HashMap<String, Tensor>,
    heads: usize,
    layers: usize,
    theta: f64,
    eps: f64,
}

impl Formula {
    fn weight(&self, name: &str) -> &Tensor {
        &self.tensors[&format!("model.transformer.{name}.weight")]
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight(name).t()?)
    }

    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let scale = ((x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?).sqrt()?;
        x.broadcast_div(&scale)?.broadcast_mul(self.weight(name))
    }

    /// `[positions, width]` → `[heads, positions, h]`, turned by the angles of the positions.
    fn turned(&self, x: &Tensor, positions: usize) -> Result<Tensor> {
        let heads = self.split(x, positions)?;
        let half = heads.dim(2)? / 2;
        let angle = |n: usize| (n / half) as f64 * self.theta.powf(-((n % half) as f64) / half as f64);
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f64> = (0..positions * half).map(|n| f64::from(of(angle(n)) as f32)).collect();
            Tensor::from_vec(values, (1, positions, half), &Device::Cpu)
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[left, right], 2)
    }

    fn split(&self, x: &Tensor, positions: usize) -> Result<Tensor> {
        x.reshape((positions, self.heads, ()))?.transpose(0, 1)?.contiguous()
    }

    fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        let positions = ids.len();
        let mut x = self.weight("wte").index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for layer in 0..self.layers {
            let name = |part: &str| format!("blocks.{layer}.{part}");
            let y = self.norm(&name("attn_norm"), &x)?;
            let q = self.turned(&self.linear(&name("q_proj"), &y)?, positions)?;
            let k = self.turned(&self.linear(&name("k_proj"), &y)?, positions)?;
            let v = self.split(&self.linear(&name("v_proj"), &y)?, positions)?;
            let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (q.dim(2)? as f64).sqrt())?;
            let scores = scores.broadcast_sub(&scores.max_keepdim(2)?)?.exp()?;
            let weights = scores.broadcast_div(&scores.sum_keepdim(2)?)?;
            let mixed = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?.reshape((positions, ()))?;
            x = (x + self.linear(&name("attn_out"), &mixed)?)?;
            let y = self.norm(&name("ff_norm"), &x)?;
            let gate = self.linear(&name("ff_proj"), &y)?;
            let gated = (gate.silu()? * self.linear(&name("up_proj"), &y)?)?;
            x = (x + self.linear(&name("ff_out"), &gated)?)?;
        }
        self.linear("ff_out", &self.norm("ln_f", &x)?)
    }
}

/// The golden LLaDA with more positions.
fn lengthened() -> (CandleBackend, Formula) {
    let fixture = folders().into_iter().find(|folder| folder.ends_with("llada-tiny")).unwrap();
    let mut config: Value = super::read_json(&fixture.join("config.json"));
    config["max_sequence_length"] = POSITIONS.into();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let backend = CandleBackend::load(&ModelSource::folder(folder.path()), DeviceChoice::Cpu).unwrap();
    let tensors = candle_core::safetensors::load(fixture.join("model.safetensors"), &Device::Cpu).unwrap();
    let wide = |(name, tensor): (String, Tensor)| (name, tensor.to_dtype(DType::F64).unwrap());
    let count = |key: &str| usize::try_from(config[key].as_u64().unwrap()).unwrap();
    let number = |key: &str| config[key].as_f64().unwrap();
    let formula = Formula {
        tensors: tensors.into_iter().map(wide).collect(),
        heads: count("n_heads"),
        layers: count("n_layers"),
        theta: number("rope_theta"),
        eps: number("rms_norm_eps"),
    };
    (backend, formula)
}

/// A pass over a window that sees all before it, with the logits of its last rows.
fn pass(backend: &mut CandleBackend, ids: &[u32], first: usize, rows: usize) -> Vec<Vec<f32>> {
    let window = first..ids.len();
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    for id in &ids[window.clone()] {
        batch.push_row([(*id, 1.0)]);
    }
    let targets = ids.len() - rows..ids.len();
    let visible = ids.len();
    batch.segments.push(Segment { slot: SLOT, adapter: None, window, visible, targets, sampling: None });
    backend.logits(&batch).unwrap().remove(0)
}

#[test]
fn logits_at_the_end_of_the_longest_canvas_are_the_formula_s() {
    const ROWS: usize = 8;
    let (mut backend, formula) = lengthened();
    let ids: Vec<u32> = (0..POSITIONS as u32).map(|n| 2 + n * 37 % 97).collect();
    let expected = formula.logits(&ids).unwrap().narrow(0, POSITIONS - ROWS, ROWS).unwrap();
    let expected = expected.to_vec2::<f64>().unwrap();
    backend.open_slot(SLOT, POSITIONS).unwrap();
    // All at once, then a block at the end alone.
    for first in [0, POSITIONS - 32] {
        let found = pass(&mut backend, &ids, first, ROWS);
        let pairs = expected.iter().flatten().zip(found.iter().flatten());
        let largest = pairs.map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
        println!("window from {first}: largest difference {largest:.1e}");
        assert!(largest <= 1e-3, "window from {first}: {largest}");
    }
    // The test can fail: the last positions depend on where they are.
    let near = formula.logits(&ids[POSITIONS - 512..]).unwrap().narrow(0, 512 - ROWS, ROWS).unwrap();
    let near = near.to_vec2::<f64>().unwrap();
    let moved = expected.iter().flatten().zip(near.iter().flatten()).map(|(a, b)| (a - b).abs());
    assert!(moved.fold(0.0, f64::max) > 0.01);
}

#[test]
fn a_position_beyond_the_last_is_refused_by_the_network() {
    let (mut backend, _) = lengthened();
    backend.open_slot(SLOT, POSITIONS + 1).unwrap();
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    batch.push_row([(2, 1.0)]);
    let window = POSITIONS..POSITIONS + 1;
    let segment =
        Segment { slot: SLOT, adapter: None, targets: window.clone(), window, visible: 1, sampling: None };
    batch.segments.push(Segment { visible: POSITIONS + 1, ..segment });
    let error = backend.logits(&batch).unwrap_err().to_string();
    assert!(error.contains("position 2048 is beyond the model's last, 2047"), "{error}");
}
