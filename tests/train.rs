//! Operations, objectives, and small runs from end to end.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use evotoken::train::data::{TokenRows, countdown};
use evotoken::train::network::{Network, Weights};
use evotoken::train::objective::masked::{MaskedBatch, MaskedSettings};
use evotoken::train::objective::noise::{CtsSettings, ShortBlock};
use evotoken::train::objective::{Gradients, Truth};
use evotoken::train::ops::{self, Heads, Mixture};
use evotoken::train::random::{Purpose, Stream};
use evotoken::train::run::{CHECKPOINT, LOG, Run};
use evotoken::train::settings::{ModelSettings, Objective, Settings};
use evotoken::train::{checkpoint, export, tokenizer};
use proptest::prelude::*;

// ---- operations ----

fn tensor(shape: &[usize], salt: u64, dtype: DType) -> Tensor {
    let mut stream = Stream::new(salt, Purpose::Weights, &[]);
    let data: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(data, shape, &Device::Cpu)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

/// Run `f` in f32 (fused) and f64 (composed of candle's operations); values and gradients must agree.
fn fused_equals_composed(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Tensor) {
    let run = |dtype| {
        let inputs: Vec<Var> = (shapes.iter().enumerate())
            .map(|(i, shape)| Var::from_tensor(&tensor(shape, i as u64 + 1, dtype)).unwrap())
            .collect();
        let out = f(&inputs.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>());
        let weights = tensor(out.dims(), 99, out.dtype());
        let grads = (&out * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let mut all = vec![out];
        all.extend(inputs.iter().map(|v| grads.get(v).expect("every input gets a gradient").clone()));
        all.iter()
            .map(|t| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap())
            .collect::<Vec<_>>()
    };
    for (fused, composed) in run(DType::F32).iter().zip(run(DType::F64)) {
        assert_eq!(fused.len(), composed.len());
        let scale = composed.iter().fold(1.0f64, |a, b| a.max(b.abs()));
        let gap = fused.iter().zip(&composed).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap < 3e-6 * scale, "off by {gap} of {scale}");
    }
}

#[test]
fn fused_operations_equal_composed_ones() {
    fused_equals_composed(&[&[7, 24], &[11, 24]], |x| ops::linear(&x[0], &x[1]).unwrap());
    fused_equals_composed(&[&[7, 40], &[40]], |x| ops::rms_norm(&x[0], &x[1], 1e-5).unwrap());
    fused_equals_composed(&[&[7, 40], &[7, 40]], |x| ops::swiglu(&x[0], &x[1]).unwrap());
    fused_equals_composed(&[&[5, 37]], |x| {
        ops::cross_entropy(&x[0], &[3, 0, 36, 8, 8], &[0.5, 1.0, 0.0, 2.0, 0.1]).unwrap()
    });
    for kv_heads in [4, 2] {
        let heads = Heads { len: 19, heads: 4, kv_heads, width: 8, theta: 1e4 };
        fused_equals_composed(&[&[38, 32], &[38, 8 * kv_heads], &[38, 8 * kv_heads]], |x| {
            ops::attention(&x[0], &x[1], &x[2], heads).unwrap()
        });
    }
    let mixture =
        Mixture { ids: vec![1, 4, 0, 0, 3, 3], weights: vec![0.5, 0.5, 1.0, 0.0, 0.2, 0.8], width: 2 };
    fused_equals_composed(&[&[5, 16]], |x| ops::embed(&x[0], &mixture).unwrap());
}

#[test]
fn the_fast_exponential_is_accurate() {
    for i in -8600..=8700 {
        let x = i as f32 / 100.0;
        let (found, expected) = (f64::from(ops::exp(x)), f64::from(x).exp());
        assert!((found / expected - 1.0).abs() < 3e-7, "e^{x} is {expected}, not {found}");
    }
}

// ---- objectives ----

const SIZES: ModelSettings =
    ModelSettings { width: 16, layers: 2, heads: 2, mlp: 24, rope_theta: 1e4, max_positions: 512 };

fn small() -> (serde_json::Value, Network, Weights) {
    let config = export::config_json(&SIZES);
    let network = export::network(&config).unwrap();
    let weights = network.init(3).unwrap();
    (config, network, weights)
}

fn truth(count: usize, canvas: usize) -> Truth {
    let made = countdown::generate(count, 3, 1, &HashSet::new()).unwrap();
    let rows = TokenRows::encode(&made, &tokenizer::build().unwrap(), tokenizer::EOS).unwrap();
    rows.truth(&(0..count).collect::<Vec<_>>(), canvas).unwrap()
}

fn variables(weights: &Weights) -> (BTreeMap<String, Var>, Weights) {
    let vars: BTreeMap<_, _> =
        weights.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
    let trainable = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    (vars, trainable)
}

const MASKS: MaskedSettings = MaskedSettings { block_share: 0.5, block_length: 4, block_start_below: 12 };

fn cts_settings() -> CtsSettings {
    CtsSettings {
        stages: 4,
        per_stage: vec![1, 2],
        block_lengths: vec![4, 8],
        short_block: ShortBlock::FewerStages,
        latest_start: Some(12),
        aligned: true,
        k_soft: 3,
        alpha: [0.5, 1.0],
    }
}

fn nonzero(gradients: &Gradients, names: &Weights) {
    for name in names.keys() {
        let size = gradients[name].abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(size > 0.0, "{name} got no gradient");
    }
}

#[test]
fn every_trainable_tensor_gets_a_gradient() {
    let (_, network, weights) = small();
    let (_vars, trainable) = variables(&weights);
    let truth = truth(8, 16);
    let mut stream = Stream::new(1, Purpose::Noise, &[]);
    let masked = MaskedBatch::draw(&truth, tokenizer::MASK, &MASKS, &mut stream);
    nonzero(&masked.gradients(&network, &trainable, &trainable).unwrap().1, &weights);

    let cts = cts_settings().draw(&truth, tokenizer::MASK, &mut stream).unwrap();
    let (_, gradients) = cts.gradients(&network, &trainable, &trainable, 3, cts.scored()).unwrap();
    nonzero(&gradients, &weights);
}

#[test]
fn a_trainable_tensor_outside_the_network_is_an_error() {
    let (_, network, mut weights) = small();
    weights.insert("stray".to_owned(), tensor(&[2], 1, DType::F32));
    let (_vars, trainable) = variables(&weights);
    let mut stream = Stream::new(1, Purpose::Noise, &[]);
    let batch = MaskedBatch::draw(&truth(2, 8), tokenizer::MASK, &MASKS, &mut stream);
    let error = batch.gradients(&network, &trainable, &trainable).unwrap_err();
    assert_eq!(error.to_string(), "tensor stray got no gradient");
}

#[test]
fn shards_add_up_to_the_batch() {
    let (_, network, weights) = small();
    let (_vars, trainable) = variables(&weights);
    let mut stream = Stream::new(1, Purpose::Noise, &[]);
    let batch = MaskedBatch::draw(&truth(6, 8), tokenizer::MASK, &MASKS, &mut stream);
    let loss = |b: &MaskedBatch| b.gradients(&network, &trainable, &trainable).unwrap().0;
    let parts = loss(&batch.shard(0..2)) + loss(&batch.shard(2..6));
    assert!((parts - loss(&batch)).abs() < 1e-5);
}

proptest! {
    #[test]
    fn cts_noise_stays_in_bounds(seed: u64, canvas in 8usize..40, grow: bool, aligned: bool) {
        let truth = truth(4, canvas);
        let short_block = if grow { ShortBlock::Grow } else { ShortBlock::FewerStages };
        let settings = CtsSettings { short_block, aligned, ..cts_settings() };
        let batch = settings.draw(&truth, tokenizer::MASK, &mut Stream::new(seed, Purpose::Noise, &[])).unwrap();
        prop_assert!((1..=4).contains(&batch.stages()));
        let length = batch.end[0] + 1 - batch.start[0];
        for row in 0..4 {
            prop_assert!(batch.start[row] >= truth.prompt_len[row] || grow);
            prop_assert!(batch.end[row] < truth.len);
            prop_assert_eq!(batch.end[row] + 1 - batch.start[row], length);
            let ids = &batch.noisy[row * truth.len..(row + 1) * truth.len];
            let real = &truth.ids[row * truth.len..(row + 1) * truth.len];
            prop_assert_eq!(&ids[..batch.start[row]], &real[..batch.start[row]]);
            prop_assert!(ids[batch.end[row] + 1..].iter().all(|id| *id == tokenizer::MASK));
            let decided: Vec<usize> = batch.unmask[row].concat();
            let different: HashSet<_> = decided.iter().collect();
            prop_assert_eq!(different.len(), decided.len());
            prop_assert!(decided.iter().all(|at| (batch.start[row]..=batch.end[row]).contains(at) && ids[*at] == tokenizer::MASK));
            prop_assert!((batch.start[row]..=batch.end[row]).all(|at| ids[at] == tokenizer::MASK || ids[at] == real[at]));
        }
        prop_assert!(batch.alphas.iter().flatten().all(|a| (0.5..1.0).contains(a)));
    }
}

// ---- runs ----

const RECIPE: &str = r#"
    seed = 1
    updates = 6
    threads = 2
    shard_rows = 4
    checkpoint_every = 2
    evaluate_every = 0
    canvases = [{ length = 8, rows = 8, weight = 1.0 }, { length = 12, rows = 6, weight = 1.0 }]
    adam = { rate = 1e-2 }
    schedule = { shape = "linear" }
    generation = { max_new_tokens = 16, diffusion = { block_length = 4 } }
"#;

fn recipe(objective: Objective) -> Settings {
    let text = RECIPE.to_owned() + "[objective]\n" + &config_text(&objective);
    Settings::parse(&text).unwrap()
}

fn config_text(objective: &Objective) -> String {
    match serde_json::to_value(objective).unwrap() {
        serde_json::Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
        }
        other => panic!("an objective is a table, not {other}"),
    }
}

fn token_rows() -> TokenRows {
    let made = countdown::generate(20, 3, 1, &HashSet::new()).unwrap();
    TokenRows::encode(&made, &tokenizer::build().unwrap(), tokenizer::EOS).unwrap()
}

fn silent(_: &Network, _: &Weights) -> anyhow::Result<String> {
    Ok(String::new())
}

fn start(settings: &Settings, folder: &Path) -> Run {
    let (_, network, weights) = small();
    Run::new(settings.clone(), network, &weights, token_rows(), folder).unwrap()
}

fn bits(run: &Run) -> Vec<u32> {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    run.weights().unwrap().values().flat_map(flat).map(f32::to_bits).collect()
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    for objective in [Objective::Masked(MASKS), Objective::Cts(cts_settings())] {
        let mut settings = recipe(objective);
        let folder = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
        let mut run = start(&settings, &whole);
        let before = bits(&run);
        run.train(6, &silent).unwrap();
        assert_ne!(before, bits(&run));

        let mut first = start(&settings, &parts);
        first.train(3, &silent).unwrap();
        drop(first);
        settings.threads = 1;
        let mut second = start(&settings, &parts);
        second.resume().unwrap();
        assert_eq!(second.progress().updates, 3);
        second.train(6, &silent).unwrap();
        assert_eq!(bits(&run), bits(&second));

        let log = std::fs::read_to_string(parts.join(LOG)).unwrap();
        assert_eq!(log.lines().count(), 6);
    }
}

#[test]
fn training_lowers_the_loss() {
    let mut settings = recipe(Objective::Masked(MASKS));
    settings.updates = 60;
    let folder = tempfile::tempdir().unwrap();
    start(&settings, folder.path()).train(60, &silent).unwrap();
    let log = std::fs::read_to_string(folder.path().join(LOG)).unwrap();
    let loss =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    let losses: Vec<f64> = log.lines().map(loss).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[40..]) < 0.75 * mean(&losses[..10]), "{losses:?}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_spares_the_checkpoint() {
    let settings = recipe(Objective::Masked(MASKS));
    let folder = tempfile::tempdir().unwrap();
    start(&settings, folder.path()).train(2, &silent).unwrap();
    let saved = std::fs::read(folder.path().join(CHECKPOINT)).unwrap();

    let (_, network, mut weights) = small();
    let name = "model.transformer.ln_f.weight";
    weights.insert(name.to_owned(), (&weights[name] * f64::NAN).unwrap());
    let mut broken = Run::new(settings, network, &weights, token_rows(), folder.path()).unwrap();
    let error = format!("{:#}", broken.train(6, &silent).unwrap_err());
    assert_eq!(error, "update 1 failed; the last checkpoint is intact: the loss is NaN");
    assert_eq!(std::fs::read(folder.path().join(CHECKPOINT)).unwrap(), saved);
}

#[test]
fn a_written_model_folder_reads_back() {
    let (config, network, weights) = small();
    let folder = tempfile::tempdir().unwrap();
    let settings = recipe(Objective::Masked(MASKS));
    export::write(folder.path(), &config, &weights, &settings.generation).unwrap();
    let (read_config, read) = export::read(folder.path()).unwrap();
    assert_eq!(read_config, config);
    network.check(&read).unwrap();
    for (name, tensor) in &weights {
        let gap =
            (tensor - &read[name]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(gap < 0.02, "{name}: bf16 is off by {gap}");
    }
    let file = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(file.get_vocab_size(true), tokenizer::VOCABULARY);
    assert_eq!(read_config["mask_token_id"], file.token_to_id("<mask>").unwrap());
    checkpoint::write_tensors(&folder.path().join("extra.safetensors"), &read, None).unwrap();
    assert!(!folder.path().join("extra.safetensors.partial").exists());
}

#[test]
fn shipped_recipes_parse() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/trainer");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        Settings::read(&entry.unwrap().path()).unwrap();
        found += 1;
    }
    assert!(found >= 2);
}

#[test]
fn an_unknown_key_in_a_recipe_is_named() {
    let error = format!(
        "{:#}",
        Settings::parse(&(RECIPE.to_owned() + "speed = 3\n[objective]\nkind = \"masked\"\n")).unwrap_err()
    );
    assert!(error.contains("speed") || error.contains("block_share"), "{error}");
}
