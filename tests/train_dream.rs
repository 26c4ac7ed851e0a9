//! A Dream model from end to end: fine-tuned by the program, written, and served as it was trained.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::engine::batch::{AdapterId, Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;
use evotoken::train::network::Input;
use evotoken::train::ops::Mixture;
use evotoken::train::{export, merge};
use serde_json::json;

const RECIPE: &str = r#"
    seed = 1
    updates = 3
    threads = 2
    shard_rows = 4
    checkpoint_every = 2
    evaluate_every = 0
    canvases = [{ length = 8, rows = 8, weight = 1.0 }]
    adam = { rate = 2e-3 }
    schedule = { shape = "constant" }
    generation = { max_new_tokens = 16, diffusion = { method = "evotoken", block_length = 4 } }
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
const LORA: &str = "    [lora]\n    rank = 4\n    alpha = 8.0\n    dropout = 0.0\n";
const IDS: [u32; 6] = [3, 40, 120, 7, 140, 140];

/// `dream-tiny` in two shards, with a tokenizer of letters, a chat template and decoding defaults; and rows to train on.
fn prepare(folder: &Path) -> [PathBuf; 2] {
    let [model, rows] = ["dream", "rows.jsonl"].map(|name| folder.join(name));
    std::fs::create_dir_all(&model).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dream-tiny");
    std::fs::copy(fixture.join("config.json"), model.join("config.json")).unwrap();
    let tensors =
        candle_core::safetensors::load(fixture.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let (mut shards, mut index) =
        ([std::collections::HashMap::new(), std::collections::HashMap::new()], json!({}));
    for (number, (name, tensor)) in tensors.into_iter().enumerate() {
        index[&name] = json!(format!("model-{}.safetensors", number % 2));
        shards[number % 2].insert(name, tensor);
    }
    for (number, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, model.join(format!("model-{number}.safetensors"))).unwrap();
    }
    let write = |name: &str, text: String| std::fs::write(model.join(name), text).unwrap();
    write("model.safetensors.index.json", json!({ "weight_map": index }).to_string());
    write("generation_config.json", json!({"temperature": 0.25, "max_new_tokens": 99}).to_string());
    write("chat_template.jinja", "{{ messages[0].content }}".to_owned());
    let vocabulary: serde_json::Map<_, _> =
        ('a'..='z').enumerate().map(|(id, letter)| (letter.to_string(), json!(id + 10))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    });
    write("tokenizer.json", tokenizer.to_string());
    let row = |n: u8| {
        let letter = |i: u8| char::from(b'a' + (n * 7 + i * 3) % 26);
        json!({"prompt": (0..5).map(letter).collect::<String>(), "completion": (5..10).map(letter).collect::<String>()})
    };
    let text: String = (0..24).map(|n| row(n).to_string() + "\n").collect();
    std::fs::write(&rows, text).unwrap();
    [model, rows]
}

fn finetune(recipe: &str, [model, rows]: &[PathBuf; 2], out: &Path) {
    let config = out.with_extension("toml");
    std::fs::write(&config, recipe).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["finetune", "--config"])
        .arg(&config)
        .arg("--model")
        .arg(model)
        .arg("--data")
        .arg(rows)
        .arg("--run")
        .arg(out.with_extension("run"))
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Logits of the positions from 1 on through the code that serves.
fn served(model: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let mut backend = CandleBackend::load(&ModelSource::folder(model), DeviceChoice::Cpu).unwrap();
    let load = |folder| {
        backend.adapter_loader().load(AdapterId(1), &ModelSource::folder(folder)).unwrap();
        AdapterId(1)
    };
    let adapter = adapter.map(load);
    let (slot, canvas) = (SlotId { index: 0, generation: 0 }, IDS.len());
    backend.open_slot(slot, canvas).unwrap();
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    IDS.iter().for_each(|id| batch.push_row([(*id, 1.0)]));
    let (window, targets) = (0..canvas, 1..canvas);
    batch.segments.push(Segment { slot, adapter, window, visible: canvas, targets, sampling: None });
    backend.logits(&batch).unwrap().concat().concat()
}

/// The same through the network that trains.
fn trained(model: &Path) -> Vec<f32> {
    let (config, weights) = export::read(model).unwrap();
    let network = export::network(&config).unwrap();
    let hidden = network.hidden(&weights, &Input { tokens: Mixture::hard(&IDS), len: IDS.len() }).unwrap();
    network.logits(&weights, &hidden, &[1, 2, 3, 4, 5]).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn fine_tuned_dream_weights_are_served_as_they_were_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (prepare(folder.path()), folder.path().join("tuned"));
    finetune(RECIPE, &input, &out);
    let tuned = served(&out, None);
    assert!(farthest(&tuned, &trained(&out)) < 5e-5);
    assert!(farthest(&tuned, &served(&input[0], None)) > 0.05, "training changed nothing");

    let same = |name: &str| {
        let [a, b] = [&input[0], &out].map(|folder| std::fs::read_to_string(folder.join(name)).unwrap());
        assert_eq!(a, b, "{name}");
    };
    same("tokenizer.json");
    same("chat_template.jinja");
    assert!(!out.join("model.safetensors.index.json").exists(), "the weights are one file now");
    let text = std::fs::read(out.join("generation_config.json")).unwrap();
    let defaults: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(defaults["temperature"], 0.25);
    assert_eq!(defaults["max_new_tokens"], 16);
    assert_eq!(defaults["diffusion"]["method"], "evotoken");
}

#[test]
fn a_dream_adapter_is_served_and_merged_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (prepare(folder.path()), folder.path().join("adapter"));
    finetune(&(RECIPE.replace("rate = 2e-3", "rate = 5e-2") + LORA), &input, &out);
    let adapted = served(&input[0], Some(&out));
    let moved = farthest(&adapted, &served(&input[0], None));
    let merged = folder.path().join("merged");
    merge::merge(&input[0], &out, &merged).unwrap();
    // The merged weights are rounded to bf16, which is much less than what training changed.
    let rounding = farthest(&served(&merged, None), &adapted);
    assert!(moved > 0.5 && rounding < 0.1 * moved, "moved by {moved}, rounded by {rounding}");
    assert!(
        merged.join("model.safetensors.index.json").exists() && merged.join("chat_template.jinja").exists()
    );
}
