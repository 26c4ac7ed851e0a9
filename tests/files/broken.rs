//! Broken checkpoints: each is refused in one line that names the file and the tensor, and `docs/models.md` shows it.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::engine::batch::AdapterId;
use evotoken::model::ModelSource;
use serde_json::{Value as Json, json};

use crate::checkpoint::{self, Stored};
use crate::gguf::{File, Value};

const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const QUERIES: &str = "model.transformer.blocks.0.q_proj.weight";

/// What is done to a sound folder, and what is said about it; `DIR` stands for the folder.
struct Case {
    name: &'static str,
    damage: fn(&Path),
    message: &'static str,
}

fn rewrite(folder: &Path, change: impl FnOnce(&mut Vec<Stored>)) {
    let mut tensors = checkpoint::weights();
    change(&mut tensors);
    write(folder, MODEL, &tensors);
}

fn write(folder: &Path, file: &str, tensors: &[Stored]) {
    let bytes = checkpoint::file(&checkpoint::header(tensors), None, tensors);
    std::fs::write(folder.join(file), bytes).unwrap();
}

fn queries(tensors: &mut [Stored]) -> &mut Stored {
    tensors.iter_mut().find(|tensor| tensor.name == QUERIES).unwrap()
}

fn change_config(folder: &Path, key: &str, value: Json) {
    let mut config = checkpoint::config();
    config[key] = value;
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Two shards, the second with the queries, and an index that says so but for `change`.
fn shard(folder: &Path, change: impl FnOnce(&mut Json)) {
    let (second, first): (Vec<_>, Vec<_>) =
        checkpoint::weights().into_iter().partition(|t| t.name == QUERIES);
    write(folder, "a.safetensors", &first);
    write(folder, "b.safetensors", &second);
    std::fs::remove_file(folder.join(MODEL)).unwrap();
    let file = |t: &Stored| json!(if t.name == QUERIES { "b.safetensors" } else { "a.safetensors" });
    let map = checkpoint::weights().into_iter().map(|t| (t.name.clone(), file(&t)));
    let mut index = json!({"metadata": {}, "weight_map": Json::from_iter(map)});
    change(&mut index["weight_map"]);
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
}

const FOLDERS: [Case; 15] = [
    Case {
        name: "file cut off",
        damage: |folder| {
            let bytes = std::fs::read(folder.join(MODEL)).unwrap();
            std::fs::write(folder.join(MODEL), &bytes[..bytes.len() - 40]).unwrap();
        },
        message: "model.safetensors: tensor model.transformer.blocks.0.ff_out.weight: the file ends within it, after 3854 bytes",
    },
    Case {
        name: "header longer than the file",
        damage: |folder| {
            let tensors = checkpoint::weights();
            let bytes = checkpoint::file(&checkpoint::header(&tensors), Some(1 << 20), &tensors);
            std::fs::write(folder.join(MODEL), bytes).unwrap();
        },
        message: "model.safetensors: no safetensors file: its header would be longer than the file",
    },
    Case {
        name: "empty file",
        damage: |folder| std::fs::write(folder.join(MODEL), "").unwrap(),
        message: "model.safetensors: no safetensors file: it has 0 bytes",
    },
    Case {
        name: "wrong shape",
        damage: |folder| {
            rewrite(folder, |tensors| {
                queries(tensors).shape = vec![8, 7];
                queries(tensors).data.truncate(8 * 7 * 4);
            });
        },
        message: "model.safetensors: tensor model.transformer.blocks.0.q_proj.weight: expected shape [8, 8], found [8, 7]",
    },
    Case {
        name: "tensor missing",
        damage: |folder| rewrite(folder, |tensors| tensors.retain(|tensor| tensor.name != QUERIES)),
        message: "model.safetensors: tensor model.transformer.blocks.0.q_proj.weight: missing",
    },
    Case {
        name: "whole numbers",
        damage: |folder| {
            rewrite(folder, |tensors| {
                queries(tensors).dtype = "I64".to_owned();
                queries(tensors).data.resize(8 * 8 * 8, 0);
            });
        },
        message: "model.safetensors: tensor model.transformer.blocks.0.q_proj.weight: I64 is no type for weights (F32, F16 and BF16 are)",
    },
    Case {
        name: "numbers of 8 bits",
        damage: |folder| {
            rewrite(folder, |tensors| {
                queries(tensors).dtype = "F8_E4M3".to_owned();
                queries(tensors).data.truncate(8 * 8);
            });
        },
        message: "model.safetensors: tensor model.transformer.blocks.0.q_proj.weight: F8_E4M3 is no type for weights (F32, F16 and BF16 are)",
    },
    Case {
        name: "config of another width",
        damage: |folder| change_config(folder, "mlp_hidden_size", json!(24)),
        message: "model.safetensors: tensor model.transformer.blocks.0.ff_proj.weight: expected shape [24, 8], found [16, 8]",
    },
    Case {
        name: "config with more layers",
        damage: |folder| change_config(folder, "n_layers", json!(2)),
        message: "model.safetensors: tensor model.transformer.blocks.1.attn_norm.weight: missing",
    },
    Case {
        name: "index outside of the folder",
        damage: |folder| shard(folder, |map| map[QUERIES] = json!("../b.safetensors")),
        message: "model.safetensors.index.json: tensor model.transformer.blocks.0.q_proj.weight: \"../b.safetensors\" is not a file of this folder",
    },
    Case {
        name: "shard missing",
        damage: |folder| shard(folder, |map| map[QUERIES] = json!("c.safetensors")),
        message: "c.safetensors is missing in DIR",
    },
    Case {
        name: "shard without its tensor",
        damage: |folder| shard(folder, |map| map["model.transformer.ln_f.weight"] = json!("b.safetensors")),
        message: "model.safetensors.index.json: tensor model.transformer.ln_f.weight: should be in b.safetensors, which does not have it",
    },
    Case {
        name: "tensor in two shards",
        damage: |folder| {
            shard(folder, |_| {});
            let twice: Vec<Stored> =
                checkpoint::weights().into_iter().filter(|t| t.name == QUERIES).collect();
            let first = checkpoint::weights().into_iter().filter(|t| t.name != QUERIES).chain(twice);
            write(folder, "a.safetensors", &first.collect::<Vec<_>>());
        },
        message: "b.safetensors: tensor model.transformer.blocks.0.q_proj.weight: stands in a.safetensors too",
    },
    Case {
        name: "no weights",
        damage: |folder| std::fs::remove_file(folder.join(MODEL)).unwrap(),
        message: "model.safetensors is missing in DIR",
    },
    Case {
        name: "another architecture",
        damage: |folder| change_config(folder, "model_type", json!("qwen2")),
        message: "config.json: model_type \"qwen2\" is not supported (llada and dream are)",
    },
];

fn load(source: &ModelSource, adapter: Option<&ModelSource>) -> String {
    let load = || {
        let backend = CandleBackend::load(source, DeviceChoice::Cpu)?;
        adapter.map(|adapter| backend.adapter_loader().load(AdapterId(1), adapter)).transpose().map(drop)
    };
    load().unwrap_err().to_string()
}

/// The message is as expected, and the documentation shows it.
fn check(name: &str, found: &str, expected: &str) {
    assert_eq!(found, expected, "{name}");
    assert!(!found.contains('\n'), "{name}: one line");
    let page = include_str!("../../docs/models.md");
    assert!(
        page.contains(&format!("| `{expected}` |")),
        "docs/models.md does not show {name}: | `{expected}` |"
    );
}

#[test]
fn a_broken_folder_is_refused_in_a_line_that_names_file_and_tensor() {
    for Case { name, damage, message } in FOLDERS {
        let folder = tempfile::tempdir().unwrap();
        checkpoint::write(folder.path(), &checkpoint::config());
        damage(folder.path());
        let found = load(&ModelSource::folder(folder.path()), None);
        check(name, &found.replace(&folder.path().display().to_string(), "DIR"), message);
    }
}

#[test]
fn an_adapter_for_another_width_is_refused_with_its_tensor() {
    let (model, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path(), &checkpoint::config());
    checkpoint::write_adapter(adapter.path());
    let mut tensors = checkpoint::adapter_weights();
    tensors[0].shape = vec![2, 9];
    tensors[0].data.resize(2 * 9 * 4, 0);
    write(adapter.path(), "adapter_model.safetensors", &tensors);
    let found = load(&ModelSource::folder(model.path()), Some(&ModelSource::folder(adapter.path())));
    let expected = "adapter_model.safetensors: tensor base_model.model.model.transformer.blocks.0.q_proj.lora_A.weight: expected shape [2, 8], found [2, 9]";
    check("adapter for another width", &found, expected);
}

/// Changes of a sound GGUF file's content, or of its bytes.
enum Wound {
    Content(fn(&mut File)),
    Bytes(fn(&mut Vec<u8>)),
}

use Wound::{Bytes, Content};

fn text(file: &mut File, key: &str, text: &str) {
    file.metadata.insert(key.to_owned(), Value::Text(text.to_owned()));
}

const FILES: [(&str, Wound, &str); 14] = [
    (
        "file cut off",
        Bytes(|bytes| bytes.truncate(bytes.len() - 40)),
        "model.gguf: tensor token_embd.weight: its 384 bytes are not all there: the file ends after 4408",
    ),
    (
        "head cut off",
        Bytes(|bytes| bytes.truncate(100)),
        "DIR/model.gguf: the file ends within its head: 5 bytes are wanted where 1 are left",
    ),
    ("empty file", Bytes(Vec::clear), "DIR/model.gguf: not a GGUF file: it does not begin with GGUF"),
    (
        "an old version",
        Content(|file| file.version = 1),
        "DIR/model.gguf: version 1 of GGUF is not supported (2 and 3 are)",
    ),
    (
        "another architecture",
        Content(|file| text(file, "general.architecture", "llama")),
        "DIR/model.gguf: architecture \"llama\" is not supported (llada and dream are)",
    ),
    (
        "format not supported",
        Content(|file| file.entry("blk.0.attn_q.weight").kind = 23),
        "model.gguf: tensor blk.0.attn_q.weight: format IQ4_XS is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K are)",
    ),
    (
        "format not known",
        Content(|file| file.entry("blk.0.attn_q.weight").kind = 99),
        "model.gguf: tensor blk.0.attn_q.weight: format 99 is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K are)",
    ),
    (
        "rows that are no blocks",
        Content(|file| file.entry("blk.0.attn_v.weight").kind = 12),
        "model.gguf: tensor blk.0.attn_v.weight: rows of 8 values are no whole blocks of Q4_K",
    ),
    (
        "wrong shape",
        Content(|file| file.entry("blk.0.ffn_up.weight").shape = vec![15, 8]),
        "model.gguf: tensor blk.0.ffn_up.weight: expected shape [16, 8], found [15, 8]",
    ),
    (
        "tensor missing",
        Content(|file| file.tensors.retain(|entry| entry.name != "blk.0.ffn_up.weight")),
        "model.gguf: tensor blk.0.ffn_up.weight: missing",
    ),
    (
        "tensor twice",
        Content(|file| {
            let twice = file.tensors[0].clone();
            file.tensors.push(twice);
        }),
        "DIR/model.gguf: tensor blk.0.attn_norm.weight: stands twice",
    ),
    (
        "size missing",
        Content(|file| drop(file.metadata.remove("llada.block_count"))),
        "DIR/model.gguf: the key llada.block_count is missing",
    ),
    (
        "mask missing",
        Content(|file| drop(file.metadata.remove("tokenizer.ggml.mask_token_id"))),
        "DIR/model.gguf: the key tokenizer.ggml.mask_token_id is missing",
    ),
    (
        "a part of a model",
        Content(|file| drop(file.metadata.insert("split.count".to_owned(), Value::Whole(3)))),
        "DIR/model.gguf: is one of 3 parts of a model; llama-gguf-split --merge joins them",
    ),
];

#[test]
fn a_broken_gguf_file_is_refused_in_a_line_that_names_file_and_tensor() {
    for (name, wound, message) in FILES {
        let folder = tempfile::tempdir().unwrap();
        checkpoint::write(folder.path(), &checkpoint::config());
        let mut file = File::of(folder.path(), GgmlDType::F32);
        if let Content(change) = wound {
            change(&mut file);
        }
        let mut bytes = file.bytes();
        if let Bytes(change) = wound {
            change(&mut bytes);
        }
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        let found = ModelSource::open(&path).map_or_else(|e| e.to_string(), |source| load(&source, None));
        check(name, &found.replace(&folder.path().display().to_string(), "DIR"), message);
    }
}
