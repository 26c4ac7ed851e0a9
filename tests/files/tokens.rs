//! Tokenizers of GGUF files.

use evotoken::model::{ModelError, ModelSource};
use evotoken::text::chat_template::{ChatTemplate, Message};
use evotoken::text::{Tokenizer, TokenizerConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture;
use crate::gguf::{File, Value};

/// The bytes in GPT-2's alphabet, then what these merges make, then two special tokens.
fn vocabulary(merges: &[&str]) -> Vec<String> {
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let bytes = alphabet.into_iter().map(String::from);
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    bytes.chain(merged).chain(["<|end|>".to_owned(), "<|mask|>".to_owned(), "<tool>".to_owned()]).collect()
}

/// A file with this vocabulary.
fn file(pre: &str, merges: &[&str]) -> File {
    let tokens = vocabulary(merges);
    let last = tokens.len() as u32;
    let mut kinds = vec![1; tokens.len()];
    kinds[tokens.len() - 3..].copy_from_slice(&[3, 3, 4]);
    File::of(&fixture("llada-tiny"), candle_core::quantized::GgmlDType::F32)
        .set("tokenizer.ggml.pre", Value::Text(pre.to_owned()))
        .set("tokenizer.ggml.tokens", Value::Texts(tokens))
        .set("tokenizer.ggml.token_type", Value::Wholes(kinds))
        .set("tokenizer.ggml.merges", Value::Texts(merges.iter().map(|merge| (*merge).to_owned()).collect()))
        .set("tokenizer.ggml.bos_token_id", Value::Whole(last - 3))
        .set("tokenizer.ggml.eos_token_id", Value::Whole(last - 3))
}

fn source(file: &File) -> (ModelSource, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    file.write(&path);
    (ModelSource::open(path).unwrap(), folder)
}

fn load(file: &File) -> Result<Tokenizer, ModelError> {
    Tokenizer::load(&source(file).0)
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.decode_with_special(&ids), text);
    ids.into_iter().map(|id| tokenizer.name(id).unwrap()).collect()
}

const DIGITS: [&str; 3] = ["1 2", "12 3", "123 4"];

#[test]
fn words_are_split_as_the_file_says() {
    for (pre, number) in [
        ("gpt-2", vec!["1234"]),
        ("default", vec!["123", "4"]),
        ("llama-bpe", vec!["123", "4"]),
        ("qwen2", vec!["1", "2", "3", "4"]),
        ("bailingmoe", vec!["1", "2", "3", "4"]),
        ("llada-moe", vec!["1", "2", "3", "4"]),
    ] {
        let tokenizer = load(&file(pre, &DIGITS)).unwrap();
        assert_eq!(pieces(&tokenizer, "1234"), number, "{pre}");
        for text in ["it's 12 o'clock,  IT'LL be\r\n\n  ünïcödé 你好 🎉 \t", "", " ", "a\u{0}b"] {
            pieces(&tokenizer, text);
        }
    }
}

#[test]
fn dream_s_tokenizer_composes_characters() {
    let tokenizer = load(&file("qwen2", &["Ã ©"])).unwrap();
    let composed = tokenizer.encode("é").unwrap();
    assert_eq!((composed.len(), tokenizer.encode("e\u{301}").unwrap()), (1, composed));
}

#[test]
fn special_tokens_are_found_in_texts_and_left_out_of_answers() {
    let tokenizer = load(&file("gpt-2", &["a b"])).unwrap();
    assert_eq!(pieces(&tokenizer, "ab<|end|><tool>"), ["ab", "<|end|>", "<tool>"]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("ab<|end|><tool>").unwrap()), "ab<tool>");
}

#[test]
fn prompts_begin_with_the_token_that_the_file_asks_for() {
    let file = file("gpt-2", &["a b"]).set("tokenizer.ggml.add_bos_token", Value::Flag(true));
    let tokenizer = load(&file).unwrap();
    let names = |ids: Vec<u32>| ids.into_iter().map(|id| tokenizer.name(id).unwrap()).collect::<Vec<_>>();
    assert_eq!(names(tokenizer.encode("ab").unwrap()), ["<|end|>", "ab"]);
    assert_eq!(names(tokenizer.encode_rendered("ab").unwrap()), ["ab"]);
}

#[test]
fn the_same_tokenizer_as_a_file_of_its_own_gives_the_same_ids() {
    let merges = ["Ġ t", "h e", "Ġt he", "i n", "r e", "o n"];
    let tokens = vocabulary(&merges);
    let vocab =
        serde_json::Map::from_iter(tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))));
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let own = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    let own = Tokenizer::from_json(own.to_string().as_bytes()).unwrap();
    let of_file = load(&file("gpt-2", &merges)).unwrap();
    let text = "There is the rain in the  region, again: don't\n\n count on it — ever!  ";
    assert_eq!(own.encode(text), of_file.encode(text));
}

#[test]
fn a_tokenizer_beside_the_file_goes_before_the_files_own() {
    let (source, folder) = source(&file("gpt-2", &["a b"]));
    let own = json!({"model": {"type": "WordLevel", "vocab": {"ab": 7}, "unk_token": "ab"}});
    std::fs::write(folder.path().join("tokenizer.json"), own.to_string()).unwrap();
    assert_eq!(Tokenizer::load(&source).unwrap().encode("ab"), Ok(vec![7]));
}

#[test]
fn a_list_of_names_with_a_merge_of_nothing_is_a_tokenizer() {
    let tokenizer = load(&File::of(&fixture("dream-tiny"), candle_core::quantized::GgmlDType::F32)).unwrap();
    assert_eq!(tokenizer.decode(&[17, 4]), "t17t4");
}

#[test]
fn the_chat_template_and_the_special_tokens_come_from_the_file() {
    let template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    let file = file("gpt-2", &["a b"]).set("tokenizer.chat_template", Value::Text(template.to_owned()));
    let (source, folder) = source(&file);
    let text = || ChatTemplate::load(&source).unwrap().render(&[Message::user("hi")], false).unwrap();
    assert_eq!(text(), "<|end|>[user]hi");
    let config = TokenizerConfig::load(&source).unwrap();
    assert_eq!(config.fields()["eos_token"], "<|end|>");
    // Files beside it go before it, each for what it says.
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>"}"#).unwrap();
    assert_eq!(text(), "<s>[user]hi");
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    assert_eq!(text(), "hi");
}

#[test]
fn tokenizers_that_cannot_be_built_are_refused_with_the_key() {
    let sound = || file("gpt-2", &["a b"]);
    let gone = |key: &str| {
        let mut file = sound();
        file.metadata.remove(key);
        file
    };
    let text = |text: &str| Value::Text(text.to_owned());
    for (file, reason) in [
        (
            sound().set("tokenizer.ggml.pre", text("falcon")),
            "tokenizer.ggml.pre is \"falcon\", which is not supported; put the model's tokenizer.json beside the file",
        ),
        (
            sound().set("tokenizer.ggml.model", text("llama")),
            "tokenizer.ggml.model is \"llama\", which is not supported (\"gpt2\" is)",
        ),
        (
            gone("tokenizer.ggml.model"),
            "tokenizer.ggml.model is \"none\", which is not supported (\"gpt2\" is)",
        ),
        (gone("tokenizer.ggml.tokens"), "the key tokenizer.ggml.tokens is missing, or is no list of texts"),
        (gone("tokenizer.ggml.merges"), "the key tokenizer.ggml.merges is missing, or is no list of texts"),
        (
            sound().set("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(), "b".into(), "a".into()])),
            "tokens 0 and 2 are both \"a\"",
        ),
    ] {
        let (source, _folder) = source(&file);
        let error = Tokenizer::load(&source).unwrap_err().to_string();
        assert_eq!(error, format!("{}: {reason}", source.place()));
    }
}
