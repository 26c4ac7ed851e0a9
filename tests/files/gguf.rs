//! Writes GGUF files: a checkpoint's tensors as llama.cpp lays them out, and whatever metadata a test wants.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

/// A value of the metadata.
#[derive(Debug, Clone)]
pub enum Value {
    Whole(u32),
    Fraction(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Wholes(Vec<i32>),
}

/// A tensor of a file: lengths with the outermost first.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub kind: u32,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A file that can be changed before it is written.
#[derive(Debug, Clone)]
pub struct File {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<Entry>,
}

/// ggml's numbers of the types that tests write.
const NUMBERS: [(GgmlDType, u32); 10] = [
    (GgmlDType::F32, 0),
    (GgmlDType::F16, 1),
    (GgmlDType::Q4_0, 2),
    (GgmlDType::Q5_0, 6),
    (GgmlDType::Q5_1, 7),
    (GgmlDType::Q8_0, 8),
    (GgmlDType::Q4K, 12),
    (GgmlDType::Q5K, 13),
    (GgmlDType::Q6K, 14),
    (GgmlDType::BF16, 30),
];

const NAMES: [(&str, &str, &str); 9] = [
    ("attn_norm", "input_layernorm", "attn_norm"),
    ("q_proj", "self_attn.q_proj", "attn_q"),
    ("k_proj", "self_attn.k_proj", "attn_k"),
    ("v_proj", "self_attn.v_proj", "attn_v"),
    ("attn_out", "self_attn.o_proj", "attn_output"),
    ("ff_norm", "post_attention_layernorm", "ffn_norm"),
    ("ff_proj", "mlp.gate_proj", "ffn_gate"),
    ("up_proj", "mlp.up_proj", "ffn_up"),
    ("ff_out", "mlp.down_proj", "ffn_down"),
];

fn name_in_file(name: &str) -> String {
    let (path, kind) = name.rsplit_once('.').unwrap();
    let top = [
        ("wte", "token_embd"),
        ("embed_tokens", "token_embd"),
        ("ln_f", "output_norm"),
        ("norm", "output_norm"),
        ("ff_out", "output"),
        ("lm_head", "output"),
    ];
    let part =
        ["model.transformer.blocks.", "model.layers."].iter().find_map(|prefix| path.strip_prefix(prefix));
    match part.and_then(|rest| rest.split_once('.')) {
        Some((number, part)) => {
            let (_, _, theirs) =
                NAMES.iter().find(|(llada, dream, _)| [llada, dream].contains(&&part)).unwrap();
            format!("blk.{number}.{theirs}.{kind}")
        }
        None => {
            let module = path.rsplit('.').next().unwrap();
            format!("{}.{kind}", top.iter().find(|(ours, _)| *ours == module).unwrap().1)
        }
    }
}

/// Rows of each head: components (i, i + h/2) become (2i, 2i + 1).
fn interleave(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, width)).unwrap()
}

impl File {
    /// The model of a folder, its matrices in `kind`.
    pub fn of(folder: &Path, kind: GgmlDType) -> Self {
        let config: Json =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let llada = config["model_type"] == "llada";
        let field =
            |llada_name: &str, dream_name: &str| config[if llada { llada_name } else { dream_name }].clone();
        let size = |llada_name, dream_name| {
            field(llada_name, dream_name).as_u64().map(|n| u32::try_from(n).unwrap())
        };
        let heads = size("n_heads", "num_attention_heads").unwrap();
        let kv_heads = size("n_kv_heads", "num_key_value_heads").unwrap_or(heads);
        let loaded = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let mut tensors = Vec::new();
        for (name, tensor) in BTreeMap::from_iter(loaded) {
            let mut tensor = tensor.to_dtype(DType::F32).unwrap();
            let rotated = if name.ends_with("q_proj.weight") {
                Some(heads)
            } else {
                name.ends_with("k_proj.weight").then_some(kv_heads)
            };
            if let Some(heads) = rotated.filter(|_| llada) {
                tensor = interleave(&tensor, heads as usize);
            }
            let kind = if tensor.rank() == 1 { GgmlDType::F32 } else { kind };
            tensors.push(entry(name_in_file(&name), &tensor, kind));
        }
        let a = if llada { "llada" } else { "dream" };
        let vocab =
            size("embedding_size", "vocab_size").or_else(|| size("vocab_size", "vocab_size")).unwrap();
        let fraction = |name: &str| Value::Fraction(config[name].as_f64().unwrap() as f32);
        let whole = |llada_name, dream_name| Value::Whole(size(llada_name, dream_name).unwrap());
        let metadata = BTreeMap::from_iter([
            ("general.architecture".to_owned(), Value::Text(a.to_owned())),
            ("general.name".to_owned(), Value::Text(format!("Tiny {a}"))),
            (format!("{a}.context_length"), whole("max_sequence_length", "max_position_embeddings")),
            (format!("{a}.embedding_length"), whole("d_model", "hidden_size")),
            (format!("{a}.block_count"), whole("n_layers", "num_hidden_layers")),
            (format!("{a}.feed_forward_length"), whole("mlp_hidden_size", "intermediate_size")),
            (format!("{a}.attention.head_count"), Value::Whole(heads)),
            (format!("{a}.attention.head_count_kv"), Value::Whole(kv_heads)),
            (format!("{a}.attention.layer_norm_rms_epsilon"), fraction("rms_norm_eps")),
            (format!("{a}.attention.causal"), Value::Flag(false)),
            (format!("{a}.rope.freq_base"), fraction("rope_theta")),
            ("diffusion.shift_logits".to_owned(), Value::Flag(!llada)),
            (
                "tokenizer.ggml.mask_token_id".to_owned(),
                Value::Whole(size("mask_token_id", "mask_token_id").unwrap()),
            ),
            ("tokenizer.ggml.eos_token_id".to_owned(), Value::Whole(1)),
            ("tokenizer.ggml.model".to_owned(), Value::Text("gpt2".to_owned())),
            ("tokenizer.ggml.pre".to_owned(), Value::Text("default".to_owned())),
            ("tokenizer.ggml.tokens".to_owned(), Value::Texts((0..vocab).map(|i| format!("t{i}")).collect())),
            ("tokenizer.ggml.token_type".to_owned(), Value::Wholes(vec![1; vocab as usize])),
            // As llama.cpp's own converters do where there are none: one, of and to tokens that do not exist.
            ("tokenizer.ggml.merges".to_owned(), Value::Texts(vec!["t0 t1".to_owned()])),
        ]);
        Self { version: 3, metadata, tensors }
    }

    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    pub fn entry(&mut self, name: &str) -> &mut Entry {
        self.tensors.iter_mut().find(|entry| entry.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut file = [b"GGUF".as_slice(), &self.version.to_le_bytes()].concat();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            file.extend(text(key));
            let (kind, bytes): (u32, Vec<u8>) = match value {
                Value::Whole(number) => (4, number.to_le_bytes().to_vec()),
                Value::Fraction(number) => (6, number.to_le_bytes().to_vec()),
                Value::Flag(flag) => (7, vec![u8::from(*flag)]),
                Value::Text(content) => (8, text(content)),
                Value::Texts(list) => {
                    let head = [&8_u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes()].concat();
                    (9, head.into_iter().chain(list.iter().flat_map(|item| text(item))).collect())
                }
                Value::Wholes(list) => {
                    let head = [&5_u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes()].concat();
                    (9, head.into_iter().chain(list.iter().flat_map(|item| item.to_le_bytes())).collect())
                }
            };
            file.extend(kind.to_le_bytes());
            file.extend(bytes);
        }
        let mut offset = 0;
        for Entry { name, kind, shape, bytes } in &self.tensors {
            file.extend(text(name));
            file.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|length| file.extend(length.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(32);
        }
        for Entry { bytes, .. } in &self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(bytes);
        }
        file
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

pub fn entry(name: String, tensor: &Tensor, kind: GgmlDType) -> Entry {
    let shape = tensor.dims().iter().map(|length| *length as u64).collect();
    let (_, number) = NUMBERS.iter().find(|(known, _)| *known == kind).unwrap();
    let bytes = QTensor::quantize(tensor, kind).unwrap().data().unwrap().into_owned();
    Entry { name, kind: *number, shape, bytes }
}
