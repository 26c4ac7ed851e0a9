//! `evotoken inspect`: what is said of a model without loading it.

use std::path::Path;
use std::process::Command;

use candle_core::quantized::GgmlDType;
use serde_json::{Value as Json, json};

use crate::gguf::File;
use crate::{checkpoint, fixture};

/// What the program prints, and its exit status.
fn inspect(arguments: &[&str], path: &Path) -> (String, i32) {
    let program = env!("CARGO_BIN_EXE_evotoken");
    let output = Command::new(program).arg("inspect").args(arguments).arg(path).output().unwrap();
    let place = path.display().to_string();
    (String::from_utf8(output.stdout).unwrap().replace(&place, "PATH"), output.status.code().unwrap())
}

fn shipped(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn a_sound_model_is_shown_and_can_be_served() {
    let (text, status) = inspect(&[], &shipped("models/countdown/evotoken"));
    let expected = include_str!("inspect/countdown.txt");
    assert_eq!((text.as_str(), status), (expected, 0));
}

#[test]
fn a_gguf_file_is_shown_with_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    File::of(&fixture("dream-tiny"), GgmlDType::Q8_0).write(&path);
    let (text, status) = inspect(&[], &path);
    assert_eq!((text.as_str(), status), (include_str!("inspect/dream.txt"), 0));
}

#[test]
fn an_adapter_is_shown() {
    let (text, status) = inspect(&[], &shipped("models/countdown/adapters/evotoken"));
    assert_eq!((text.as_str(), status), (include_str!("inspect/adapter.txt"), 0));
}

#[test]
fn an_adapter_that_could_not_be_served_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::write_adapter(folder.path());
    let mut config = checkpoint::adapter_config();
    config["use_dora"] = json!(true);
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let (text, status) = inspect(&[], folder.path());
    assert!(text.contains("use_dora = true is not supported"), "{text}");
    assert_eq!(status, 1);
}

#[test]
fn everything_wrong_is_listed_and_the_status_is_1() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = checkpoint::config();
    config["mlp_hidden_size"] = json!(24);
    checkpoint::write(folder.path(), &config);
    let tensors = checkpoint::weights().into_iter().filter(|t| !t.name.contains("ln_f")).map(|mut t| {
        t.name = t.name.replace("v_proj", "value");
        t
    });
    let tensors: Vec<_> = tensors.collect();
    let bytes = checkpoint::file(&checkpoint::header(&tensors), None, &tensors);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let (text, status) = inspect(&[], folder.path());
    assert_eq!((text.as_str(), status), (include_str!("inspect/broken.txt"), 1));
}

#[test]
fn json_says_the_same_for_programs() {
    let (text, status) = inspect(&["--json"], &shipped("models/countdown/evotoken"));
    let report: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 0);
    assert_eq!(report["network"]["architecture"], "LLaDA");
    assert_eq!(report["problems"], json!([]));
    assert_eq!(report["weights"]["files"].as_object().unwrap().len(), 1);
    assert!(report["weights"]["memory"]["q8_0"].as_u64() < report["weights"]["memory"]["f32"].as_u64());
    assert_eq!(report["text"]["mask"], json!({"id": 1, "name": "<mask>"}));
}

#[test]
fn a_place_where_nothing_lies_is_a_problem() {
    let (text, status) = inspect(&[], Path::new("/nowhere/at-all"));
    assert_eq!(
        (text.as_str(), status),
        ("PATH\nproblems\n  PATH: no such file or folder\ncannot be served\n", 1)
    );
    let (text, status) = inspect(&[], Path::new("/nowhere/model.gguf"));
    assert!(text.contains("PATH: no such file or folder") && status == 1, "{text}");
}
