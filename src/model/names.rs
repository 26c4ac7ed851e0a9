//! What the families call their modules in a checkpoint. A tensor is a module's path and `.weight` or `.bias`.

use super::{Family, ModelConfig};

/// A linear module of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Of a layer, by its number: queries.
    Q(usize),
    /// Keys.
    K(usize),
    /// Values.
    V(usize),
    /// What follows attention.
    O(usize),
    /// SwiGLU's gate.
    Gate(usize),
    /// What the gate multiplies.
    Up(usize),
    /// Back to the residual stream.
    Down(usize),
    /// Logits.
    Head,
}

impl Part {
    /// All of a model of so many layers, each at the place of its [`Self::index`].
    pub(crate) fn all(layers: usize) -> impl Iterator<Item = Self> {
        let of_layer =
            |n| [Self::Q(n), Self::K(n), Self::V(n), Self::O(n), Self::Gate(n), Self::Up(n), Self::Down(n)];
        std::iter::once(Self::Head).chain((0..layers).flat_map(of_layer))
    }

    /// Its number among all.
    pub(crate) fn index(self) -> usize {
        let (layer, at) = match self {
            Self::Head => return 0,
            Self::Q(layer) => (layer, 1),
            Self::K(layer) => (layer, 2),
            Self::V(layer) => (layer, 3),
            Self::O(layer) => (layer, 4),
            Self::Gate(layer) => (layer, 5),
            Self::Up(layer) => (layer, 6),
            Self::Down(layer) => (layer, 7),
        };
        7 * layer + at
    }

    /// (out, in) of its weight.
    pub(crate) fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (width, kv, mlp) = (config.width, config.kv_width(), config.mlp);
        match self {
            Self::Q(_) | Self::O(_) => (width, width),
            Self::K(_) | Self::V(_) => (kv, width),
            Self::Gate(_) | Self::Up(_) => (mlp, width),
            Self::Down(_) => (width, mlp),
            Self::Head => (config.vocab, width),
        }
    }
}

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

    /// Path of a linear module.
    pub(crate) fn path(&self, part: Part) -> String {
        match part {
            Part::Q(layer) => self.module(layer, self.q),
            Part::K(layer) => self.module(layer, self.k),
            Part::V(layer) => self.module(layer, self.v),
            Part::O(layer) => self.module(layer, self.o),
            Part::Gate(layer) => self.module(layer, self.gate),
            Part::Up(layer) => self.module(layer, self.up),
            Part::Down(layer) => self.module(layer, self.down),
            Part::Head => self.head.to_owned(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_its_own_number_and_path() {
        for names in [&LLADA, &DREAM] {
            let all: Vec<Part> = Part::all(3).collect();
            assert!(all.iter().enumerate().all(|(at, part)| part.index() == at));
            let paths: std::collections::HashSet<String> = all.iter().map(|part| names.path(*part)).collect();
            assert_eq!(paths.len(), 22);
        }
    }
}
