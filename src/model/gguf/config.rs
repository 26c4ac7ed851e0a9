//! The sizes of a model from a file's metadata.

use super::super::{Family, ModelConfig};
use super::header::{Header, Value};

/// The family that `general.architecture` names.
fn family(header: &Header) -> Result<Family, String> {
    match header.metadata.get("general.architecture") {
        Some(Value::Text(name)) => Family::keyed(name)
            .ok_or_else(|| format!("architecture {name:?} is not supported ({} are)", Family::keys())),
        _ => Err("the key general.architecture is missing".to_owned()),
    }
}

/// A token's id.
pub(super) fn id(header: &Header, key: &str) -> Option<u32> {
    match header.metadata.get(key) {
        Some(Value::Whole(number)) => u32::try_from(*number).ok(),
        _ => None,
    }
}

/// Keys of one architecture.
struct Keys<'a> {
    header: &'a Header,
    architecture: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn find(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(&self.name(key))
    }

    /// A whole number; a list, one per layer, if all are the same.
    fn size(&self, key: &str) -> Result<Option<usize>, String> {
        let found = match self.find(key) {
            None => return Ok(None),
            Some(Value::Whole(number)) => usize::try_from(*number).ok(),
            Some(Value::Wholes(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|other| other == first) => {
                    usize::try_from(*first).ok()
                }
                _ => None,
            },
            Some(_) => None,
        };
        let unusable =
            || format!("{} is {:?}: one whole number is supported", self.name(key), self.find(key));
        found.map(Some).ok_or_else(unusable)
    }

    fn required(&self, key: &str) -> Result<usize, String> {
        self.size(key)?.ok_or_else(|| format!("the key {} is missing", self.name(key)))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        match self.find(key) {
            None => Ok(None),
            Some(Value::Fraction(number)) => Ok(Some(*number)),
            Some(other) => {
                Err(format!("{} is {other:?}, which is no number with a fraction", self.name(key)))
            }
        }
    }

    /// Refuse what this network does not compute.
    fn check(&self, shifted: bool, head_width: usize) -> Result<(), String> {
        let refuse = |key: &str, value: &Value| Err(format!("{key} is {value:?}, which is not supported"));
        for key in ["rope.dimension_count", "attention.key_length", "attention.value_length"] {
            match self.size(key)? {
                Some(width) if width != head_width => {
                    return Err(format!("{} is {width}: heads of {head_width} are expected", self.name(key)));
                }
                _ => {}
            }
        }
        if let Some(value) =
            self.find("rope.scaling.type").filter(|value| **value != Value::Text("none".to_owned()))
        {
            return refuse(&self.name("rope.scaling.type"), value);
        }
        if let Some(value) = self.find("attention.causal").filter(|value| **value != Value::Flag(false)) {
            return refuse(&self.name("attention.causal"), value);
        }
        // llama.cpp's converter writes the key without the architecture.
        for key in [self.name("diffusion.shift_logits"), "diffusion.shift_logits".to_owned()] {
            if let Some(value) =
                self.header.metadata.get(&key).filter(|value| **value != Value::Flag(shifted))
            {
                return refuse(&key, value);
            }
        }
        match self.header.metadata.get("split.count") {
            Some(Value::Whole(parts)) if *parts > 1 => {
                Err(format!("is one of {parts} parts of a model; llama-gguf-split --merge joins them"))
            }
            _ => Ok(()),
        }
    }
}

/// The sizes of a model.
///
/// # Errors
/// Names the key that is missing, or set to something that this network does not compute.
pub(super) fn model(header: &Header) -> Result<ModelConfig, String> {
    let family = family(header)?;
    let keys = Keys { header, architecture: family.key() };
    let heads = keys.required("attention.head_count")?;
    let embedding = header.tensors.get("token_embd.weight").ok_or("tensor token_embd.weight is missing")?;
    let mask = "tokenizer.ggml.mask_token_id";
    let mut eos_ids: Vec<u32> = ["eos", "eot"]
        .iter()
        .filter_map(|kind| id(header, &format!("tokenizer.ggml.{kind}_token_id")))
        .collect();
    eos_ids.dedup();
    let config = ModelConfig {
        family,
        // The table's rows, because the key vocab_size may count the tokens without what the table is filled up with.
        vocab: embedding.lengths.last().and_then(|rows| usize::try_from(*rows).ok()).unwrap_or(0),
        width: keys.required("embedding_length")?,
        layers: keys.required("block_count")?,
        heads,
        kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        mlp: keys.required("feed_forward_length")?,
        rope_theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
        norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| format!("the key {} is missing", keys.name("attention.layer_norm_rms_epsilon")))?,
        tied_head: !header.tensors.contains_key("output.weight"),
        mask_id: id(header, mask).ok_or_else(|| format!("the key {mask} is missing"))?,
        eos_ids,
        max_positions: keys.required("context_length")?,
    };
    config.check()?;
    keys.check(config.shifted(), config.head_width())?;
    Ok(config)
}
