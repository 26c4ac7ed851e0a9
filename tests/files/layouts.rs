//! Layouts of folders that people have: each loads, and gives the answers of the same weights in one file.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use evotoken::model::{Family, ModelConfig, ModelSource};
use evotoken::text::Tokenizer;
use evotoken::text::chat_template::{ChatTemplate, Message};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::fixture;
use crate::logits::{largest_difference, logits};

/// The golden model in another type, and with a part of it in each of so many files.
fn stored(name: &str, dtype: DType, shards: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let tensors =
        candle_core::safetensors::load(fixture(name).join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    let mut map = serde_json::Map::new();
    for (number, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let file = if shards == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{number:05}.safetensors")
        };
        let part = part.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap()));
        let part = std::collections::HashMap::from_iter(part);
        map.extend(part.keys().map(|name| (name.clone(), json!(file))));
        candle_core::safetensors::save(&part, folder.path().join(file)).unwrap();
    }
    if shards > 1 {
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    }
    folder
}

#[test]
fn one_file_or_shards_of_any_type_give_the_same_logits() {
    for name in ["llada-tiny", "dream-tiny"] {
        let exact = logits(&fixture(name));
        for (dtype, bound) in [(DType::F32, 0.0), (DType::F16, 0.05), (DType::BF16, 0.2)] {
            let one = logits(stored(name, dtype, 1).path());
            let sharded = logits(stored(name, dtype, 3).path());
            assert_eq!(one, sharded, "{name} {dtype:?}");
            let difference = largest_difference(&exact, &one);
            assert!(difference <= bound, "{name} {dtype:?}: {difference}");
        }
    }
}

#[test]
fn a_tied_head_is_the_embedding_table_whether_or_not_the_file_has_a_head() {
    for (name, key, head, table) in [
        ("llada-tiny", "weight_tying", "model.transformer.ff_out.weight", "model.transformer.wte.weight"),
        ("dream-tiny", "tie_word_embeddings", "lm_head.weight", "model.embed_tokens.weight"),
    ] {
        let folder = stored(name, DType::F32, 1);
        let path = folder.path().join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        tensors.insert(head.to_owned(), tensors[table].clone());
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let untied = logits(folder.path());
        let mut config: Json =
            serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
        config[key] = json!(true);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        assert_eq!(logits(folder.path()), untied, "{name} with a head");
        tensors.remove(head);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        assert_eq!(logits(folder.path()), untied, "{name} without one");
    }
}

/// The fields of LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5, which D2F-LLaDA and EvoToken's adapters build on.
const LLADA_8B: &[u8] = include_bytes!("configs/llada-8b.json");

/// The fields of Dream-v0-Base-7B and Dream-v0-Instruct-7B.
const DREAM_7B: &[u8] = include_bytes!("configs/dream-7b.json");

#[test]
fn the_configurations_of_the_published_checkpoints_are_understood() {
    let parse = |json| ModelConfig::from_json(json).unwrap();
    let llada = parse(LLADA_8B);
    assert_eq!((llada.family, llada.width, llada.layers, llada.mlp), (Family::Llada, 4096, 32, 12288));
    assert_eq!((llada.heads, llada.kv_heads, llada.vocab), (32, 32, 126_464));
    assert_eq!((llada.mask_id, llada.eos_ids.as_slice()), (126_336, [126_081].as_slice()));
    assert_eq!((llada.max_positions, llada.rope_theta, llada.norm_eps), (4096, 500_000.0, 1e-5));
    let dream = parse(DREAM_7B);
    assert_eq!((dream.family, dream.width, dream.layers, dream.mlp), (Family::Dream, 3584, 28, 18944));
    assert_eq!((dream.heads, dream.kv_heads, dream.vocab), (28, 4, 152_064));
    assert_eq!((dream.mask_id, dream.eos_ids.as_slice()), (151_666, [151_643].as_slice()));
    assert_eq!((dream.max_positions, dream.rope_theta, dream.norm_eps), (131_072, 1e6, 1e-6));
    assert!(dream.shifted() && dream.qkv_bias() && !dream.tied_head);
}

fn write(folder: &Path, file: &str, content: &Json) {
    std::fs::write(folder.join(file), content.to_string()).unwrap();
}

/// Dream's files: no `tokenizer.json`, and special tokens only in `tokenizer_config.json`.
fn slow_tokenizer(folder: &Path) {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut letters: Vec<String> = alphabet.into_iter().map(String::from).collect();
    letters.sort_unstable();
    let words = letters.into_iter().chain(["ab".to_owned(), "Ã©".to_owned()]).enumerate();
    write(folder, "vocab.json", &Json::from_iter(words.map(|(id, word)| (word, json!(id)))));
    std::fs::write(folder.join("merges.txt"), "#version: 0.2\na b\nÃ ©\n").unwrap();
    let added = |content: &str, special: bool| {
        json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
               "special": special})
    };
    // Ids with a gap before them.
    let decoder = json!({"300": added("<|im_start|>", true), "302": added("<|mask|>", true), "303": added("<tool>", false)});
    write(
        folder,
        "tokenizer_config.json",
        &json!({"tokenizer_class": "DreamTokenizer", "added_tokens_decoder": decoder}),
    );
}

#[test]
fn a_vocabulary_with_merges_and_added_tokens_is_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    slow_tokenizer(folder.path());
    let load = || Tokenizer::load(&ModelSource::folder(folder.path()));
    let tokenizer = load().unwrap();
    let ids = tokenizer.encode("<|im_start|>ab12<|mask|><tool>").unwrap();
    let names: Vec<String> = ids.iter().map(|id| tokenizer.name(*id).unwrap()).collect();
    assert_eq!(names, ["<|im_start|>", "ab", "1", "2", "<|mask|>", "<tool>"]);
    assert_eq!((ids[0], ids[4], ids[5]), (300, 302, 303));
    assert_eq!(tokenizer.decode(&ids), "ab12<tool>");
    // Composed and decomposed characters are the same, as for Qwen2.
    assert_eq!(tokenizer.encode("e\u{301}"), tokenizer.encode("é"));
    // An older file says it alone.
    write(folder.path(), "tokenizer_config.json", &json!({"tokenizer_class": "Qwen2Tokenizer"}));
    write(folder.path(), "added_tokens.json", &json!({"<|mask|>": 302}));
    assert_eq!(load().unwrap().encode("<|mask|>"), Ok(vec![302]));
    write(folder.path(), "tokenizer_config.json", &json!({"tokenizer_class": "LlamaTokenizer"}));
    let error = load().unwrap_err().to_string();
    assert_eq!(
        error,
        "tokenizer_config.json: tokenizer_class \"LlamaTokenizer\" is not supported without a tokenizer.json"
    );
}

#[test]
fn a_chat_template_is_found_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let source = ModelSource::folder(folder.path());
    let text = || ChatTemplate::load(&source).unwrap().render(&[Message::user("hi")], false).unwrap();
    let named = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "list {{ messages[0].content }}"}]);
    write(folder.path(), "tokenizer_config.json", &json!({"chat_template": named}));
    assert_eq!(text(), "list hi");
    write(
        folder.path(),
        "tokenizer_config.json",
        &json!({"chat_template": "text {{ messages[0].content }}"}),
    );
    assert_eq!(text(), "text hi");
    write(folder.path(), "chat_template.json", &json!({"chat_template": "json {{ messages[0].content }}"}));
    assert_eq!(text(), "json hi");
    std::fs::write(folder.path().join("chat_template.jinja"), "jinja {{ messages[0].content }}").unwrap();
    assert_eq!(text(), "jinja hi");
}
