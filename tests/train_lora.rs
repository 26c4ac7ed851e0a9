//! Adapters: how they start, train, are written, merged and served.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashSet;
use std::path::Path;

use candle_core::Tensor;
use evotoken::backend::{CandleBackend, device::DeviceChoice};
use evotoken::engine::batch::{AdapterId, Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;
use evotoken::train::data::{TokenRows, countdown};
use evotoken::train::lora::{LoraPath, LoraSettings};
use evotoken::train::network::{Input, Network, Weights};
use evotoken::train::ops::Mixture;
use evotoken::train::run::{LOG, Run};
use evotoken::train::settings::{ModelSettings, Settings};
use evotoken::train::{export, merge, tokenizer};

const SIZES: ModelSettings =
    ModelSettings { width: 16, layers: 2, heads: 2, mlp: 24, rope_theta: 1e4, max_positions: 512 };

const RECIPE: &str = r#"
    seed = 1
    updates = 4
    threads = 2
    shard_rows = 4
    checkpoint_every = 2
    evaluate_every = 0
    accumulation = 2
    canvases = [{ length = 8, rows = 8, weight = 1.0 }]
    adam = { rate = 1e-2 }
    schedule = { shape = "linear" }
    generation = { max_new_tokens = 16, diffusion = { method = "evotoken", block_length = 4 } }
    [lora]
    rank = 4
    alpha = 8.0
    dropout = 0.1
    modules = ["q_proj", "v_proj", "ff_out"]
    [objective]
    kind = "cts"
    stages = 2
    per_stage = [1, 2]
    block_lengths = [4]
    short_block = "fewer_stages"
    aligned = true
    k_soft = 3
    alpha = [0.5, 1.0]
"#;

fn base() -> (serde_json::Value, Network, Weights) {
    let config = export::config_json(&SIZES);
    let network = export::network(&config).unwrap();
    let weights = network.init(3).unwrap();
    (config, network, weights)
}

fn settings() -> Settings {
    Settings::parse(RECIPE).unwrap()
}

fn start(settings: &Settings, folder: &Path) -> Run {
    let (_, network, weights) = base();
    let made = countdown::generate(40, 3, 1, &HashSet::new()).unwrap();
    let rows = TokenRows::encode(&made, &tokenizer::build().unwrap(), tokenizer::EOS).unwrap();
    Run::new(settings.clone(), network, &weights, rows, folder).unwrap()
}

fn trained() -> (Settings, Weights, Weights) {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings();
    let mut run = start(&settings, folder.path());
    run.train(4, &|_, _| Ok(String::new())).unwrap();
    (settings, run.trained(), run.weights().unwrap())
}

fn bits(weights: &Weights) -> Vec<u32> {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights.values().flat_map(flat).map(f32::to_bits).collect()
}

fn gap(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

const IDS: [u32; 6] = [3, 40, 300, 7, 1, 1];

fn logits(network: &Network, weights: &Weights) -> Tensor {
    let input = Input { tokens: Mixture::hard(&IDS), len: IDS.len() };
    let hidden = network.hidden(weights, &input).unwrap();
    network.logits(weights, &hidden, &[0, 1, 2, 3, 4, 5]).unwrap()
}

fn together(base: &Weights, adapter: &Weights) -> Weights {
    base.clone().into_iter().chain(adapter.clone()).collect()
}

#[test]
fn a_new_adapter_changes_nothing_and_names_its_modules() {
    let (_, network, weights) = base();
    let settings = settings().lora.unwrap();
    let adapter = settings.init(&network, 1).unwrap();
    assert_eq!(adapter.len(), 2 * 3 * SIZES.layers);
    let name = |module: &str, kind: &str| {
        format!("base_model.model.model.transformer.blocks.1.{module}.lora_{kind}.weight")
    };
    assert_eq!(adapter[&name("ff_out", "A")].dims(), [4, 24]);
    assert_eq!(adapter[&name("ff_out", "B")].dims(), [16, 4]);
    let path = LoraPath { scaling: settings.scaling(), dropout: 0.0, key: 0 };
    let with = network.clone().with_lora(path);
    assert_eq!(gap(&logits(&with, &together(&weights, &adapter)), &logits(&network, &weights)), 0.0);
}

#[test]
fn a_module_the_network_does_not_have_is_named() {
    let (_, network, _) = base();
    let settings =
        LoraSettings { modules: vec!["q_proj".to_owned(), "qkv".to_owned()], ..Default::default() };
    let error = settings.init(&network, 1).unwrap_err().to_string();
    assert!(error.contains("\"qkv\""), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    for (from, to, name) in [
        ("rank = 4", "rank = 0", "rank"),
        ("dropout = 0.1", "dropout = 1.0", "dropout"),
        ("modules = [\"q_proj\", \"v_proj\", \"ff_out\"]", "modules = []", "modules"),
        ("accumulation = 2", "accumulation = 0", "accumulation"),
        ("rank = 4", "ranks = 4", "ranks"),
    ] {
        let error = format!("{:#}", Settings::parse(&RECIPE.replace(from, to)).unwrap_err());
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_low_rank_path_equals_the_merged_weights() {
    let (settings, adapter, merged) = trained();
    let (_, network, weights) = base();
    let path = LoraPath { scaling: settings.lora.unwrap().scaling(), dropout: 0.0, key: 0 };
    let apart = logits(&network.clone().with_lora(path), &together(&weights, &adapter));
    assert!(gap(&apart, &logits(&network, &merged)) < 1e-5);
    assert!(gap(&apart, &logits(&network, &weights)) > 1e-3, "training changed nothing");
}

#[test]
fn every_adapter_matrix_trains_and_nothing_else_does() {
    let (_, adapter, _) = trained();
    let (_, network, _) = base();
    let before = settings().lora.unwrap().init(&network, 1).unwrap();
    assert!(before.keys().eq(adapter.keys()));
    for (name, tensor) in &adapter {
        assert!(gap(tensor, &before[name]) > 0.0, "{name} did not change");
    }
}

#[test]
fn dropped_inputs_differ_between_passes_and_repeat_for_one() {
    let (settings, adapter, _) = trained();
    let (_, network, weights) = base();
    let path = LoraPath { scaling: settings.lora.unwrap().scaling(), dropout: 0.5, key: 9 };
    let (network, all) = (network.with_lora(path), together(&weights, &adapter));
    let of = |index: u64| logits(&network.pass(&[index]), &all);
    assert_eq!(gap(&of(1), &of(1)), 0.0);
    assert!(gap(&of(1), &of(2)) > 0.0);
}

#[test]
fn a_resumed_adapter_run_ends_with_the_same_bits() {
    let mut settings = settings();
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let silent = |_: &Network, _: &Weights| Ok(String::new());
    let mut run = start(&settings, &whole);
    run.train(4, &silent).unwrap();
    start(&settings, &parts).train(2, &silent).unwrap();
    settings.threads = 1;
    let mut second = start(&settings, &parts);
    second.resume().unwrap();
    second.train(4, &silent).unwrap();
    assert_eq!(bits(&run.trained()), bits(&second.trained()));
    assert_eq!(run.progress().rows, 4 * 2 * 8);
}

#[test]
fn accumulated_gradients_are_a_mean() {
    let folder = tempfile::tempdir().unwrap();
    // 40 rows are an epoch: each batch holds every row once, under other noise.
    let recipe = RECIPE.replace("rows = 8", "rows = 40").replace("dropout = 0.1", "dropout = 0.0");
    let first = |batches: &str| -> serde_json::Value {
        let settings = Settings::parse(&recipe.replace("accumulation = 2", batches)).unwrap();
        let folder = folder.path().join(batches);
        start(&settings, &folder).train(1, &|_, _| Ok(String::new())).unwrap();
        serde_json::from_str(std::fs::read_to_string(folder.join(LOG)).unwrap().trim()).unwrap()
    };
    let (one, four) = (first("accumulation = 1"), first("accumulation = 4"));
    assert_eq!((one["rows"].as_u64(), four["rows"].as_u64()), (Some(40), Some(160)));
    for (what, range) in [("loss", 0.8..1.25), ("norm", 0.3..1.5)] {
        let ratio = four[what].as_f64().unwrap() / one[what].as_f64().unwrap();
        assert!(range.contains(&ratio), "{what}: {ratio} times that of one batch");
    }
}

/// All logits of a text through the code that serves.
fn served(model: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let mut backend = CandleBackend::load(&ModelSource::folder(model), DeviceChoice::Cpu).unwrap();
    let load = |folder| {
        backend.adapter_loader().load(AdapterId(1), &ModelSource::folder(folder)).unwrap();
        AdapterId(1)
    };
    let adapter = adapter.map(load);
    let slot = SlotId { index: 0, generation: 0 };
    let canvas = IDS.len();
    backend.open_slot(slot, canvas).unwrap();
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    IDS.iter().for_each(|id| batch.push_row([(*id, 1.0)]));
    batch.segments.push(Segment {
        slot,
        adapter,
        window: 0..canvas,
        visible: canvas,
        targets: 0..canvas,
        sampling: None,
    });
    backend.logits(&batch).unwrap().concat().concat()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_written_adapter_is_served_and_merged_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let [model, adapter, merged] = ["base", "adapter", "merged"].map(|name| folder.path().join(name));
    let (config, network, weights) = base();
    let (settings, trained, together) = trained();
    export::write(&model, &config, &weights, &settings.generation).unwrap();
    let lora = settings.lora.as_ref().unwrap();
    export::write_adapter(&adapter, "base", &trained, lora, &settings.generation).unwrap();

    let expected: Vec<f32> = logits(&network, &together).flatten_all().unwrap().to_vec1().unwrap();
    let apart = served(&model, Some(&adapter));
    assert_eq!(apart.len(), expected.len());
    // Files are bf16, training is f32.
    assert!(farthest(&apart, &expected) < 0.05, "{}", farthest(&apart, &expected));
    assert!(farthest(&served(&model, None), &expected) > 0.05);

    merge::merge(&model, &adapter, &merged).unwrap();
    assert!(farthest(&served(&merged, None), &apart) < 0.05);
    let defaults = std::fs::read_to_string(merged.join("generation_config.json")).unwrap();
    assert!(defaults.contains("\"evotoken\"") && defaults.contains("eos_token_id"), "{defaults}");
    let again = merge::merge(&model, &adapter, &merged).unwrap_err().to_string();
    assert!(again.contains("holds a model already"), "{again}");
}

#[test]
fn an_adapter_of_another_model_is_refused_and_no_model_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let [model, adapter, merged] = ["base", "adapter", "merged"].map(|name| folder.path().join(name));
    let (settings, trained, _) = trained();
    let sizes = ModelSettings { width: 32, ..SIZES };
    let config = export::config_json(&sizes);
    let weights = export::network(&config).unwrap().init(1).unwrap();
    export::write(&model, &config, &weights, &settings.generation).unwrap();
    export::write_adapter(&adapter, "base", &trained, settings.lora.as_ref().unwrap(), &settings.generation)
        .unwrap();
    let error = format!("{:#}", merge::merge(&model, &adapter, &merged).unwrap_err());
    assert!(error.contains(".lora_") && error.contains("expected shape"), "{error}");
    assert!(!merged.join("config.json").exists());
}
