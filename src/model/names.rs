//! What the families call their modules in a checkpoint. A tensor is a module's path and `.weight` or `.bias`.

use super::Family;

/// Module paths of a family; `q` … `down` are within a layer.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
    /// Before a layer's number.
    pub(crate) layer: &'static str,
    pub(crate) norm1: &'static str,
    pub(crate) norm2: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) o: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

impl Names {
    /// The names of `family`.
    pub(crate) fn of(family: Family) -> &'static Self {
        match family {
            Family::Llada => &LLADA,
            Family::Dream => &DREAM,
        }
    }

    /// Path of `part` in layer `number`.
    pub(crate) fn module(&self, number: usize, part: &str) -> String {
        format!("{}.{number}.{part}", self.layer)
    }
}

/// In LLaDA `ff_proj` is the gate, and `ff_out` is the head at the top but the down projection in a layer.
static LLADA: Names = Names {
    embedding: "model.transformer.wte",
    final_norm: "model.transformer.ln_f",
    head: "model.transformer.ff_out",
    layer: "model.transformer.blocks",
    norm1: "attn_norm",
    norm2: "ff_norm",
    q: "q_proj",
    k: "k_proj",
    v: "v_proj",
    o: "attn_out",
    gate: "ff_proj",
    up: "up_proj",
    down: "ff_out",
};

static DREAM: Names = Names {
    embedding: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    layer: "model.layers",
    norm1: "input_layernorm",
    norm2: "post_attention_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};
