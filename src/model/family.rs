//! The published architectures, and all in which they differ but the names of their tensors (`super::names`) and what they
//! write into `config.json` (`super::config`).

/// Which published architecture a checkpoint follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// LLaDA.
    Llada,
    /// Dream: Qwen2's layers.
    Dream,
}

impl Family {
    /// Those that are known.
    const ALL: [Self; 2] = [Self::Llada, Self::Dream];

    /// What `model_type` of `config.json` and `general.architecture` of a GGUF file call it, in lower case.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Llada => "llada",
            Self::Dream => "dream",
        }
    }

    /// The family with this key.
    pub(super) fn keyed(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.key() == key)
    }

    /// All keys, for a sentence.
    pub(super) fn keys() -> String {
        Self::ALL.map(Self::key).join(" and ")
    }

    /// What its makers call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Llada => "LLaDA",
            Self::Dream => "Dream",
        }
    }

    /// Whether the head's output at position j predicts position j + 1.
    pub fn shifted(self) -> bool {
        match self {
            Self::Llada => false,
            Self::Dream => true,
        }
    }

    /// Whether q, k and v have biases.
    pub fn qkv_bias(self) -> bool {
        match self {
            Self::Llada => false,
            Self::Dream => true,
        }
    }

    /// Whether llama.cpp interleaves the rows of queries and keys, for a rotation of its own.
    pub(super) fn interleaved_in_gguf(self) -> bool {
        match self {
            Self::Llada => true,
            Self::Dream => false,
        }
    }
}
